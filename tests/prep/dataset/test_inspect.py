"""What inspect shows: tables, and a page that needs nothing else."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import pytest
import soundfile
from PIL import Image

from mmfm_prep.cli import main
from tests.data.make_shards import encoded, encoded_sound, sound
from tests.prep.dataset.test_verify import tar_of
from tests.prep.making.test_media import TONE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    samples = {}
    for i in range(6):
        about = {
            "id": f"<b>{i}</b>",
            "texts": {"en": [f"a <script>alert({i})</script> dog", "Dog!"], "zh": ["狗"]},
            "labels": {"kind": "a&b"},
        }
        picture = Image.new("RGB", (400 + i, 100), (0, 40 * i, 0))
        samples[f"{i}"] = {"png": encoded(picture), "json": json.dumps(about).encode()}
    samples["6"] = {"flac": sound(1, 9.0), "txt": b"only heard"}
    samples["7"] = {"png": b"broken", "wav": b"broken", "json": b"[", "doc": b"x"}
    tar_of(folder / "a.tar", samples)
    return folder


def page(folder: Path, tmp_path: Path, *words: str) -> str:
    file = tmp_path / "page.html"
    assert main(["inspect", str(folder), "--html", str(file), *words]) == 0
    return file.read_text()


def test_tables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(folder)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "all │ image+text │ 6 │" in out
    assert "100 │ pixels of the shorter side" in out
    assert "4.00 – 4.02 – 4.05 │ longer by shorter side" in out
    assert "9.0 │ seconds, 0.1 minutes in all; 8,000 Hz" in out
    assert "en │ 12 │ 4 –" in out
    assert "dog" in out
    assert "not read (ending): 1 doc" in out
    assert "broken: 1 json, 1 image, 1 audio" in out


def test_the_page_needs_nothing_else_and_escapes(folder: Path, tmp_path: Path) -> None:
    text = page(folder, tmp_path)
    assert "<script" not in text
    assert "a &lt;script&gt;alert(3)&lt;/script&gt; dog" in text
    assert "&lt;b&gt;3&lt;/b&gt;" in text
    assert "kind: a&amp;b" in text
    assert "狗" in text
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    assert "picture can&#39;t be read" in text or "picture can't be read" in text
    assert "sound can't be read" in text
    assert "only heard" in text


def test_pictures_and_sounds_are_made_small(folder: Path, tmp_path: Path) -> None:
    text = page(folder, tmp_path)
    pictures = re.findall(r"data:image/webp;base64,([^\"]+)", text)
    assert len(pictures) == 6
    assert {max(Image.open(io.BytesIO(base64.b64decode(p))).size) for p in pictures} == {352}
    (clip,) = re.findall(r"data:audio/flac;base64,([^\"]+)", text)
    assert soundfile.info(io.BytesIO(base64.b64decode(clip))).duration == 5.0


def test_samples_are_drawn_by_lot(folder: Path, tmp_path: Path) -> None:
    drawn = [re.findall(r'title="(a.tar/\d)"', page(folder, tmp_path, "--samples", "3"))]
    drawn.append(re.findall(r'title="(a.tar/\d)"', page(folder, tmp_path, "--samples", "3")))
    assert len(drawn[0]) == 3
    assert drawn[0] == drawn[1]
    others = [
        re.findall(r'title="(a.tar/\d)"', page(folder, tmp_path, "--samples=3", f"--seed={seed}"))
        for seed in range(1, 5)
    ]
    assert any(other != drawn[0] for other in others)


def test_what_was_left_out_is_told_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clips/up").mkdir(parents=True)
    (tmp_path / "clips/up/a.wav").write_bytes(encoded_sound(TONE, 8000, "WAV"))
    (tmp_path / "clips/up/b.wav").write_bytes(encoded_sound(TONE * 0, 8000, "WAV"))
    words = ["make", "audio_folder", str(tmp_path / "clips"), str(tmp_path / "out")]
    assert main([*words, "shares={train: 1}"]) == 0
    assert main(["inspect", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "left out when it was made: 1 (sound is silent), first up/b.wav" in out
    assert "class" in out


def test_histories_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = tmp_path / "events.csv"
    events.write_text("who,what,at\na,x,1\na,y,2\na,x,3\nb,y,1\nb,z,\n")
    words = ["interactions", str(events), str(tmp_path / "out"), "user=who", "item=what", "time=at"]
    assert main(["make", *words]) == 0
    assert main(["inspect", str(tmp_path / "out")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "users │ 1 – 1 – 3 │ items of a history, 4 in all" in out
    assert "left out of histories: 1 (time is empty), first events.csv:6" in out
