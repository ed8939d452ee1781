"""The launches that several files of tests look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny
from tests.launch import deepspeed


@pytest.fixture(scope="session")
def exact_tokenizer(tmp_path_factory) -> str:
    return tiny.make_tokenizer(tmp_path_factory.mktemp("exactness") / "tokenizer")


@pytest.fixture(scope="session", params=[1, 2], ids=["1rank", "2ranks"])
def exact_results(request, exact_tokenizer, tmp_path_factory) -> Path:
    """What tests/train/exactness_worker.py wrote on one and on two ranks."""
    out = tmp_path_factory.mktemp(f"ranks{request.param}")
    deepspeed(request.param, "tests.train.exactness_worker", exact_tokenizer, str(out))
    return out
