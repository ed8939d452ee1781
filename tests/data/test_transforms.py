"""Image, text and audio: decoding against other libraries, limits, bad files, batches."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
import soxr
import torch
from PIL import Image, ImageOps
from torchvision import transforms as tv

from mmfm.data.tokenizer import load_tokenizer
from mmfm.data.transforms import audio, image, text
from mmfm.data.transforms.base import BadSample, Transform
from tests.data.make_shards import encoded, encoded_sound, png

RNG = np.random.default_rng(0)
SPEC = {"size": 16, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic"}


def eval_image(content: bytes, ending: str = "png", size: int = 16) -> np.ndarray:
    transform = image.Config().build(SPEC | {"size": size})
    return np.asarray(transform.decode({ending: content}, {}, RNG, False))


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng(5).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze())


def reason_of(transform: Transform, files: dict[str, bytes], meta: Any = None) -> str:
    with pytest.raises(BadSample) as caught:
        transform.decode(files, meta or {}, RNG, False)
    return caught.value.reason


@pytest.mark.parametrize("size", [(16, 16), (33, 57), (100, 41), (9, 7), (64, 64), (31, 200)])
@pytest.mark.parametrize("kind", ["bicubic", "bilinear"])
def test_evaluation_equals_torchvision(size: tuple[int, int], kind: str) -> None:
    picture = noise(*size)
    reference = tv.Compose(
        [
            tv.Resize(16, interpolation=tv.InterpolationMode(kind)),
            tv.CenterCrop(16),
            tv.ToTensor(),
            tv.Normalize(SPEC["mean"], SPEC["std"]),
        ]
    )
    transform = image.Config().build(SPEC | {"interpolation": kind})
    item = transform.decode({"png": encoded(picture)}, {}, RNG, False)
    batch = transform.collate([item])["image"]
    assert batch.shape == (1, 3, 16, 16)
    assert batch.is_contiguous()
    # Pillow rounds to levels between its two passes, whose order may differ when only a box of the
    # picture is resized: a level (1/255, over std) up or down, here and there.
    difference = (batch[0] - reference(picture)).abs()
    assert difference.max() <= 1 / 255 / 0.2 + 1e-5
    assert (difference > 1e-5).float().mean() < 0.25
    if size[0] == size[1]:
        assert difference.max() < 1e-5


def test_transparent_pictures_lie_on_white() -> None:
    # Half transparent black is grey; fully transparent red, whose colour must not show, is white.
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:8] = (0, 0, 0, 128)
    pixels[8:] = (255, 0, 0, 0)
    got = eval_image(encoded(Image.fromarray(pixels)))
    assert np.abs(got[:6].astype(int) - 127).max() <= 1
    assert (got[10:] == 255).all()


def test_palette_and_grey_transparency_lie_on_white() -> None:
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    assert (eval_image(encoded(palette, transparency=0)) == 255).all()
    assert (eval_image(encoded(palette)) == (255, 0, 0)).all()
    grey = Image.new("LA", (16, 16), (0, 0))
    assert (eval_image(encoded(grey)) == 255).all()


def test_grey_and_16_bit_pictures() -> None:
    assert (eval_image(encoded(Image.new("L", (16, 16), 77))) == 77).all()
    deep = Image.fromarray(np.full((16, 16), 77 * 257, np.uint16))
    assert (eval_image(encoded(deep)) == 77).all()


def test_exif_orientation_is_followed() -> None:
    picture = noise(40, 24).resize((160, 96), Image.Resampling.NEAREST)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(picture, "PNG", exif=exif)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        assert (eval_image(content) == eval_image(encoded(upright))).all(), orientation


def test_large_jpegs_are_read_reduced_and_stay_close() -> None:
    y, x = np.mgrid[0:600, 0:900]
    smooth = np.stack([x * 255 // 900, y * 255 // 600, (x + y) * 255 // 1500], axis=-1)
    picture = Image.fromarray(smooth.astype(np.uint8))
    for exif_value in (1, 6):
        exif = Image.Exif()
        exif[0x0112] = exif_value
        jpeg = eval_image(encoded(picture, "JPEG", quality=95, exif=exif), "jpg")
        lossless = eval_image(encoded(picture, "PNG", exif=exif))
        assert np.abs(jpeg.astype(int) - lossless).max() <= 4


PHOTOS = Path(sklearn.datasets.__file__).parent / "images"


def difference(content: bytes, size: int, train: bool) -> float:
    """Mean difference between a JPEG that is read reduced and one that is read whole, of 255."""
    reduced, whole = (
        image.Config(reduced_jpegs=reduced).build(SPEC | {"size": size})
        for reduced in (True, False)
    )
    one, other = (t.decode_content(content, RNG, train).astype(int) for t in (reduced, whole))
    return float(np.abs(one - other).mean())


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_reduced_photographs_stay_close_to_whole_ones(name: str) -> None:
    """As the docstring of the module says; 640 x 427 is a multiple of no reduction."""
    content = (PHOTOS / name).read_bytes()
    for size in (112, 160):
        assert 0 < difference(content, size, train=True) < 2.5
        assert difference(content, size, train=False) == 0  # 427 < 2 * 2 * 112
    for size in (50, 100):
        assert 0 < difference(content, size, train=False) < 0.9
    assert difference(content, 224, train=True) == 0


def test_a_reduced_jpeg_stays_in_its_place_however_it_is_turned() -> None:
    # Odd sizes: the last row and column of the reduced picture are less than one.
    picture = Image.open(PHOTOS / "china.jpg").crop((100, 100, 237, 233))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(picture, "JPEG", quality=95, exif=exif)
        assert 0 < difference(content, 30, train=False) < 1.5, orientation


def test_512_pixels_are_read_at_256_for_224_in_training_only() -> None:
    content = encoded(Image.open(PHOTOS / "china.jpg").resize((512, 512)), "JPEG", quality=90)
    transform = image.Config().build(SPEC | {"size": 224})
    seen = []

    real = Image.Image.resize

    def resize(self: Image.Image, *arguments: Any) -> Image.Image:
        seen.append(self.size)
        return real(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", resize)
        for train in (True, False):
            transform.decode_content(content, RNG, train)
    assert seen == [(256, 256), (512, 512)]


def test_webp_and_animated_pictures_are_read() -> None:
    assert eval_image(encoded(noise(20, 20), "WEBP"), "webp").shape == (16, 16, 3)
    frames = [Image.new("RGB", (16, 16), c) for c in ("red", "blue")]
    moving = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert (eval_image(moving, "webp") == (255, 0, 0)).all()  # the first


def test_crops_and_flips_depend_on_the_generator_only() -> None:
    config = image.Config(crop_scale=(0.2, 1.0), flip=0.5)
    transform = config.build(SPEC)
    assert transform.augments
    assert not image.Config().build(SPEC).augments
    files = {"png": encoded(noise(50, 40))}
    one, two, other = (
        transform.decode(files, {}, np.random.default_rng(seed), True) for seed in (1, 1, 2)
    )
    assert (one == two).all()
    assert (one != other).any()
    plain = transform.decode(files, {}, np.random.default_rng(1), False)
    assert (plain == eval_image(files["png"])).all()


def test_a_flip_mirrors() -> None:
    transform = image.Config(flip=1.0).build(SPEC)
    files = {"png": encoded(noise(16, 16))}
    mirrored = transform.decode(files, {}, np.random.default_rng(0), True)
    assert (mirrored == eval_image(files["png"])[:, ::-1]).all()


@pytest.mark.parametrize("size", [(50, 40), (200, 10), (10, 200), (1, 1)])
def test_crops_lie_inside_and_follow_scale_and_ratio(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        left, top, right, bottom = image._random_box(*size, (0.25, 0.5), (0.75, 4 / 3), rng)
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        if size == (50, 40):
            assert 0.2 < (right - left) * (bottom - top) / 2000 < 0.55
            assert 0.7 < (right - left) / (bottom - top) < 1.4


def test_bad_pictures_have_a_reason() -> None:
    transform = image.Config(max_pixels=1000, max_bytes=5000).build(SPEC)
    assert reason_of(transform, {}) == "image missing"
    assert reason_of(transform, {"png": b""}) == "empty image file"
    assert reason_of(transform, {"png": b"x" * 6000}) == "image file too large"
    assert reason_of(transform, {"png": encoded(noise(40, 26))}) == "image has too many pixels"
    assert reason_of(transform, {"png": b"GIF89a..."}) == "image unreadable"
    assert reason_of(transform, {"png": png(1)[:-30]}) == "image unreadable"
    assert (
        reason_of(transform, {"jpg": encoded(noise(20, 20), "JPEG")[:-200]}) == "image unreadable"
    )


def test_a_flipped_bit_in_a_png_is_found() -> None:
    content = bytearray(png(1))
    content[content.index(b"IDAT") + 20] ^= 1
    assert reason_of(image.Config().build(SPEC), {"png": bytes(content)}) == "image unreadable"


def test_a_decompression_bomb_is_not_unpacked() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    bomb += chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    reason = reason_of(image.Config().build(SPEC), {"png": bomb})
    assert reason in ("image has too many pixels", "image unreadable")


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="crop_scale"):
        image.Config(crop_scale=(0.5, 0.2))
    with pytest.raises(ValueError, match="flip"):
        image.Config(flip=1.5)
    with pytest.raises(ValueError, match="lacks 'size'"):
        image.Config().build({})
    with pytest.raises(ValueError, match="interpolation 'nearest'"):
        image.Config().build({"size": 4, "interpolation": "nearest"})


def tone(rate: int, seconds: float, channels: int = 1) -> np.ndarray:
    time = np.arange(int(rate * seconds)) / rate
    wave = 0.5 * np.sin(2 * np.pi * 440 * time).astype(np.float32)
    return np.stack([wave] * channels, axis=1).squeeze()


def make_audio(rate: int = 16000, samples: int = 16000, **settings: Any) -> audio.AudioTransform:
    return audio.Config(**settings).build({"sample_rate": rate, "max_samples": samples})


def test_audio_at_its_own_rate_is_unchanged() -> None:
    wave = tone(16000, 0.5)
    content = encoded_sound(wave, 16000, "WAV", subtype="FLOAT")
    assert (make_audio().decode({"wav": content}, {}, RNG, False) == wave).all()


def test_channels_are_averaged_and_rates_changed() -> None:
    stereo = tone(44100, 0.5, 2)
    stereo[:, 1] *= 0.5
    content = encoded_sound(stereo, 44100, "WAV", subtype="FLOAT")
    got = make_audio().decode({"wav": content}, {}, RNG, False)
    expected = soxr.resample(stereo.mean(axis=1), 44100, 16000)
    assert got.dtype == np.float32
    assert abs(len(got) - 8000) <= 1
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert np.abs(got[500:-500]).max() == pytest.approx(0.375, abs=2e-3)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_only_what_is_needed_is_read(rate: int) -> None:
    long = encoded_sound(tone(rate, 8.0), rate)
    got = make_audio().decode({"flac": long}, {}, RNG, False)
    assert len(got) == 16000
    whole = soxr.resample(tone(rate, 8.0), rate, 16000) if rate != 16000 else tone(rate, 8.0)
    np.testing.assert_allclose(got, whole[:16000], atol=1e-3)


def test_random_crops_come_from_anywhere() -> None:
    ramp = np.linspace(0.1, 0.9, 64000, dtype=np.float32)
    files = {"wav": encoded_sound(ramp, 16000, "WAV", subtype="FLOAT")}
    transform = make_audio(random_crop=True)
    starts = [
        transform.decode(files, {}, np.random.default_rng(seed), True)[0] for seed in range(50)
    ]
    assert min(starts) < 0.2
    assert max(starts) > 0.6
    assert transform.decode(files, {}, RNG, False)[0] == ramp[0]
    assert all(
        len(transform.decode(files, {}, np.random.default_rng(s), True)) == 16000 for s in range(9)
    )


def test_crops_avoid_silent_stretches() -> None:
    wave = np.zeros(64000, np.float32)
    wave[40000:] = tone(16000, 1.5)
    files = {"wav": encoded_sound(wave, 16000, "WAV", subtype="FLOAT")}
    transform = make_audio(random_crop=True)
    for seed in range(20):
        assert np.abs(transform.decode(files, {}, np.random.default_rng(seed), True)).max() > 0.1


def test_gain_scales_the_clip() -> None:
    files = {"wav": encoded_sound(tone(16000, 0.2), 16000, "WAV", subtype="FLOAT")}
    plain = make_audio().decode(files, {}, RNG, False)
    transform = make_audio(gain_db=6.0)
    for seed in range(5):
        ratio = transform.decode(files, {}, np.random.default_rng(seed), True)[100] / plain[100]
        assert 10 ** (-6 / 20) <= ratio <= 10 ** (6 / 20)
    assert (transform.decode(files, {}, RNG, False) == plain).all()


def test_audio_batches_are_padded_to_100_ms() -> None:
    transform = make_audio(16000, 16000)
    batch = transform.collate([np.ones(n, np.float32) for n in (1700, 3300, 10)])
    assert batch["audio"].shape == batch["audio_mask"].shape == (3, 4800)
    assert batch["audio_mask"].sum(dim=1).tolist() == [1700, 3300, 10]
    assert (batch["audio"] == batch["audio_mask"].float()).all()
    short = make_audio(16000, 2000).collate([np.ones(1900, np.float32)])
    assert short["audio"].shape == (1, 2000)  # not beyond what the encoder takes


def test_bad_sounds_have_a_reason() -> None:
    transform = make_audio(max_seconds=2.0)
    silent = encoded_sound(np.zeros(8000, np.float32), 16000)
    nan = tone(16000, 0.1)
    nan[7] = np.nan
    assert reason_of(transform, {}) == "audio missing"
    assert reason_of(transform, {"flac": silent}) == "audio silent"
    not_finite = encoded_sound(nan, 16000, "WAV", subtype="FLOAT")
    assert reason_of(transform, {"wav": not_finite}) == "audio not finite"
    empty = encoded_sound(np.zeros(0, np.float32), 16000, "WAV")
    assert reason_of(transform, {"wav": empty}) == "audio empty"
    assert (
        reason_of(transform, {"flac": encoded_sound(tone(16000, 2.1), 16000)}) == "audio too long"
    )
    assert reason_of(transform, {"ogg": b"OggS" + bytes(200)}) == "audio unreadable"
    broken = encoded_sound(tone(16000, 0.5), 16000)
    assert reason_of(transform, {"flac": broken[:60]}) in ("audio unreadable", "audio empty")
    strange = encoded_sound(tone(500, 0.5), 500, "WAV")
    assert reason_of(transform, {"wav": strange}) == "audio has an unusable format"


@pytest.fixture(scope="module")
def text_spec(specs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return specs["text"]


def test_text_is_encoded_and_padded(text_spec: dict[str, Any]) -> None:
    transform = text.Config().build(text_spec)
    tokenizer = load_tokenizer(text_spec["tokenizer"])
    items = [transform.decode({}, {"texts": [t]}, RNG, False) for t in ("a red thing", "red")]
    assert items[0].tolist() == tokenizer.encode("a red thing")
    batch = transform.collate(items)
    assert batch["text"].dtype == torch.int64
    assert batch["text_mask"].sum(dim=1).tolist() == [len(i) for i in items]
    assert batch["text"].shape == (2, len(items[0]))  # no longer than the longest
    assert (batch["text"][~batch["text_mask"]] == tokenizer.pad_id).all()
    long = transform.decode({}, {"texts": ["red " * 50]}, RNG, False)
    assert len(long) == text_spec["max_length"]


def test_texts_of_every_form(text_spec: dict[str, Any]) -> None:
    transform = text.Config().build(text_spec)

    def contents(meta: dict[str, Any], files: dict[str, bytes] | None = None) -> list[str]:
        return [c.decode() for c in transform.contents(files or {}, meta)]

    assert contents({"texts": ["a", " ", "b "]}) == ["a", "b"]
    assert contents({"texts": "one"}) == ["one"]
    assert contents({"texts": {"en": ["a", "b"], "de": "c"}}) == ["a", "b", "c"]
    assert contents({}, {"txt": "né\n".encode()}) == ["né"]
    assert contents({"texts": ["e\u0301"]}) == ["\u00e9"]  # NFC
    german = text.Config(languages=["de", "fr"]).build(text_spec)
    meta = {"texts": {"en": ["a"], "de": ["b", "c"]}}
    assert german.contents({}, meta) == [b"b", b"c"]
    assert reason_of(german, {}, {"texts": {"en": ["a"]}}) == "text missing"


def test_which_text_is_used(text_spec: dict[str, Any]) -> None:
    meta = {"texts": ["a", "b", "c"]}

    def chosen(caption: Any, train: bool) -> set[bytes]:
        transform = text.Config(caption=caption).build(text_spec)
        return {transform.choose({}, meta, np.random.default_rng(s), train) for s in range(30)}

    assert chosen("random", True) == {b"a", b"b", b"c"}
    assert chosen("random", False) == chosen("first", True) == {b"a"}
    assert chosen("first_of_language", True) == {b"a"}
    meta = {"texts": {"en": ["a", "b"], "de": "c", "fr": ["d", "e"]}}
    assert chosen("first_of_language", True) == {b"a", b"c", b"d"}
    assert chosen("first_of_language", False) == {b"a"}
    names = text.Config(caption="first_of_language", languages=["fr", "en"]).build(text_spec)
    assert names.contents({}, meta) == [b"d", b"a"]  # all that training may draw, no more


def test_bad_texts_have_a_reason(text_spec: dict[str, Any]) -> None:
    transform = text.Config(max_characters=100).build(text_spec)
    assert reason_of(transform, {}) == "text missing"
    assert reason_of(transform, {}, {"texts": []}) == "text missing"
    assert reason_of(transform, {}, {"texts": ["", "\n"]}) == "text empty"
    assert reason_of(transform, {}, {"texts": [3]}) == "text not a string"
    assert reason_of(transform, {}, {"texts": {"en": None}}) == "text not a string"
    assert reason_of(transform, {}, {"texts": ["x" * 101]}) == "text too long"
    assert reason_of(transform, {"txt": b"\xff\xfe"}) == "text not in UTF-8"
    half = json.loads('"\\ud800"')
    assert reason_of(transform, {}, {"texts": [half]}) == "text not in UTF-8"


def test_a_tokenizer_with_more_tokens_than_the_encoder_is_refused(
    text_spec: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="but the text encoder only 100"):
        text.Config().build(text_spec | {"vocab_size": 100})
    with pytest.raises(ValueError, match="no tokenizer"):
        text.Config().build(text_spec | {"tokenizer": str(tmp_path)})


def test_contents_of_what_callers_give(tmp_path: Path, specs: dict[str, dict[str, Any]]) -> None:
    transform = image.Config().build(SPEC)
    content = encoded(noise(30, 20, 4))
    path = tmp_path / "a.png"
    path.write_bytes(content)
    picture = Image.open(path)
    for item in (content, path, str(path), picture, np.asarray(picture)):
        got = transform.decode_content(transform.content_of(item), RNG, False)
        assert (got == eval_image(content)).all()
    sounds = make_audio()
    wave = tone(16000, 0.3)
    for given in (wave, torch.from_numpy(wave)):
        assert (sounds.decode_content(sounds.content_of(given), RNG, False) == wave).all()
    words = text.Config().build(specs["text"])
    assert words.content_of(" e\u0301 ") == "\u00e9".encode()
    for other, item in ((transform, wave), (sounds, np.ones((2, 3))), (words, 3)):
        with pytest.raises(ValueError, match="must be"):
            other.content_of(item)
    with pytest.raises(ValueError, match="can't be read"):
        transform.content_of("nowhere.png")
