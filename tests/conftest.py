"""What tests of several folders share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmfm_prep.cli import main as data
from tests.launch import ON_CPU
from tests.once import once


def pytest_configure(config: pytest.Config) -> None:
    """The tests are of the CPU, but ``pytest -m gpu``."""
    if config.option.markexpr != "gpu":
        os.environ.update(ON_CPU)


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory) -> Path:
    """A small synthetic set; tests read it and change nothing in it."""
    sizes = ["train_samples=240", "val_samples=80", "samples_per_shard=40"]

    def make(folder: Path) -> None:
        assert data(["make", "synthetic", str(folder / "synthetic"), *sizes]) == 0

    return once(tmp_path_factory, "data", make) / "synthetic"
