"""What a run that is asked to stop says; the rest of the steps is in test_pretrain.py and
test_resume.py.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mmfm.train.steps import Steps


@pytest.mark.parametrize(
    ("resume", "how"),
    [
        ("auto", "the same command goes on"),
        # It would start at that step again.
        ("run/checkpoints/step_00000002", "the same command with run.resume=auto goes on"),
        ("never", "the same command with run.resume=auto goes on"),
    ],
)
def test_a_stop_says_how_to_go_on(resume: str, how: str) -> None:
    said: list[str] = []
    steps = object.__new__(Steps)
    steps.of = SimpleNamespace(recipe=SimpleNamespace(run=SimpleNamespace(resume=resume)))
    steps.trainer = SimpleNamespace(step_index=7)
    steps.saver = SimpleNamespace(save=lambda: said.append("saved"))
    steps.log = SimpleNamespace(event=lambda *_, **__: None, say=said.append)
    steps._stop()
    assert said == ["saved", f"stopped after step 7; {how} from there"]
