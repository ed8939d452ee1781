"""Which rank is behind, from where each one stands; a run that moves on is left alone."""

from __future__ import annotations

import time
from pathlib import Path

from mmfm import distributed
from mmfm.train.health.watchdog import Watchdog, compare, where_it_stands

LOOP = "mmfm/train/steps.py:50 in run"


def stands(step: int, begun: int, collective: str | None) -> dict[str, object]:
    return {"step": step, "begun": begun, "collective": collective, "line": LOOP}


def test_a_rank_that_has_not_reached_the_collective() -> None:
    found = {0: stands(3, 9, "all_reduce_sum"), 1: stands(3, 8, None)}
    assert compare(found, 2) == (
        f"rank 1 has not reached all_reduce_sum, it is at {LOOP}; "
        f"rank 0 waits in all_reduce_sum at {LOOP}"
    )


def test_a_collective_of_deepspeed_isn_t_counted_but_seen() -> None:
    found = {0: stands(3, 9, None), 1: stands(3, 9, "reduce_scatter_tensor")}
    assert compare(found, 2).startswith("rank 0 has not reached reduce_scatter_tensor")


def test_a_rank_without_a_word() -> None:
    found = {0: stands(3, 9, "barrier"), 2: stands(3, 9, "barrier")}
    assert compare(found, 3).startswith("no word from rank 1; rank 0 waits in barrier")


def test_ranks_in_different_collectives_of_the_same_count() -> None:
    found = {0: stands(3, 9, None), 1: stands(3, 9, None)}
    assert compare(found, 2) == f"rank 0 is at {LOOP}; rank 1 is at {LOOP}"


def test_a_place_is_counted_and_named() -> None:
    before = distributed.place.begun
    distributed.barrier()
    distributed.all_gather_object(1)
    assert distributed.place.begun == before + 2
    assert distributed.place.name is None
    here = where_it_stands(4)
    assert (here["step"], here["begun"], here["collective"]) == (4, before + 2, None)


def test_a_stall_that_ends_is_told_and_over(tmp_path: Path, capfd) -> None:
    with Watchdog(tmp_path, stall_s=0.4) as watchdog:
        deadline = time.monotonic() + 5
        while not (tmp_path / "stall-rank0.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        watchdog.step = 1
        while (tmp_path / "stall-rank0.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    said = capfd.readouterr().err
    assert "step 1 stands still for 0.4 s: rank 0 is at outside mmfm" in said
    assert "rank 0: moves on" in said
    assert "test_watchdog.py" in (tmp_path / "stall-rank0.txt").read_text()


def test_steps_collectives_and_work_are_progress(tmp_path: Path, capfd) -> None:
    with Watchdog(tmp_path, stall_s=0.5) as watchdog:
        for step in range(10):
            time.sleep(0.05)
            watchdog.step = step
        for _ in range(10):
            time.sleep(0.05)
            distributed.barrier()
        for _ in range(10):
            time.sleep(0.05)
            distributed.place.work += 1
    assert capfd.readouterr().err == ""
    assert not list(tmp_path.iterdir())


def test_no_watchdog(tmp_path: Path) -> None:
    with Watchdog(tmp_path, stall_s=0):
        time.sleep(0.1)
    assert not list(tmp_path.iterdir())
