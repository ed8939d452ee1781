"""Training is what it was: the losses of 20 steps of two recipes, as `record.py` wrote them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmfm.train.engine import end_process_group
from tests.golden.record import FOLDER, RECIPES, STEPS, losses


@pytest.mark.parametrize("name", RECIPES)
def test_losses_are_those_recorded(name: str, synthetic: Path, tmp_path: Path) -> None:
    """Sums of floats depend a little on the kind of processor, and AdamW carries that on: 1e-6 in
    the first step, 1e-4 after 20.
    """
    want = json.loads((FOLDER / f"{name}.json").read_text())
    got = losses(name, synthetic, tmp_path / "run")
    assert len(got) == len(want) == STEPS
    for step, (mine, recorded) in enumerate(zip(got, want, strict=True)):
        assert mine.pop("batch_hash") == recorded.pop("batch_hash"), step
        tolerance = 1e-6 if step == 0 else 1e-4
        assert mine == pytest.approx(recorded, rel=tolerance), step
    end_process_group()
