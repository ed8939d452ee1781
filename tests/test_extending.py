"""docs/extending.md and its pages are true: their files, put outside the package, make data, train,
fine-tune and evaluate.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from mmfm import cli, testing
from mmfm.data.tokenizer import train_bpe
from mmfm.train.pretrain import prepare
from mmfm.train.recipe import merge

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "docs" / "extending.md", *sorted((ROOT / "docs").glob("add-a*.md"))]
WINDS = ("calm", "breezy", "stormy")

# One process for both commands: most of its time is the import of what they need.
COMMANDS = """
import sys
from mmfm.cli import main
sys.exit(main(["pretrain", sys.argv[1]]) or main(["finetune", sys.argv[2]]))
"""


def blocks(language: str) -> list[str]:
    text = "".join(page.read_text() for page in PAGES)
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def write_modules(folder: Path) -> None:
    """Every Python block of the pages, at the place that its first line names."""
    for block in blocks("python"):
        target = folder / block.splitlines()[0].removeprefix("# ")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(block)
    assert sorted(p.stem for p in folder.glob("my_package/*.py")) == [
        *("cell_encoder", "closeness", "dump", "gap", "masked_series", "ordinal", "series"),
        *("series_encoder", "tally_panel", "vicreg"),
    ]


def write_dump(file: Path) -> None:
    """A hundred lines, of which one is broken; every fourth has no picture."""
    rng = np.random.default_rng(0)
    lines = ["{broken"]
    for number in range(99):
        wind = number % 3
        row: dict[str, Any] = {
            "id": f"day {number}",
            "station": f"station {number}",
            "report": f"a {WINDS[wind]} day at {number}",
            "wind": WINDS[wind],
            "measured": rng.normal(0, 0.2 + wind, (8 + number % 5, 2)).round(3).tolist(),
        }
        if number % 4:
            pixels = rng.normal(60 + 70 * wind, 8, (16, 16, 3)).clip(0, 255).astype(np.uint8)
            png = io.BytesIO()
            Image.fromarray(pixels).save(png, "PNG")
            row["sky"] = base64.b64encode(png.getvalue()).decode()
        lines.append(json.dumps(row))
    file.write_text("\n".join(lines) + "\n")


def page_settings() -> dict[str, Any]:
    """The pages' YAML entries, merged."""
    settings: dict[str, Any] = {}
    for block in blocks("yaml"):
        settings = merge(settings, yaml.safe_load(block))
    return settings


def recipes(folder: Path, settings: dict[str, Any]) -> None:
    """pretrain.yaml, finetune.yaml, suite.yaml and report.yaml with the pages' entries in them."""
    data = str(folder / "weather")
    held_out = {"held_out": {"path": data, "splits": ["val"]}}
    text = {"type": "text_transformer", "tokenizer": str(folder / "tokenizer"), "max_length": 16}
    text |= {"width": 32, "layers": 1, "heads": 2}
    pretrain = {
        "run": {"dir": str(folder / "pretrain")},
        "data": {
            "sources": {"weather": {"path": data, "splits": ["train"]}},
            "global_batch_size": 16,
            "streams": 4,
            "workers": 0,
            **settings["data"],
        },
        "model": merge({"embed_dim": 16, "encoders": {"text": text}}, settings["model"]),
        "objectives": settings["objectives"],
        "optim": {"lr": 3e-3},
        "train": {"max_steps": 12},
        "eval": {"sources": held_out, "tasks": settings["tasks"]},
    }
    finetune = {
        "run": {"dir": str(folder / "finetune")},
        "init": str(folder / "pretrain"),
        "head": settings["head"],
        "data": {k: v for k, v in pretrain["data"].items() if k != "transforms"},
        "optim": {"lr": 1e-2},
        "train": {"max_steps": 12},
        "eval": {"sources": held_out, "tasks": settings["eval"]["tasks"]},
    }
    sides = {m: {"source": "held_out", "modality": m} for m in ("series", "text")}
    found = {"type": "retrieval", "query": sides["series"], "gallery": sides["text"]}
    tasks = {**settings["tasks"], "series_and_report": found}
    suite = {"name": "extended", "sources": held_out, "tasks": tasks}
    report = {
        "title": "Weather",
        "runs": {},
        "sources": held_out,
        "panels": settings["panels"],
        "out": str(folder / "report.html"),
    }
    written = {"pretrain": pretrain, "finetune": finetune, "suite": suite, "report": report}
    for name, content in written.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Everything of the pages has run once, from a folder that is no part of the project."""
    folder = tmp_path_factory.mktemp("extending")
    write_modules(folder)
    write_dump(folder / "dump.jsonl")
    train_bpe([f"a {wind} day" for wind in WINDS], 270, folder / "tokenizer")
    recipes(folder, page_settings())
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        paths = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
        patch.setenv("PYTHONPATH", paths)
        patch.setenv("OMP_NUM_THREADS", "1")
        made = ["my_package.dump", str(folder / "dump.jsonl"), str(folder / "weather")]
        assert cli.main(["data", "make", *made, "shares={train: 0.7, val: 0.3}"]) == 0
        both = [str(folder / f"{name}.yaml") for name in ("pretrain", "finetune")]
        done = subprocess.run(
            [sys.executable, "-c", COMMANDS, *both],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        assert cli.main(["report", str(folder / "report.yaml")]) == 0
        judged, suite, out = (str(folder / n) for n in ("pretrain", "suite.yaml", "out"))
        assert cli.main(["eval", judged, suite, "--out", out]) == 0
        yield folder
    for name in set(sys.modules) - before:
        if name.startswith("my_package"):
            del sys.modules[name]


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def results(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    found = json.loads((folder / "out" / "results.json").read_text())["results"]
    return {(row["task"], row["metric"]): row for row in found}


def test_the_source_made_its_shards(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((folder / "weather" / "manifest.json").read_text())
    assert manifest["totals"] == {"image+series+text": 74, "series+text": 25}
    assert manifest["endings"] == {"series": ["npy"]}
    assert manifest["labels"] == {"wind": ["breezy", "calm", "stormy"]}
    assert manifest["notes"]["left_out"]["no line of the dump"]["first"] == ["dump.jsonl:1"]
    assert manifest["leaks"]["val"]["series"]["of"] > 10
    assert cli.main(["data", "verify", str(folder / "weather")]) == 0
    assert "99 samples" in capfd.readouterr().out


def test_encoders_objectives_and_modality_train_together(folder: Path) -> None:
    train = [r for r in rows(folder / "pretrain") if r.get("split") == "train"]
    assert len(train) == 12
    for name in ("closeness", "vicreg", "masked_series", "contrastive"):
        assert train[-1][f"{name}_loss"] < train[0][f"{name}_loss"], name
    assert train[0]["vicreg/image+series_text_loss"] > 0
    config = yaml.safe_load((folder / "pretrain" / "config.yaml").read_text())
    encoders = config["model"]["encoders"]
    assert encoders["image"]["type"] == "my_package.cell_encoder"
    assert encoders["image"]["width"] == 48
    assert encoders["series"]["type"] == "my_package.series_encoder"
    assert encoders["series"]["steps"] == 16  # the default, written out


def test_the_counts_are_those_of_the_losses(folder: Path) -> None:
    run = prepare(str(folder / "pretrain.yaml"))
    batch = next(iter(run.pipeline(world_size=1)))[0]
    assert set(batch["rows"]) == {"image", "series", "text"}
    assert testing.count_problems(run.task, batch) == []


def test_the_task_runs_in_the_loop_and_offline_alike(folder: Path) -> None:
    (in_loop,) = [r for r in rows(folder / "pretrain") if r.get("task") == "gap"]
    assert in_loop["metric"] == "modality_gap"
    offline = results(folder)["gap", "modality_gap"]
    assert offline["n"] == in_loop["n"] > 10
    assert offline["value"] == pytest.approx(in_loop["value"], rel=1e-5)
    assert 0 < offline["value"] < 2


def test_the_panel_stands_on_the_page(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "<h2>What there is</h2>" in page
    assert re.search(r"<tr><td>image\+series\+text</td><td>\d+</td></tr>", page)


def test_the_new_modality_is_retrieved_like_any_other(folder: Path) -> None:
    found = results(folder)
    held_out = found["series_and_report", "series_to_text_R@1"]["n"]
    assert held_out == found["series_and_report", "text_to_series_R@1"]["n"] > 20


def test_the_head_learns(folder: Path) -> None:
    scores = [r for r in rows(folder / "finetune") if r.get("metric") == "level_error"]
    assert [r["step"] for r in scores] == [0, 12]
    assert scores[-1]["value"] < 0.6 * scores[0]["value"]
    assert scores[-1]["ci95"][0] <= scores[-1]["value"] <= scores[-1]["ci95"][1]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["pretrain", "finetune"])
def test_the_examples_are_exact(folder: Path, recipe: str) -> None:
    assert testing.main([str(folder / f"{recipe}.yaml")]) == 0
