"""A loss that jumps and a temperature at its limit are told once, when they begin."""

from __future__ import annotations

import pytest
from torch import nn

from mmfm.objectives.base.pairs import LogitScale
from mmfm.train.health.alarms import AlarmConfig, Alarms


def task(maximum: float = 100.0, learn: bool = True) -> nn.Module:
    objective = nn.Module()
    objective.logit_scale = LogitScale(0.07, maximum, learn)
    root = nn.Module()
    root.objectives = nn.ModuleDict({"contrastive": objective})
    root.whole_weights = {"contrastive": 2.0, "caption": 0.5}
    return root


def looked(alarms: Alarms, losses: list[float], scale: float = 14.0) -> list[list[str]]:
    scalars = {"contrastive/logit_scale": scale}
    found = [alarms.look({"contrastive/a_b": loss / 2}, scalars) for loss in losses]
    return [[alarm.kind for alarm in step] for step in found]


NOISY = [2.0 + 0.1 * (-1) ** i for i in range(30)]


def test_a_spike_is_told_once() -> None:
    alarms = Alarms(AlarmConfig(), task())
    assert not any(looked(alarms, NOISY))
    assert looked(alarms, [2.4, 4.0, 9.0, 2.0]) == [[], ["loss_spike"], [], []]
    assert looked(alarms, [20.0]) == [["loss_spike"]]


def test_early_losses_and_falling_ones_are_no_spikes() -> None:
    alarms = Alarms(AlarmConfig(), task())
    assert not any(looked(alarms, [2.0] * 19 + [0.5]))
    assert looked(alarms, [9.0]) == [["loss_spike"]]
    early = Alarms(AlarmConfig(), task())
    assert not any(looked(early, [2.0] * 19 + [9.0]))


def test_a_loss_that_hardly_varies_may_move_a_little() -> None:
    alarms = Alarms(AlarmConfig(spike_sigmas=6), task())
    assert not any(looked(alarms, [2.0] * 30 + [2.1]))
    assert looked(alarms, [2.2]) == [["loss_spike"]]


def test_the_window_forgets() -> None:
    alarms = Alarms(AlarmConfig(spike_window=20), task())
    looked(alarms, [2.0] * 20)
    looked(alarms, [50.0] * 20)
    assert not any(looked(alarms, [51.0]))


def test_the_loss_is_that_of_the_whole_weights() -> None:
    alarms = Alarms(AlarmConfig(), task())
    for loss in NOISY:
        assert not alarms.look({"contrastive/a_b": loss, "caption/text": 4.0}, {})
    (alarm,) = alarms.look({"contrastive/a_b": 9.0, "caption/text": 4.0}, {})
    assert alarm.text.startswith("the loss jumps to 20; it was 6 ± ")


def test_sigmas_of_zero_say_nothing() -> None:
    assert not any(looked(Alarms(AlarmConfig(spike_sigmas=0), task()), [2.0] * 30 + [900.0]))


@pytest.mark.parametrize(
    ("scale", "kind"),
    [(14.0, []), (99.0, []), (99.95, ["logit_scale_at_limit"]), (0.9, ["logit_scale_collapses"])],
)
def test_temperatures(scale: float, kind: list[str]) -> None:
    alarms = Alarms(AlarmConfig(), task())
    assert looked(alarms, [2.0, 2.0], scale) == [kind, []]
    looked(alarms, [2.0], 14.0)
    assert looked(alarms, [2.0], scale) == [kind]


def test_a_temperature_that_isn_t_learned_raises_no_alarm() -> None:
    assert not any(looked(Alarms(AlarmConfig(), task(learn=False)), [2.0], 100.0))


def test_a_step_without_the_objective_raises_none() -> None:
    assert Alarms(AlarmConfig(), task()).look({"caption/caption_text": 1.0}, {}) == []
