"""A tri-modal set and the specs of three small encoders, made once for all data tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.make_shards import make_specs, tri_modal_shards, write_set


@pytest.fixture(scope="session")
def good_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("good"), tri_modal_shards())


@pytest.fixture(scope="session")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return make_specs(tmp_path_factory.mktemp("tokenizer"))
