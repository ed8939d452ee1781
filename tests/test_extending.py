"""docs/extending.md is true: its files, put outside the package, train, fine-tune and evaluate."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import mmfm.data.transforms
from mmfm import cli
from mmfm.data.tokenizer import train_bpe
from mmfm.train.recipe import merge

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "extending.md"
COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 80, 220)}

# A process each for what starts DeepSpeed. The folder that stands for mmfm/data/transforms/ is the
# one thing that can't come through Python's path.
COMMAND = """
import sys
import mmfm.data.transforms
from mmfm.cli import main
mmfm.data.transforms.__path__.append(sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


def write_modules(folder: Path) -> None:
    """Every Python block of the page, at the place that its first line names."""
    for block in blocks("python"):
        place = block.splitlines()[0].removeprefix("# ")
        target = folder / ("package" if place.startswith("my_package/") else "") / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(block)
    assert sorted(p.name for p in folder.glob("package/my_package/*.py")) == [
        *("cell_encoder.py", "closeness.py", "colours.py", "gap.py", "prototypes.py"),
        *("tally_panel.py", "video_encoder.py"),
    ]


def page_settings() -> dict[str, Any]:
    """The page's YAML entries, merged."""
    settings: dict[str, Any] = {}
    for block in blocks("yaml"):
        settings = merge(settings, yaml.safe_load(block))
    return settings


def make_videos(folder: Path) -> None:
    """A plain WebDataset tar of short clips with their captions."""
    folder.mkdir()
    with tarfile.open(folder / "clips.tar", "w") as tar:
        for number in range(24):
            name = list(COLOURS)[number % 3]
            frames = [Image.new("RGB", (16, 16), COLOURS[name]) for _ in range(2 + number % 4)]
            for at, frame in enumerate(frames):
                frame.putpixel((at, at), (255, 255, 255))
            file = io.BytesIO()
            frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
            for ending, data in (("gif", file.getvalue()), ("txt", f"a {name} clip".encode())):
                info = tarfile.TarInfo(f"{number:03d}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def recipes(folder: Path, settings: dict[str, Any]) -> None:
    """pretrain.yaml, finetune.yaml and suite.yaml with the page's entries in them."""
    held_out = {"held_out": {"path": str(folder / "colours"), "splits": ["val"]}}
    colours = {"path": str(folder / "colours"), "splits": ["train"]}
    text = {"type": "text_transformer", "tokenizer": str(folder / "tokenizer"), "max_length": 16}
    text |= {"width": 32, "layers": 1, "heads": 2}
    pretrain = {
        "run": {"dir": str(folder / "pretrain")},
        "data": {
            "sources": {"colours": colours, "clips": {"path": str(folder / "clips")}},
            "global_batch_size": 16,
            "streams": 4,
            "workers": 0,
        },
        "model": merge({"embed_dim": 16, "encoders": {"text": text}}, settings["model"]),
        "objectives": settings["objectives"],
        "optim": {"lr": 3e-3},
        "train": {"max_steps": 12},
        "eval": {"sources": held_out, "tasks": settings["tasks"]},
    }
    head_task = {"colour": {"type": "classification", "source": "held_out"}}
    finetune = {
        "run": {"dir": str(folder / "finetune")},
        "init": str(folder / "pretrain"),
        "head": settings["head"],
        "data": {**pretrain["data"], "sources": {"colours": colours}},
        "optim": {"lr": 1e-2},
        "train": {"max_steps": 12},
        "eval": {"sources": held_out, "tasks": head_task},
    }
    clips = {"clips": {"path": str(folder / "clips")}}
    sides = {m: {"source": "clips", "modality": m} for m in ("video", "text")}
    found = {"type": "retrieval", "query": sides["video"], "gallery": sides["text"]}
    suite = {
        "name": "extended",
        "sources": {**held_out, **clips},
        "tasks": {**settings["tasks"], "clip_and_caption": found},
    }
    for name, content in (("pretrain", pretrain), ("finetune", finetune), ("suite", suite)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))


def write_report(folder: Path, panels: dict[str, Any]) -> None:
    """report.yaml with the page's panel."""
    sources = {"held_out": {"path": str(folder / "colours"), "splits": ["val"]}}
    report = {"title": "Colours", "runs": {}, "sources": sources, "panels": panels}
    content = {**report, "out": str(folder / "report.html")}
    (folder / "report.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Everything of the page has run once, from a folder that is no part of the project."""
    folder = tmp_path_factory.mktemp("extending")
    write_modules(folder)
    make_videos(folder / "clips")
    train_bpe([f"something {c}, a {c} clip" for c in COLOURS], 270, folder / "tokenizer")
    recipes(folder, page_settings())
    transforms = str(folder / "mmfm" / "data" / "transforms")
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder / "package")
        patch.setattr(
            mmfm.data.transforms, "__path__", [*mmfm.data.transforms.__path__, transforms]
        )
        assert cli.main(["data", "make", "my_package.colours", str(folder / "colours")]) == 0
        for command in ("pretrain", "finetune"):
            launch(folder, transforms, command, str(folder / f"{command}.yaml"))
        write_report(folder, page_settings()["panels"])
        assert cli.main(["report", str(folder / "report.yaml")]) == 0
        judged, suite, out = (str(folder / n) for n in ("pretrain", "suite.yaml", "out"))
        assert cli.main(["eval", judged, suite, "--out", out]) == 0
        yield folder
    for name in set(sys.modules) - before:
        if name.startswith("my_package") or name == "mmfm.data.transforms.video":
            del sys.modules[name]


def launch(folder: Path, *arguments: str) -> None:
    path = os.pathsep.join([str(ROOT), str(folder / "package")])
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_source_made_its_shards(folder: Path) -> None:
    manifest = json.loads((folder / "colours" / "manifest.json").read_text())
    assert manifest["totals"] == {"image+text": 64}
    assert manifest["labels"] == {"colour": ["blue", "green", "grey", "red"]}
    assert manifest["splits"] == ["train", "val"]
    assert manifest["licence"] == "CC0-1.0"


def test_encoder_objective_and_modality_train_together(folder: Path) -> None:
    train = [r for r in rows(folder / "pretrain") if r.get("split") == "train"]
    assert len(train) == 12
    assert train[-1]["closeness_loss"] < 0.5 * train[0]["closeness_loss"]
    assert train[-1]["contrastive_loss"] != train[0]["contrastive_loss"]
    config = yaml.safe_load((folder / "pretrain" / "config.yaml").read_text())
    encoders = config["model"]["encoders"]
    assert encoders["image"]["type"] == "my_package.cell_encoder"
    assert encoders["image"]["width"] == 48
    assert encoders["video"]["type"] == "my_package.video_encoder"
    assert encoders["video"]["frames"] == 8  # the default, written out


def test_the_task_runs_in_the_loop_and_offline_alike(folder: Path) -> None:
    (in_loop,) = [r for r in rows(folder / "pretrain") if r.get("task") == "gap"]
    assert in_loop["metric"] == "modality_gap"
    assert in_loop["n"] == 16
    results = json.loads((folder / "out" / "results.json").read_text())["results"]
    (offline,) = [r for r in results if r["task"] == "gap"]
    assert offline["value"] == pytest.approx(in_loop["value"], rel=1e-5)
    assert 0 < offline["value"] < 2


def test_the_panel_stands_on_the_page(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert "<h2>What there is</h2>" in page
    assert "<tr><td>image+text</td><td>16</td></tr>" in page


def test_the_new_modality_is_retrieved_like_any_other(folder: Path) -> None:
    results = json.loads((folder / "out" / "results.json").read_text())["results"]
    found = {r["metric"]: r for r in results if r["task"] == "clip_and_caption"}
    assert found["video_to_text_R@1"]["n"] == 24
    assert found["text_to_video_R@1"]["n"] == 24


def test_the_head_learns(folder: Path) -> None:
    scores = [r for r in rows(folder / "finetune") if r.get("metric") == "accuracy"]
    assert [r["step"] for r in scores] == [0, 12]
    assert all(r["n"] == 16 for r in scores)
    assert scores[-1]["value"] >= 0.75
