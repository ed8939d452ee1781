"""`mmfm report` on the tiny model: all panels, one self-contained page, examples by lot."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from mmfm.config import from_dict
from mmfm.data.subset import SubsetConfig
from mmfm.next_item import Ranked
from mmfm.objectives.base import Reconstruction
from mmfm.predictor import Predictor
from mmfm_eval import report_cli
from mmfm_eval.metrics import neighbours
from mmfm_eval.report.build import build
from mmfm_eval.report.config import ReportConfig
from mmfm_eval.report.context import Context
from mmfm_eval.report.panels import finetune, headline, reconstructions, viewers
from mmfm_eval.report.ranked import rank
from mmfm_eval.report.rows import percent
from mmfm_eval.report.samples import Samples
from mmfm_eval.suite import SourceConfig
from mmfm_eval.tasks import retrieval
from mmfm_eval.tasks.retrieval import Side
from tests.data.make_shards import write_set
from tests.eval import tiny_report
from tests.eval.tiny_checkpoint import make_data


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("report")
    data = make_data(folder / "data")
    checkpoint = tiny_report.finish_run(folder / "main", data, "names")
    tiny_report.finish_run(folder / "head", data, "shape", head=True)
    names = {"metric": "R@1", "value": 0.42, "ci95": [0.3, 0.5], "chance": 0.01}
    pixels = {"metric": "R@1", "value": 0.17}
    tiny_report.write_results(checkpoint, "s", names=names, pixels=pixels)
    return tiny_report.settings(folder, data)


@pytest.fixture(scope="module")
def config(settings: dict[str, Any]) -> ReportConfig:
    return from_dict(ReportConfig, settings)


@pytest.fixture(scope="module")
def page(config: ReportConfig) -> str:
    return build(config)


def section(page: str, name: str) -> str:
    """The part of the page that one panel wrote."""
    found = re.search(rf'<section id="{name}">(.*?)</section>', page, re.S)
    assert found, name
    return found[1]


def run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], *overrides: str
) -> tuple[int, str, str]:
    path = tmp_path / "page.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    code = report_cli.main([str(path), f"out={tmp_path / 'page.html'}", *overrides])
    return code, *capsys.readouterr()


def test_every_panel_shows_something(page: str, settings: dict[str, Any]) -> None:
    for name, panel in settings["panels"].items():
        shown = section(page, name)
        assert f"<h2>{panel['title']}</h2>" in shown
        assert "Not here yet" not in shown
        assert f'<a href="#{name}">' in page
    assert "Made &lt;up&gt;" in page
    assert "Made <up>" not in page
    assert len(re.findall('class="card"', section(page, "names"))) == 4
    assert section(page, "spoken").count("<audio controls") == 3
    assert (
        section(page, "hidden").count("<figure>") == 2 * 2 * 3
    )  # pictures and sounds, seen to original
    texts = section(page, "hidden")
    assert texts.count('alt="the picture"') == texts.count("from the text alone:") == 2
    assert section(page, "map").count("<image ") == 6
    assert "It is small &amp; random." in section(page, "limits")


def test_texts_are_filled_in_by_the_run_that_is_named(settings: dict[str, Any]) -> None:
    hidden = {**settings["panels"]["hidden"], "captions": {"run": "head", "source": "known"}}
    page = build(from_dict(ReportConfig, {**settings, "panels": {"hidden": hidden}}))
    assert "Run head has no masked objective" in section(page, "hidden")


def test_no_text_to_fill_in_is_said(settings: dict[str, Any], tmp_path: Path) -> None:
    hidden = {**settings["panels"]["hidden"], "captions": {"run": "main", "source": "wordless"}}
    sources = {"wordless": {**settings["sources"]["known"], "modalities": ["image"]}}
    changed = {"sources": {**settings["sources"], **sources}, "panels": {"hidden": hidden}}
    page = build(from_dict(ReportConfig, {**settings, **changed}))
    assert "Run main fills in no text of wordless" in section(page, "hidden")


def test_a_text_is_shown_with_each_guess_in_its_place() -> None:
    words = ["<s>", "red", " dot", " blue"]
    decode = {"decode": lambda ids: "".join(words[i] for i in ids), "special_ids": {0}}
    masked = torch.tensor([[False, False, True, False]])
    target, valid = torch.tensor([[0, 1, 2, 2]]), torch.tensor([[True, True, True, False]])
    guesses = [Reconstruction(masked, target, torch.full((1, 4), guess)) for guess in (2, 3)]
    raw = SimpleNamespace(modalities=("text",), files={})
    (shown,) = reconstructions._captions(guesses, valid, SimpleNamespace(**decode), [raw])
    assert shown["picture"] is None
    assert shown["lines"] == [
        [("red", "", False), ("dot", guess, False)] for guess in ("dot", "blue")
    ]


def test_the_page_is_self_contained(page: str) -> None:
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert {link.split(":")[0] if ":" in link else link[0] for link in links} == {"data", "#"}
    assert not re.search(r"https?://|@import|<link|<iframe|url\(", page)


def test_facts_are_those_of_the_run(page: str) -> None:
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", section(page, "headline")))
    # 32 samples a step, 16 a second: one step, as the checkpoint says.
    assert facts["steps"] == "1"
    assert facts["samples seen"] == "32"
    assert facts["time in steps"] == "about 2 s"
    assert facts["seed"] == "0"
    assert facts["machine"] == "CPU, 1 process"
    assert "0</b> of 20 pictures" in section(page, "headline")


def test_scores_stand_with_what_judges_them(page: str) -> None:
    table = section(page, "scores")
    assert "art, first of 1,238" in table
    for part in ("42.0 %", "30.0 – 50.0 %", "1.0 %", "17.0 %", "pixels"):
        assert part in table
    later = table[table.index("art, first of …") :]
    assert "not run" in later
    assert "The suite not_yet has not been run" in later


def test_examples_are_drawn_by_the_seed(settings: dict[str, Any], page: str) -> None:
    def with_seed(seed: int) -> str:
        panels = {"only": ["names", "spoken"], "seed": seed}
        return build(from_dict(ReportConfig, {**settings, **panels}))

    again, other = with_seed(0), with_seed(1)
    for name in ("names", "spoken"):
        assert section(again, name) == section(page, name)
        assert section(other, name) != section(page, name)
    assert "seed 1" in section(other, "names")


def test_shares_are_those_of_the_suites(config: ReportConfig, page: str) -> None:
    context = Context(config, lambda text: None)
    side = {"source": "unseen"}
    query, gallery = Side(modality="image", **side), Side(modality="text", **side)
    task = retrieval.Config(query=query, gallery=gallery, both_directions=False).build()
    found = {reading: context.encoded("main", "unseen") for reading in task.readings}
    scores = {score.name: score.value for score in task.score(found)}
    mine = rank(context.rows("main", "unseen", "image"), context.rows("main", "unseen", "text"))
    assert mine.share(1) == pytest.approx(scores["image_to_text_R@1"], abs=1e-12)
    assert mine.share(5) == pytest.approx(scores["image_to_text_R@5"], abs=1e-12)
    assert f"<b>{percent(mine.share(3))}".replace(" ", "\u00a0") in section(page, "names")
    for i, order in enumerate(mine.order):
        assert (np.diff(mine.cosine[i, order]) <= 0).all()


def test_before_and_after_are_votes_and_logits(config: ReportConfig) -> None:
    context = Context(config, lambda text: None)
    panel = config.panels["finetune"]
    assert isinstance(panel, finetune.Config)
    found = panel._compare(context)
    outputs = context.head_outputs("head", "unseen")
    assert found.ids == [i for i in outputs.ids if i in set(found.ids)]
    assert len(found.ids) == len(outputs.ids) == 20  # those with a picture
    assert np.array_equal(found.after, outputs.logits.argmax(1))
    truth = [context.samples("unseen").read(i).meta["labels"]["shape"] for i in found.ids]
    assert [found.names[i] for i in found.truth] == truth
    known = context.labelled("main", "known", "image", "shape", found.names)
    rows = context.rows("main", "unseen", "image")
    votes = neighbours.vote(known.x, known.labels, rows.x, k=20, temperature=0.07)
    assert np.array_equal(found.before, votes)


def test_viewers_see_what_comes_next(config: ReportConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    items = ["a", "b", "c", "<d>", "e"]
    ranked = Ranked(
        row_ids=["u0", "u1"],
        groups=np.arange(2),
        rank=np.array([1.0, 4.0]),
        candidates=np.array([3, 3]),
        histories=[np.array([0, 1, 2]), np.array([4, 0, 3])],
        items=5,
        held_out=2,
        too_short=0,
    )
    given: list[list[str]] = []

    def recommend(history: list[str], k: int) -> list[tuple[str, float]]:
        given.append(history)
        return [("c", 0.5), ("b", 0.25)][:k]

    predictor = SimpleNamespace(head=SimpleNamespace(item_ids=items), recommend=recommend)
    context = Context(config, lambda text: None)
    monkeypatch.setattr(context, "predictor", lambda name: predictor)
    monkeypatch.setattr(context, "ranked", lambda name, source: ranked)
    monkeypatch.setattr(viewers, "_described", lambda context, source, item: (item, "genre"))
    settings = {"title": "t", "run": "main", "source": "unseen", "items": "unseen", "shown": 2}
    html = from_dict(viewers.Config, {**settings, "recommended": 2}).render(context).html
    assert sorted(given) == [["a", "b"], ["e", "a"]]  # never the item that is asked for
    assert html.count('class="right"') == 1
    assert "next was &lt;d&gt; (rank 4)" in html
    assert "<b>50.0\u00a0%</b>" in html


def test_what_is_not_there_is_said_on_the_page(
    settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = ["runs.main={path: nowhere, made_by: mmfm pretrain x.yaml}", "sources.known.path=gone"]
    code, _, _ = run(tmp_path, capsys, settings, *gone)
    assert code == 0
    page = (tmp_path / "page.html").read_text()
    for name in ("headline", "curves", "names", "spoken", "hidden", "map"):
        assert "There is no run in nowhere yet" in section(page, name)
        assert "<code>mmfm pretrain x.yaml</code>" in section(page, name)
    assert section(page, "scores").count("not run") == 2
    assert "What this is not" in section(page, "limits")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("panels.map.type=mapp", "panels.map.type: no module 'mapp'; did you mean 'map'?"),
        ("panels.map.shwn=3", "unknown key panels.map.shwn; did you mean 'shown'?"),
        ("panels.map.shown=0", "panels.map: shown = 0 must be at least 1"),
        ("panels.map.run=mian", "panels.map: there is no run 'mian'; did you mean 'main'?"),
        ("panels.map.voices=unsen", "there is no source 'unsen'; did you mean 'unseen'?"),
        ("only=[mpa]", "only: there is no panel 'mpa'; did you mean 'map'?"),
        (
            "panels.scores.entries.art.task=nams",
            "entries.art: run main, suite s has no score",
        ),
        ("panels.scores.entries.art.label='{x}'", "entries.art: label '{x}'"),
        ("panels.curves.scores.x={task: a, metric: b}", "curves: scores.x: run main logged"),
        ("sources.unseen.splits=[vall]", "sources.unseen: "),
        ("panels={}", "panels is empty"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    settings: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    message: str,
) -> None:
    def never(*args: Any) -> Predictor:
        raise AssertionError("a model was opened before the settings were checked")

    monkeypatch.setattr("mmfm_eval.report.context.load", never)
    name = change.split(".")[1] if change.startswith("panels.") else "headline"
    only = [] if change.startswith("only") else [f"only=[{name}]"]
    code, out, err = run(tmp_path, capsys, settings, change, *only)
    assert code == 2
    assert out == ""
    assert err.startswith("mmfm report: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_a_source_of_some_modalities_shows_nothing_else(tmp_path: Path) -> None:
    data = str(make_data(tmp_path / "data"))
    whole = Samples("a", SourceConfig(path=data))
    part = Samples("a", SourceConfig(path=data, modalities=["image"]))
    both = next(i for i in whole.places if {"image", "text"} <= set(whole.read(i).modalities))
    assert part.read(both).modalities == ("image",)


def test_a_source_of_a_subset_shows_nothing_else(tmp_path: Path) -> None:
    data = str(make_data(tmp_path / "data"))
    whole = Samples("a", SourceConfig(path=data, splits=["val"]))
    subsets = [SubsetConfig(share=0.4, part=part) for part in ("train", "held_out")]
    parts = [Samples("a", SourceConfig(path=data, splits=["val"], subset=s)) for s in subsets]
    assert all(0 < len(part.places) == len(part.manifest) for part in parts)
    assert parts[0].places | parts[1].places == whole.places
    assert not parts[0].places.keys() & parts[1].places.keys()
    assert parts[0].left_out == 0
    assert all(headline._speech(part) == headline._speech(whole) == [] for part in parts)


def test_what_was_trained_on_is_a_part_of_a_source(tmp_path: Path) -> None:
    data = str(make_data(tmp_path / "data"))
    source = {"path": data, "splits": ["train"], "modalities": ["image"], "subset": {"share": 0.4}}
    recipe = {"data": {"sources": {"few": source, "all": {"path": data, "splits": ["train"]}}}}
    few, everything = headline._trained(SimpleNamespace(recipe=recipe))  # type: ignore[arg-type]
    assert few["sets"].keys() == {"image"}
    assert 0 < few["sets"]["image"] < sum(everything["sets"].values()) == 30


def test_kinds_of_speech_are_those_of_the_samples_that_can_be_read(tmp_path: Path) -> None:
    told = [json.dumps({"speech": "synthetic"}).encode(), b"{", b"{}"]
    samples = [(str(n), {"wav": b"sound", "json": meta}) for n, meta in enumerate(told)]
    write_set(tmp_path, [samples])
    assert headline._speech(Samples("voices", SourceConfig(path=str(tmp_path)))) == ["synthetic"]
