"""Random changes of training inputs: drawn from the sample's own generator, none in evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmfm.data.transforms import audio, image
from tests.data.make_shards import encoded, encoded_sound

PIXELS = np.random.default_rng(5).integers(0, 256, (6, 6, 3), dtype=np.uint8)
PICTURE = encoded(Image.fromarray(PIXELS).resize((48, 48), Image.Resampling.BICUBIC))
RATE = 8000
TONE = (0.5 * np.sin(2 * np.pi * 400 * np.arange(3 * RATE) / RATE)).astype(np.float32)
SOUND = encoded_sound(TONE, RATE, "WAV", subtype="FLOAT")

IMAGE_OPTIONS: list[dict[str, Any]] = [
    {"policy": "rand_augment"},
    {"policy": "rand_augment", "rand_augment": (3, 20)},
    {"policy": "trivial_augment"},
    {"colour_jitter": (0.4, 0.4, 0.4, 0.1)},
    {"grey": 0.5},
    {"blur": 0.5},
    {"crop_scale": (0.3, 1.0)},
    {"flip": 0.5},
]
AUDIO_OPTIONS: list[dict[str, Any]] = [
    {"speed": 0.1},
    {"noise_snr_db": (5.0, 20.0)},
    {"random_crop": True},
    {"gain_db": 6.0},
    {"time_masks": (2, 0.2)},
    {"band_masks": (2, 0.2)},
]
EACH_OPTION = [("image", o) for o in IMAGE_OPTIONS] + [("audio", o) for o in AUDIO_OPTIONS]


def make(modality: str, options: dict[str, Any]) -> tuple[Any, bytes]:
    """The transform with `options`, and a content for it."""
    if modality == "image":
        return image.Config(**options).build({"size": 40}), PICTURE
    return audio.Config(**options).build({"sample_rate": RATE, "max_samples": RATE}), SOUND


def changed(modality: str, options: dict[str, Any], seed: int, train: bool = True) -> Any:
    transform, content = make(modality, options)
    return transform.decode_content(content, np.random.default_rng(seed), train)


@pytest.mark.parametrize(("modality", "options"), EACH_OPTION)
def test_each_option_depends_on_the_samples_generator_alone(
    modality: str, options: dict[str, Any]
) -> None:
    plain = changed(modality, {}, 0)
    outputs = []
    for seed in range(12):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        outputs.append(changed(modality, options, seed))
        assert torch.equal(torch.get_rng_state(), before)  # nothing is drawn from it or left in it
        torch.manual_seed(99)
        assert (changed(modality, options, seed) == outputs[-1]).all()
        assert outputs[-1].dtype == plain.dtype
        assert outputs[-1].shape == plain.shape
    assert len({o.tobytes() for o in outputs}) > 1
    assert any((o != plain).any() for o in outputs)


@pytest.mark.parametrize(("modality", "options"), EACH_OPTION)
def test_evaluation_changes_nothing(modality: str, options: dict[str, Any]) -> None:
    plain = changed(modality, {}, 0, train=False)
    for seed in range(5):
        assert (changed(modality, options, seed, train=False) == plain).all()


@pytest.mark.parametrize(("modality", "options"), EACH_OPTION)
def test_augments_tells_whether_anything_is_drawn(modality: str, options: dict[str, Any]) -> None:
    assert make(modality, options)[0].augments
    plain = make(modality, {})[0]
    assert not plain.augments
    assert len({changed(modality, {}, seed).tobytes() for seed in range(3)}) == 1


def test_probabilities_and_settings_that_are_off_change_nothing() -> None:
    off = {"rand_augment": (3, 20), "jitter": 1.0, "grey": 0.0, "blur": 0.0, "blur_sigma": (3, 4)}
    assert not make("image", off)[0].augments
    assert not make("audio", {"speed": 0.0, "gain_db": 0.0})[0].augments


def test_jitter_is_drawn_with_its_probability() -> None:
    jitter = {"colour_jitter": (0.4, 0.4, 0.4, 0.1)}
    plain = changed("image", {}, 0)

    def share(probability: float) -> float:
        options = {**jitter, "jitter": probability}
        outputs = [changed("image", options, seed) for seed in range(40)]
        return sum(bool((o != plain).any()) for o in outputs) / len(outputs)

    assert share(0.0) == 0
    assert 0.2 < share(0.5) < 0.8
    assert share(1.0) == 1


def test_grey_pictures_have_no_colours_and_a_wider_blur_is_smoother() -> None:
    grey = changed("image", {"grey": 1.0}, 0)
    assert (grey == grey[..., :1]).all()

    def roughness(options: dict[str, Any]) -> float:
        return float(np.abs(np.diff(changed("image", options, 0).astype(int), axis=0)).mean())

    little, much = ({"blur": 1.0, "blur_sigma": (sigma, sigma)} for sigma in (0.5, 2.0))
    assert roughness(much) < roughness(little) < roughness({})


def test_speed_changes_pitch_and_length() -> None:
    short = audio.Config(speed=0.2).build({"sample_rate": RATE, "max_samples": 10 * RATE})
    factors = []
    for seed in range(20):
        wave = short.decode_content(SOUND, np.random.default_rng(seed), True)
        factor = len(TONE) / len(wave)
        pitch = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))).argmax() * RATE / len(wave)
        assert pitch == pytest.approx(400 * factor, abs=1)
        factors.append(factor)
    assert 0.799 < min(factors) < 0.9
    assert 1.1 < max(factors) < 1.201


def test_noise_has_the_ratio_that_was_asked_for() -> None:
    clean = changed("audio", {}, 0)
    ratios = []
    for seed in range(20):
        noise = changed("audio", {"noise_snr_db": (5.0, 20.0)}, seed) - clean
        ratios.append(10 * np.log10((clean**2).sum() / (noise**2).sum()))
    assert 4.9 < min(ratios) < 9
    assert 16 < max(ratios) < 20.1


@pytest.mark.parametrize(
    ("modality", "options", "said"),
    [
        ("image", {"jitter": 1.5}, "jitter = 1.5"),
        ("image", {"grey": -0.1}, "grey = -0.1"),
        ("image", {"blur": 2}, "blur = 2"),
        ("image", {"colour_jitter": (0.1, 0.1, 0.1, 0.6)}, "colour_jitter"),
        ("image", {"colour_jitter": (-0.1, 0.1, 0.1, 0.1)}, "colour_jitter"),
        ("image", {"rand_augment": (0, 9)}, "rand_augment"),
        ("image", {"rand_augment": (2, 31)}, "rand_augment"),
        ("image", {"blur_sigma": (2.0, 1.0)}, "blur_sigma"),
        ("audio", {"speed": 1.0}, "speed = 1.0"),
        ("audio", {"noise_snr_db": (20, 5)}, "noise_snr_db"),
        ("audio", {"time_masks": (-1, 0.1)}, "time_masks"),
        ("audio", {"band_masks": (1, 1.5)}, "band_masks"),
    ],
)
def test_wrong_settings_are_refused(modality: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(modality, options)
