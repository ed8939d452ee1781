"""Pictures by size, and those that look alike."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from mmfm_prep.filters import Unwanted
from mmfm_prep.filters.image import ImageFilter, NearImages, signature
from tests.prep.filters.near import add


def drawing(seed: int) -> Image.Image:
    """Smooth shapes, which survive resizing."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (7, 7, 3), dtype=np.uint8))
    return small.resize((160, 120), Image.Resampling.BICUBIC)


def recompressed(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=30)
    return Image.open(file)


@pytest.mark.parametrize(
    ("settings", "size", "reason"),
    [
        ({"min_side": 64}, (64, 63), "smaller than 64"),
        ({"max_pixels": 100}, (101, 1), "more than 100"),
        ({"max_aspect": 2.5}, (10, 26), "2.5 times"),
        ({"max_aspect": 1}, (11, 10), "1 times"),
    ],
)
def test_sizes(settings: dict, size: tuple[int, int], reason: str) -> None:
    with pytest.raises(Unwanted, match=reason):
        ImageFilter(**settings).check(size)


def test_what_is_at_the_limit_stays() -> None:
    ImageFilter(min_side=64, max_pixels=64 * 128, max_aspect=2).check((128, 64))
    ImageFilter().check((1, 9999))


@pytest.mark.parametrize("name", ["min_side", "max_pixels", "max_aspect"])
def test_refused_settings(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        ImageFilter(**{name: 0})


def test_changed_copies_are_near_and_others_are_not() -> None:
    originals = [drawing(seed) for seed in range(60)]
    near = NearImages(6)
    for number, picture in enumerate(originals):
        assert add(near, number, signature(picture)) is None
    for number, picture in enumerate(originals):
        for copy in (recompressed(picture), picture.resize((80, 60))):
            assert add(near, 1000, signature(copy)) == number


def test_plain_pictures_have_no_signature() -> None:
    assert signature(Image.new("RGB", (50, 50), (200, 10, 10))) is None


@pytest.mark.parametrize("distance", [0, 1, 4, 10, 16])
def test_the_first_within_the_distance_is_found(distance: int) -> None:
    """As by comparing with all."""
    rng = np.random.default_rng(distance)
    kinds = rng.integers(0, 2, (8, 64), dtype=np.uint8)
    near, kept = NearImages(distance), []
    found = 0
    for number, kind in enumerate(itertools.islice(itertools.cycle(kinds), 400)):
        bits = kind.copy()
        bits[rng.choice(64, rng.integers(0, distance + 4), replace=False)] ^= 1
        expected = next((n for n, b in kept if (b != bits).sum() <= distance), None)
        assert add(near, number, np.packbits(bits).tobytes()) == expected
        if expected is None:
            kept.append((number, bits))
        found += expected is not None
    assert found > 50


def test_a_distance_is_some_bits() -> None:
    with pytest.raises(ValueError, match="0 to 16"):
        NearImages(17)
