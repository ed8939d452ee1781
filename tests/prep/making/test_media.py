"""Pictures and sounds on their way into shards: kept, converted, refused."""

from __future__ import annotations

import io
import random
import zlib

import numpy as np
import pyloudnorm
import pytest
import soundfile
from PIL import Image

from mmfm_prep.filters import Unwanted
from mmfm_prep.filters.audio import AudioFilter
from mmfm_prep.filters.image import ImageFilter
from mmfm_prep.making import media
from mmfm_prep.making.media import Processing


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def image(data: bytes, **settings) -> tuple[bytes, str]:
    made = media.image(data, Processing(**settings))
    return made.data, made.ending


def audio(data: bytes, **settings) -> tuple[bytes, str]:
    made = media.audio(data, Processing(**settings))
    return made.data, made.ending


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, len(mode)), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze(), mode)


def clip(samples: np.ndarray, kind: str = "WAV", rate: int = 8000, **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, **options)
    return file.getvalue()


TONE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_broken_exif_data_refuse_one_picture(kind: str) -> None:
    with pytest.raises(ValueError, match="unreadable EXIF"):
        image(encoded(noise(9, 9), kind, exif=b"Exif\0\0garbage"))


@pytest.mark.parametrize(("ending", "side"), [("jpg", 65501), ("webp", 16384)])
def test_too_long_for_a_format(ending: str, side: int) -> None:
    with pytest.raises(ValueError, match=f"can't be written as {ending}"):
        image(encoded(Image.new("L", (side, 1)), "PNG"), image_format=ending)


@pytest.mark.parametrize(("kind", "ending"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
def test_what_needs_no_change_keeps_its_bytes(kind: str, ending: str) -> None:
    data = encoded(noise(30, 20), kind)
    assert image(data) == (data, ending)
    assert image(data, image_longest=30, image_format=ending) == (data, ending)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"image_longest": 15}, (15, 10)),
        ({"image_shortest": 10}, (15, 10)),
        ({"image_longest": 60}, (30, 20)),  # none is enlarged
    ],
)
def test_sides(settings: dict, size: tuple[int, int]) -> None:
    data, ending = image(encoded(noise(30, 20), "BMP"), **settings)
    assert ending == "png"
    assert opened(data).size == size


def test_a_large_jpeg_is_shrunk_as_if_read_whole() -> None:
    """Up to what a reduced reading changes: a level or two."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8))
    data = encoded(small.resize((1600, 1200), Image.Resampling.BICUBIC), "JPEG", quality=95)
    made = opened(image(data, image_longest=200, image_format="png")[0])
    whole = opened(data).resize((200, 150), Image.Resampling.LANCZOS)
    assert made.size == (200, 150)
    difference = np.abs(np.asarray(made, int) - np.asarray(whole, int))
    assert difference.max() <= 3
    assert difference.mean() < 0.5


def test_a_turned_picture_is_written_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    data = encoded(noise(30, 20), "JPEG", exif=exif)
    shrunk = opened(image(data, image_longest=15)[0])
    assert shrunk.size == (10, 15)
    assert shrunk.getexif().get(0x0112, 1) == 1


def test_transparency_is_laid_on_white() -> None:
    picture = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    picture.putpixel((0, 0), (0, 0, 255, 255))
    data, ending = image(encoded(picture, "PNG"))
    assert (opened(data).mode, ending) == ("RGB", "png")
    assert opened(data).getpixel((0, 0)) == (0, 0, 255)
    assert opened(data).getpixel((7, 7)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["L", "CMYK", "1", "P"])
def test_any_mode_becomes_a_jpeg(mode: str) -> None:
    data = encoded(noise(9, 9).convert(mode), "TIFF")
    made, ending = image(data, image_format="jpg")
    assert (opened(made).format, ending) == ("JPEG", "jpg")


def test_bad_pictures_are_refused() -> None:
    whole = encoded(noise(64, 64), "PNG")
    for data in (b"", b"nothing", whole[: len(whole) // 2]):
        with pytest.raises(ValueError, match="picture is unreadable"):
            image(data)
    with pytest.raises(Unwanted, match="more than 4,000 pixels"):
        media.image(whole, Processing(), ImageFilter(max_pixels=4000))
    bomb = bytearray(whole)
    bomb[16:24] = (50_000).to_bytes(4) * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4)
    with pytest.raises(Unwanted, match="more than 64,000,000 pixels"):
        image(bytes(bomb))


@pytest.mark.parametrize(("kind", "ending"), [("WAV", "wav"), ("FLAC", "flac"), ("OGG", "ogg")])
def test_sounds_keep_their_bytes(kind: str, ending: str) -> None:
    data = clip(TONE, kind)
    assert audio(data) == (data, ending)


def test_sounds_are_resampled_mixed_and_made_equally_loud() -> None:
    stereo = np.stack([TONE, np.zeros_like(TONE)], 1)
    made, ending = audio(clip(stereo), audio_rate=4000, audio_loudness=-23.0)
    wave, rate = soundfile.read(io.BytesIO(made))
    assert (ending, rate, wave.ndim, len(wave)) == ("flac", 4000, 1, 4000)
    loudness = pyloudnorm.Meter(rate).integrated_loudness(wave)
    assert loudness == pytest.approx(-23, abs=0.01)  # 16 bits


@pytest.mark.parametrize("samples", [200, 8000])  # shorter than a block of the standard, or not
def test_loudness_never_clips(samples: int) -> None:
    click = np.zeros(samples)
    click[samples // 2] = 0.5
    wave, _ = soundfile.read(io.BytesIO(audio(clip(click), audio_loudness=-5.0)[0]))
    assert np.abs(wave).max() <= 0.99


def test_sounds_are_converted() -> None:
    made, ending = audio(clip(TONE, "OGG"), audio_format="wav")
    assert (ending, soundfile.info(io.BytesIO(made)).format) == ("wav", "WAV")
    wave = clip(TONE)
    assert audio(wave, audio_format="wav") == (wave, "wav")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"nothing", "not a readable sound"),
        (clip(np.zeros(100)), "silent"),
        (clip(np.zeros(0)), "silent"),
        (clip(np.full(100, np.nan), subtype="FLOAT"), "no numbers"),
    ],
)
def test_bad_sounds_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        audio(data)


@pytest.mark.parametrize(
    "settings",
    [
        {"image_longest": 0},
        {"image_longest": 9, "image_shortest": 9},
        {"image_quality": 0},
        {"audio_rate": 0},
        {"audio_rate": 700_000},
        {"audio_loudness": 3.0},
    ],
)
def test_refused_settings(settings: dict) -> None:
    with pytest.raises(ValueError, match=r"image_|audio_"):
        Processing(**settings)


SIZES = [(30, 20), (20, 30), (60, 10)]


def test_what_looks_and_sounds_equal_has_an_equal_digest() -> None:
    picture = noise(30, 20)
    about = Image.Exif()
    about[0x010E] = "a title"
    files = [encoded(picture, "PNG"), encoded(picture, "PNG", exif=about), encoded(picture, "BMP")]
    assert len({media.image(data, Processing()).digest for data in files}) == 1
    digests = {media.image(encoded(noise(*size), "PNG"), Processing()).digest for size in SIZES}
    assert len(digests) == len(SIZES)
    tone = (TONE * 32767).astype(np.int16)
    digests = [
        media.audio(data, Processing()).digest
        for data in (clip(tone, "WAV"), clip(tone, "FLAC"), clip(tone[1:]))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_grey_of_16_bits_is_not_cut_off() -> None:
    grey = np.repeat(np.linspace(0, 65535, 64).astype(np.uint16)[None], 64, axis=0)
    data, ending = image(encoded(Image.fromarray(grey), "PNG"), image_longest=32)
    assert ending == "png"
    columns = np.asarray(opened(data)).astype(int)[10]
    assert np.abs(columns - np.linspace(2, 253, 32)).max() <= 3


def test_floats_are_refused() -> None:
    with pytest.raises(ValueError, match="picture has floats for pixels"):
        image(encoded(Image.new("F", (8, 8)), "TIFF"))


def test_a_sound_is_too_long_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = clip(TONE)
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(Unwanted, match="longer than"):
        media.audio(data, Processing(), AudioFilter(max_seconds=0.5))


def test_damaged_sounds_are_refused_and_end_nothing() -> None:
    """A damaged header, or end, is a ValueError or a sound, never anything else."""
    lot, sounds = random.Random(0), [clip(TONE, kind) for kind in ("WAV", "FLAC", "OGG", "MP3")]
    how = Processing(audio_rate=16000, audio_loudness=-23.0)
    refused: list[str] = []
    for number in range(240):
        data = bytearray(sounds[number % 4])
        for _ in range(3):
            data[lot.randrange(100)] = lot.randrange(256)
        try:
            media.audio(bytes(data), how)
        except ValueError as error:
            refused.append(str(error))
    assert 0 < len(refused) < 240
    assert len(set(refused)) < 10


def test_what_another_program_would_run_is_not_opened() -> None:
    data = encoded(noise(8, 8), "EPS")
    assert opened(data).format == "EPS"
    with pytest.raises(ValueError, match="picture is unreadable"):
        image(data)


def test_what_is_louder_than_full_scale_is_not_cut_off() -> None:
    loud = (4 * TONE).astype(np.float32)
    data, _ = audio(clip(loud, subtype="FLOAT"), audio_rate=8000, audio_format="wav")
    wave, _ = soundfile.read(io.BytesIO(data))
    assert np.abs(wave - loud / np.abs(loud).max()).max() < 1e-4
