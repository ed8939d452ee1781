"""The synthetic voices: reproducible, different, and unknown ones refused."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("espeakng_loader")

from mmfm_prep import sound
from mmfm_prep.errors import PrepError
from mmfm_prep.registries import voices

LINES = [("umbrella", "en-us+f2"), ("cat", "en+m3"), ("cat", "en-us+f2")]


def test_words_are_said_and_said_the_same_again() -> None:
    waves, rate = voices.say_all(LINES)
    time.sleep(1.1)  # the library's own seed is the second
    again, _ = voices.say_all(LINES)
    assert rate == 22050
    for wave, same in zip(waves, again, strict=True):
        np.testing.assert_array_equal(wave, same)
        assert 0.2 < len(sound.trim(wave, rate)) / rate < 1.5
        assert sound.rms(wave) > 0.01
        assert np.abs(wave).max() <= 1
    assert len(waves[0]) > len(waves[2])
    assert len(waves[1]) != len(waves[2])


def test_words_that_sound_the_same() -> None:
    flour, flower, cat = voices.pronounce_all(["flour", "flower", "cat"], "en-us")
    assert flour == flower != cat


@pytest.mark.parametrize("voice", ["en-us+nobody", "xx-yy", ""])
def test_an_unknown_voice_is_refused(voice: str) -> None:
    with pytest.raises(PrepError, match="no voice"):
        voices.say_all([("cat", voice)])


def test_a_long_path_to_the_data_is_behind_a_short_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaker = object.__new__(voices.Speaker)
    speaker._link = None
    data = tmp_path / ("d" * 150) / "espeak-ng-data"
    data.mkdir(parents=True)
    short = Path(speaker._short(str(data)))
    assert len(str(short)) < 120
    assert short.resolve() == data
    speaker.close()
    assert not short.exists()
