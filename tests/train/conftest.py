"""A process group of one process for tests that start an engine themselves, and the launches that
several files of tests look at.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmfm.train.engine import end_process_group, start_process_group
from tests import tiny
from tests.launch import deepspeed


@pytest.fixture(scope="module")
def group():
    before = dict(os.environ)
    start_process_group()
    yield
    end_process_group()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def exact_tokenizer(tmp_path_factory) -> str:
    return tiny.make_tokenizer(tmp_path_factory.mktemp("exactness") / "tokenizer")


@pytest.fixture(scope="session", params=[1, 2], ids=["1rank", "2ranks"])
def exact_results(request, exact_tokenizer, tmp_path_factory) -> Path:
    """What tests/train/exactness_worker.py wrote on one and on two ranks."""
    out = tmp_path_factory.mktemp(f"ranks{request.param}")
    deepspeed(request.param, "tests.train.exactness_worker", exact_tokenizer, str(out))
    return out
