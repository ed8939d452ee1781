"""report.html of a fine-tuning run: what stands on it, from a folder alone, whatever it lacks."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import classification_report

from mmfm.config import ConfigError, from_dict
from mmfm_eval.metrics import classification
from mmfm_eval.report.runs._mistakes import AROUND, Piece, pieces
from mmfm_eval.report.runs.finetuned import Config
from mmfm_eval.report.tables import class_lines, details_of
from mmfm_eval.tasks.base import Score
from tests.eval.tiny_finetuned import EVIL, Folder, make_source, mistake

RNG = np.random.default_rng(0)
NAMES = ["cat", "dog", EVIL]
TRUTH, SAID = RNG.integers(0, 3, 50), RNG.integers(0, 3, 50)


def details(truth: Any = TRUTH, said: Any = SAID, names: list[str] = NAMES) -> dict[str, Any]:
    table = classification.per_class(truth, said, names)
    right = {"class": "accuracy", "n": len(truth), "precision": None, "recall": None}
    averages = [{**right, "f1": float((truth == said).mean())}, *classification.averages(table)]
    return {
        "per_class": table,
        "averages": averages,
        **classification.confusion(truth, said, names),
    }


def accuracy(value: float) -> Score:
    return Score("accuracy", value, 50, (value - 0.1, value + 0.1), 0.25, 0.3, "majority class")


class Page(HTMLParser):
    """The elements of a page, and the text of all but styles, by section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.texts: dict[str, str] = {"": ""}
        self._section, self._open = "", ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts[self._section] += " "
        self._open = tag
        if tag == "section":
            self._section = dict(attrs)["id"]
            self.texts[self._section] = ""

    def handle_endtag(self, tag: str) -> None:
        self._open = ""
        self.texts[self._section] += " "
        if tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        if self._open != "style":
            self.texts[self._section] += data

    def text(self, section: str = "") -> str:
        return " ".join(self.texts[section].split())

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attrs for name, attrs in self.tags if name == tag]


def written(folder: Folder, **config: Any) -> Page:
    Config(**config).write(folder.path)
    return Page((folder.path / "report.html").read_text())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("finetuned") / "data")


@pytest.fixture
def run(tmp_path: Path, source: Path) -> Folder:
    """Evaluated at three steps, the last the best."""
    folder = Folder(tmp_path / "a-run", source)
    spans = {"right": [["person", 0, 1], ["place", 2, 3]], "said": [["person", 0, 1]]}
    for step, value in ((0, 0.2), (10, 0.5), (20, 0.6)):
        mistakes = [mistake(step // 10), mistake(3, spans=spans)]
        folder.evaluate(
            step, "kind of", [accuracy(value), Score("ece", 0.1, 50)], details(), mistakes
        )
    return folder


def test_what_was_trained(run: Folder) -> None:
    text = written(run).text()
    assert "a-run A classification head for shape on runs/pretrained." in text
    assert "trained 50 of 2,000 weights (2.5 %)" in text
    assert "steps 20" in text
    assert "time in steps 40 s" in text
    assert "train data/train train 160 0.50" in text
    assert "was stopped" not in text


def test_scores_before_and_after(run: Folder) -> None:
    page = written(run)
    text = page.text("scores")
    assert "Before: step 0" in text
    assert "After: step 20. " in text
    assert "kind of classification on held_out, n = 50" in text
    assert "20.0 % 10.0 – 30.0 % 60.0 % 50.0 – 70.0 % 25.0 % 30.0 % majority class" in text
    assert "accuracy beats chance and baseline" in text
    assert "calibration error ↓" in text


def test_curves_of_every_score_and_loss(run: Folder) -> None:
    page = written(run)
    charts = [svg["aria-label"] for svg in page.all("svg") if svg.get("class") == "chart"]
    assert charts == [
        "accuracy: 60.0 % at step 20",
        "calibration error: 10.0 % at step 20",
        "head: from 0.1 to 0.05",
    ]


def test_what_was_taken_for_what_and_the_table(run: Folder) -> None:
    page = written(run)
    text = page.text("task-1")
    counts = details()["confusion"]["counts"]
    cells = [td["title"] for td in page.all("td") if "title" in td]
    assert f"cat, said dog: {counts[0][1]}" in cells
    assert len(cells) == np.count_nonzero(counts)
    assert "class precision recall F1 support" in text
    assert re.search(r"accuracy \d+\.\d % 50 macro avg", text)


def test_mistakes_with_picture_text_and_sound(run: Folder) -> None:
    page = written(run)
    text = page.text("task-1")
    assert f"said star{EVIL} right ring 2 s/2" in text
    assert [img["src"][:23] for img in page.all("img")] == ["data:image/webp;base64,"] * 2
    assert [a["src"][:22] for a in page.all("audio")] == ["data:audio/wav;base64,"] * 2
    assert all("controls" in a for a in page.all("audio"))
    marks = [m["class"] for m in page.all("mark")]
    assert marks == ["both", "missed", "wrong", "both", "missed", "both"]  # three of the legend
    assert "right Ada person ✓ of" in text
    assert f"{EVIL} place ○ left" in text
    assert len(written(run, mistakes=1).all("img")) == 1
    assert "Worst mistakes" not in written(run, mistakes=0).text("task-1")


def test_nothing_from_the_data_is_markup_and_nothing_is_loaded(run: Folder) -> None:
    run.test("kind of", [accuracy(0.4)], details())
    page = written(run)
    assert not page.all("script")
    assert not page.all("link")
    for _, attrs in page.tags:
        for name in ("src", "href"):
            assert attrs.get(name, "#").startswith(("data:", "#"))
    assert "url(" not in (run.path / "report.html").read_text()
    assert EVIL in page.text("task-1")
    assert EVIL in page.text("test")


def test_the_best_step_is_shown_where_it_is_kept(tmp_path: Path, source: Path) -> None:
    best = {"task": "kind", "metric": "accuracy"}
    folder = Folder(tmp_path / "run", source, keep_best=best)
    for step, value in ((0, 0.2), (10, 0.7), (20, 0.6)):
        folder.evaluate(step, "kind", [accuracy(value)], details(), [mistake(step // 10)])
    checkpoint = folder.path / "checkpoints/step_00000010"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").touch()
    said = '{"checkpoint": "step_00000010", "step": 10, "task": "kind", "metric": "accuracy"}'
    (folder.path / "checkpoints/best").write_text(said)
    page = written(folder)
    assert "After: step 10, the best by kind accuracy." in page.text("scores")
    assert "70.0 %" in page.text("scores")
    assert "s/1" in page.text("task-1")
    assert "steps 20 (best: 10)" in page.text()
    shutil.rmtree(folder.path / "evaluation/step_00000010")
    page = written(folder)
    assert "70.0 %" in page.text("scores")
    assert "The details of this evaluation were not kept" in page.text()


def test_the_test_stands_apart_without_mistakes(run: Folder) -> None:
    assert "test" not in written(run).texts
    run.test("kind of", [accuracy(0.4)], details())
    page = written(run)
    text = page.text("test")
    assert "Looked at once, when the run was done, with step_00000020" in text
    assert "40.0 % 30.0 – 50.0 %" in text
    assert "test.sources.a<b shares samples with another" in text
    assert "before" not in text
    assert "What was taken for what" in text
    assert "Worst mistakes" not in text


def test_a_source_that_is_gone(tmp_path: Path) -> None:
    source = make_source(tmp_path / "data")
    folder = Folder(tmp_path / "run", source)
    other = mistake(0, beside={"came first": "s/9"}, beside_source="nowhere")
    folder.evaluate(20, "kind", [accuracy(0.5)], details(), [mistake(1), mistake(7), other])
    page = written(folder)
    assert "s/7: it can't be read: source held_out has no sample of that id" in page.text("task-1")
    assert "s/9: its source is gone" in page.text("task-1")
    shutil.rmtree(source)
    page = written(folder)
    text = page.text("task-1")
    assert "The samples can't be shown: source held_out is gone" in text
    assert "ring 1 s/1: its source is gone" in text
    assert not page.all("img")


def test_what_can_not_be_shown_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(tmp_path / "data", samples=1)
    tar = source / "a.tar"
    tar.write_bytes(tar.read_bytes().replace(b"\x89PNG", b"\x89PNX"))
    monkeypatch.setattr("mmfm_eval.report.runs._mistakes.SOUND_LIMIT", 10)
    folder = Folder(tmp_path / "run", source)
    folder.evaluate(20, "kind", [accuracy(0.5)], details(), [mistake(0)])
    text = written(folder).text("task-1")
    assert "its picture can't be shown" in text
    assert "its sound (0 MB) is too large for this page" in text


def test_a_run_that_is_not_done_or_was_cut_short(tmp_path: Path, source: Path) -> None:
    folder = Folder(tmp_path / "run", source, max_steps=50)
    page = written(folder)
    assert "This run was stopped at step 20 of 50" in page.text()
    assert "Nothing was evaluated" in page.text()
    folder.evaluate(0, "kind", [accuracy(0.2)], details())
    page = written(folder)
    assert "Before: step 0" not in page.text("scores")
    assert "score chance baseline" in page.text("scores")
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "spl\n')
    folder.log({"event": "resume", "step": 20})
    folder.log({"event": "early_stop", "step": 20})
    assert "was stopped" not in written(folder).text()


def test_no_mistake_one_class_and_many(tmp_path: Path, source: Path) -> None:
    folder = Folder(tmp_path / "run", source)
    same = np.zeros(9, np.int64)
    folder.evaluate(20, "one", [accuracy(1.0)], details(same, same, ["cat"]))
    many = np.arange(60)
    names = [f"class {i}" for i in many]
    folder.evaluate(20, "many", [accuracy(0.0)], details(many, many[::-1].copy(), names))
    page = written(folder)
    assert "Worst mistakes" not in page.text("task-1")
    assert [td["title"] for td in page.all("td") if "title" in td] == ["cat, said cat: 9"]
    assert "Most often confused 20 pairs" in page.text("task-2")
    assert len([d for d in page.all("details") if "open" not in d]) == 1


def test_points_of_numbers(tmp_path: Path, source: Path) -> None:
    folder = Folder(tmp_path / "run", source)
    score = Score("absolute_error", 2.0, 3, (1.0, 3.0), None, 4.0, "best constant")
    pairs = [[1.0, 1.5], [3.0, 2.0], [1.0, 1.0]]
    folder.evaluate(0, "price", [score._replace(value=8.0)], {"points": pairs}, kind="regression")
    folder.evaluate(20, "price", [score], {"points": pairs}, kind="regression")
    page = written(folder)
    assert len([c for c in page.all("circle") if c.get("class") == "point"]) == 3
    dots = {
        c["class"]: float(c["cx"].removesuffix("%")) for c in page.all("circle") if "%" in c["cx"]
    }
    assert dots["was"] == pytest.approx(4 * dots["dot"], abs=0.05)  # both on one axis


def test_the_terminal_prints_what_sklearn_prints(run: Folder) -> None:
    run.test("kind of", [accuracy(0.4)], details())
    lines = Config().lines(run.path)
    assert [line.split()[:2] for line in lines if "f1-score" in line] == [
        ["kind", "of"],
        ["test:", "kind"],
    ]
    theirs = classification_report(TRUTH, SAID, target_names=NAMES, zero_division=0).splitlines()
    half = lines[1 : len(lines) // 2]
    words = [line.split() for line in half if line][1:]
    assert words == [line.split() for line in theirs if line][1:]
    table = details_of(details(np.arange(60), np.arange(60), [str(i) for i in range(60)])).classes
    shown = class_lines("many", table)
    assert "(60 classes: the table of each is in report.html)" in shown
    assert len(shown) < 10


def test_pieces_of_a_text() -> None:
    tokens = [str(i) for i in range(60)]
    own, other = [["a", 30, 32], ["b", 40, 41]], [["a", 30, 32], ["b", 40, 42]]
    found = pieces(tokens, own, other)
    assert [p for p in found if p.kind] == [Piece("30 31", "a", True), Piece("40", "b", False)]
    assert found[0].text == f"… {' '.join(tokens[30 - AROUND : 30])}"
    assert found[-1].text == f"{' '.join(tokens[41 : 42 + AROUND])} …"
    assert pieces(["x"], [], []) == [Piece("…")]


@pytest.mark.parametrize("mistakes", [-1, 201])
def test_refuses_a_number_of_mistakes(mistakes: int) -> None:
    with pytest.raises(ConfigError, match="must be from 0 to 200"):
        from_dict(Config, {"mistakes": mistakes})
