"""results.json and report.html: their shape, the fingerprints, and that nothing is half-written."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mmfm.config import from_dict
from mmfm_eval.report import page, terminal
from mmfm_eval.report.rows import judge, rows
from mmfm_eval.results import Results, protocol, write_all
from mmfm_eval.suite import SuiteConfig
from mmfm_eval.tasks.base import Score, with_baseline


def suite(**changes: Any) -> SuiteConfig:
    side = {"source": "art", "modality": "image"}
    settings: dict[str, Any] = {
        "name": "pets",
        "sources": {"art": {"path": "/here/art"}},
        "tasks": {"names <b>": {"type": "retrieval", "query": side, "gallery": side}},
    }
    return from_dict(SuiteConfig, {**settings, **changes})


def its_protocol(config: SuiteConfig, **changes: Any) -> dict[str, Any]:
    settings = {
        "checkpoint_sha256": "c" * 64,
        "digests": {"art": "d" * 64},
        "weights": "model",
        "preprocessing": {"specs": {"image": {"size": 64}}},
        "device": "cpu",
    }
    return protocol(config, **{**settings, **changes})


def results() -> Results:
    return Results(
        model={"checkpoint": "runs/x & y", "modalities": ["image"], "parameters": 1234567},
        suite="pets",
        protocol=its_protocol(suite()),
        scores={
            "names <b>": [
                Score("image_to_text_R@1", 0.5, 40, (0.35, 0.65), 0.02, 0.4, "nearest pixels"),
                Score("image_to_text_median_rank", 2.0, 40, (1.0, 4.5), 25.5),
                Score("ece", 0.1, 1),
            ]
        },
        details={
            "names <b>": {
                "rows": 40,
                "per_class": [
                    {"class": "<cat>", "n": 3, "precision": None, "recall": 0.5, "f1": 0.4}
                ],
            }
        },
        left_out={"art": {"corrupt image": 2}},
    )


def test_results_json_has_the_contracts_keys() -> None:
    document = json.loads(results().to_json())
    assert {"model", "suite", "protocol", "results"} <= set(document)
    assert document["results"][0] == {
        "task": "names <b>",
        "metric": "image_to_text_R@1",
        "value": 0.5,
        "n": 40,
        "ci95": [0.35, 0.65],
        "chance": 0.02,
        "baseline": 0.4,
        "baseline_name": "nearest pixels",
    }
    assert document["results"][2]["ci95"] is None
    assert document["left_out"] == {"art": {"corrupt image": 2}}
    needed = {"fingerprint", "suite", "mmfm", "checkpoint_manifest_sha256", "data_digests"}
    assert needed | {"preprocessing_sha256", "libraries"} <= set(document["protocol"])


def test_what_was_written_is_read_back() -> None:
    assert Results.from_document(json.loads(results().to_json())) == results()


def test_fingerprints_change_with_what_can_change_a_score_only() -> None:
    base = its_protocol(suite())
    moved = its_protocol(suite(sources={"art": {"path": "/elsewhere"}}, workers=3))
    assert moved["fingerprint"] == base["fingerprint"]
    for other in (
        its_protocol(suite(), digests={"art": "e" * 64}),
        its_protocol(suite(seed=1)),
        its_protocol(suite(sources={"art": {"path": "/here/art", "splits": ["test"]}})),
    ):
        assert other["fingerprint"] != base["fingerprint"]
        assert other["suite_fingerprint"] != base["suite_fingerprint"]
    for other in (
        its_protocol(suite(), checkpoint_sha256="f" * 64),
        its_protocol(suite(), preprocessing={"specs": {"image": {"size": 65}}}),
        its_protocol(suite(), device="cuda"),
        its_protocol(suite(), weights="ema"),
    ):
        assert other["fingerprint"] != base["fingerprint"]
        assert other["suite_fingerprint"] == base["suite_fingerprint"]


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_all(tmp_path / "out", {"results.json": "old"})
    with pytest.raises(UnicodeEncodeError):
        write_all(tmp_path / "out", {"results.json": "new", "report.html": "\ud800"})
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["results.json"]
    assert (tmp_path / "out" / "results.json").read_text() == "old"


class Tags(HTMLParser):
    """Collects what a page would load and checks that its tags are closed."""

    void = frozenset({"meta", "line", "circle", "br", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [str(v) for k, v in attrs if k in ("src", "href", "data", "action")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [str(v) for k, v in attrs if k in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_one_closed_file_with_everything_on_it() -> None:
    text = page.render(results())
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    assert not tags.loads
    assert not re.search(r"https?://|@import|url\(", text)
    assert "prefers-color-scheme: dark" in text
    assert "names &lt;b&gt;" in text  # whatever stands in a config is text, not markup
    assert "&lt;cat&gt;" in text
    assert text.count('class="dot" cx=') == 3 + 1  # a bar for each score, and one in the key
    assert 'x1="35.0%" x2="65.0%"' in text
    assert "corrupt image" in text
    assert results().protocol["fingerprint"] in text


def test_the_terminal_fits_eighty_columns() -> None:
    out = StringIO()
    terminal.show(results(), Console(file=out, width=80))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for part in ("50.0 %", "35.0 – 65.0 %", "image ▶ text", "nearest pixels", "corrupt image"):
        assert part in text


def test_positions_and_verdicts() -> None:
    first, rank, error = rows(results().scores["names <b>"])
    assert (first.at, first.low, first.high, first.chance_at) == (50.0, 35.0, 65.0, 2.0)
    assert rank.chance_at == 100.0  # the farthest rank is the end of the axis
    assert 0 < rank.at < 100
    assert error.verdict == ""
    assert judge(Score("accuracy", 0.5, 9, (0.4, 0.6), 0.1, 0.3, "x")) == (
        "beats chance and baseline",
        True,
    )
    assert judge(Score("accuracy", 0.5, 9, (0.4, 0.6), 0.1, 0.5, "x"))[0] == (
        "no clear difference to the baseline"
    )
    assert judge(Score("accuracy", 0.5, 9, (0.4, 0.6), 0.7))[0] == "worse than chance"
    assert judge(Score("a_to_b_median_rank", 5, 9, (4, 6), 30)) == ("beats chance", True)


def test_a_baseline_goes_to_the_metric_of_its_name() -> None:
    scores = [Score("a", 0.5, 3), Score("b", 0.6, 3)]
    assert with_baseline(scores, [Score("b", 0.1, 3)], "none") == [
        scores[0],
        Score("b", 0.6, 3, baseline=0.1, baseline_name="none"),
    ]
