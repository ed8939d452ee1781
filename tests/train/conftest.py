"""A process group of one process for tests that start an engine themselves, and the launches that
several files of tests look at.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from mmfm.train.engine import end_process_group, start_process_group
from tests.once import once
from tests.train.exactness import Plain, train
from tests.train.exactness_worker import SOME


@pytest.fixture(scope="module")
def group():
    before = dict(os.environ)
    start_process_group()
    yield
    end_process_group()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> Plain:
    """The tokenizer and the teacher of the launches of exactness_worker.py."""

    def make(folder: Path) -> None:
        (folder / "plain.json").write_text(json.dumps(asdict(Plain.make(folder))))

    return Plain(
        **json.loads((once(tmp_path_factory, "exactness", make) / "plain.json").read_text())
    )


@pytest.fixture(scope="session")
def trained(plain: Plain, tmp_path_factory) -> Callable[[int], Path]:
    """A number of ranks ▶ the folder of what exactness_worker.py wrote on them."""

    def run(ranks: int) -> Path:
        return once(
            tmp_path_factory,
            f"ranks{ranks}",
            lambda out: train(ranks, SOME[ranks], plain, out, "thaw"),
        )

    return run


@pytest.fixture(scope="session", params=[1, 2], ids=["1rank", "2ranks"])
def exact_results(request, trained: Callable[[int], Path]) -> Path:
    return trained(request.param)


@pytest.fixture(scope="session")
def exact_tokenizer(plain: Plain) -> str:
    return plain.tokenizer
