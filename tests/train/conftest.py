"""A process group of one process for tests that start an engine themselves."""

from __future__ import annotations

import os

import pytest

from mmfm.train.engine import end_process_group, start_process_group


@pytest.fixture(scope="module")
def group():
    before = dict(os.environ)
    start_process_group()
    yield
    end_process_group()
    os.environ.clear()
    os.environ.update(before)
