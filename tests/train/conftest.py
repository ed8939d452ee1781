"""A process group of one process for tests that start an engine themselves, and the launches that
several files of tests look at.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from mmfm.train.engine import end_process_group, start_process_group
from tests import tiny
from tests.launch import deepspeed
from tests.objectives import teachers
from tests.train.exactness import Plain
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
    folder = tmp_path_factory.mktemp("exactness")
    tokenizer = tiny.make_tokenizer(folder / "tokenizer")
    recipe = teachers.settings(tokenizer, width=24)
    return Plain(tokenizer, teachers.write(folder / "teacher", recipe))


@pytest.fixture(scope="session")
def trained(plain: Plain, tmp_path_factory) -> Callable[[int], Path]:
    """A number of ranks ▶ the folder of what exactness_worker.py wrote on them."""

    @cache
    def run(ranks: int) -> Path:
        out: Path = tmp_path_factory.mktemp(f"ranks{ranks}")
        cases = out / "cases.json"
        cases.write_text(json.dumps([dataclasses.asdict(case) for case in SOME[ranks]]))
        worker = "tests.train.exactness_worker"
        given = ("thaw", plain.tokenizer, plain.teacher, str(cases), str(out))
        deepspeed(ranks, worker, *given, timeout=900)
        return out

    return run


@pytest.fixture(scope="session", params=[1, 2], ids=["1rank", "2ranks"])
def exact_results(request, trained: Callable[[int], Path]) -> Path:
    return trained(request.param)


@pytest.fixture(scope="session")
def exact_tokenizer(plain: Plain) -> str:
    return plain.tokenizer
