from __future__ import annotations

import pytest

from tests import tiny


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> str:
    return tiny.make_tokenizer(tmp_path_factory.mktemp("heads") / "tokenizer")
