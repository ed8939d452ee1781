"""Damaged and malicious shards: told clearly, never followed, executed or lost in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data.judging import judge
from tests.data.make_shards import make_specs, write_set
from tests.data.mutations import KINDS, good_samples, mutate

SHARD = "000.tar"


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_specs(tmp_path_factory.mktemp("tokenizer"))


def judged(kind: str, seed: int, listed: bool, specs: dict[str, Any], tmp_path: Path) -> str:
    """What became of the shard; the rest of the disk is as before."""
    folder, trap = tmp_path / "a/b/set", tmp_path / "trap"
    folder.mkdir(parents=True)
    if listed:
        write_set(folder, [good_samples()])
        (folder / SHARD).unlink()
    mutate(kind, seed, folder / SHARD, trap)
    verdict = judge(folder, SHARD, specs, listed)
    assert not verdict.problems, verdict.said
    new = {path.name for path in tmp_path.rglob("*")} - {"a", "b", "set", SHARD}
    assert new <= {f"{SHARD}.idx", "manifest.json"}
    return verdict.outcome


# The bytes of a bomb take seconds to make and to read: benchmarks/mutated_shards.py has them.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "decompression bomb"])
def test_a_plain_shard_is_read_as_far_as_it_is_good(
    kind: str, specs: dict[str, Any], tmp_path: Path
) -> None:
    outcome = judged(kind, 1, False, specs, tmp_path)
    if kind in ("truncated tar", "key twice", "joined", "folder", "pipe as a shard"):
        assert outcome == "refused"
    if kind in ("zero-byte member", "huge picture", "symbolic link", "hard link", "device"):
        assert outcome == "counted"
    assert outcome != "stopped"


@pytest.mark.parametrize("kind", ["bit flips", "zeroed block", "symbolic link", "name in a header"])
def test_a_shard_that_is_not_the_one_of_its_index(
    kind: str, specs: dict[str, Any], tmp_path: Path
) -> None:
    assert judged(kind, 0, True, specs, tmp_path) in ("refused", "counted")
