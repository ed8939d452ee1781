"""What a run's checkpoints were trained on counts where it is tested."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmfm import cli
from mmfm.checkpoint import Checkpoint
from mmfm.data import overlap
from mmfm.data.manifest import Manifest
from mmfm.train.judging import lineage
from mmfm.train.judging.lineage import Seen, seen_before
from mmfm.train.recipe import load_finetune
from tests.tiny_heads import SMALL, recipe
from tests.train.judging.test_final_test import test_section as section

SHORT = {"max_steps": 1, "eval_every": 1, "save_every": 1}


def pictures(data: Path, split: str) -> dict[str, Any]:
    return {"pictures": {"path": str(data), "splits": [split], "modalities": ["image"]}}


def tuned(folder: Path, data: Path, split: str, **more: Any) -> Path:
    """A run on that split."""
    folder.mkdir()
    path = recipe(folder, data, data={"sources": pictures(data, split)}, train=SHORT, **more)
    assert cli.main(["finetune", path, "report=null"]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def seen(synthetic: Path, tmp_path_factory) -> Path:
    """Fine-tuned on what will be the test."""
    return tuned(tmp_path_factory.mktemp("seen") / "one", synthetic, "val")


@pytest.fixture(scope="module")
def apart(synthetic: Path, tmp_path_factory) -> Path:
    """Fine-tuned on what will be trained on."""
    return tuned(tmp_path_factory.mktemp("apart") / "one", synthetic, "train")


def at(checkpoint: Path, data: Path, *words: str) -> list[Seen]:
    """What a run that begins with `checkpoint` has seen of the validation split."""
    path = recipe(checkpoint.parent.parent, data)
    config = load_finetune(path, [f"init={checkpoint}", *words])
    return seen_before(config, {"held_out": Manifest.open(data, ["val"], ["image"])})


@pytest.mark.parametrize("how", ["init", "init/ema", "teacher", "teacher's teacher"])
def test_what_was_fine_tuned_on_is_no_test(
    seen: Path, synthetic: Path, tmp_path: Path, capfd, how: str
) -> None:
    if how == "teacher's teacher":
        middle = tuned(tmp_path / "middle", synthetic, "train", teacher={"path": str(seen)})
        words = [f"init={middle}", "init_head=never"]
    elif how == "init/ema":
        optim = {"lr": 3e-3, "ema": {"decay": 0.5}}
        words = [f"init={tuned(tmp_path / 'mean', synthetic, 'val', optim=optim)}/ema"]
    else:
        words = [f"teacher.path={seen}" if how == "teacher" else f"init={seen}"]
    path = recipe(tmp_path, synthetic, train=SHORT, test=section(synthetic))
    assert cli.main(["finetune", path, *words]) == 2
    message = capfd.readouterr().err
    assert "test.sources.held_out shares samples with data.sources.pictures of " in message
    assert "step_00000001, which was fine-tuned on them, " in message
    assert not (tmp_path / "run").exists()
    assert cli.main(["finetune", path, *words, "test={}", "--dry-run"]) == 0


def test_apart_from_what_was_fine_tuned_on(
    apart: Path, synthetic: Path, tmp_path: Path, capfd
) -> None:
    path = recipe(tmp_path, synthetic, train=SHORT, test=section(synthetic))
    assert cli.main(["finetune", path, f"init={apart}"]) == 0
    assert "shares samples" not in capfd.readouterr().err
    assert json.loads((tmp_path / "run/test.json").read_text())["seen_before"] == []


def test_a_run_that_goes_on_keeps_what_it_began_with(
    seen: Path, apart: Path, synthetic: Path, tmp_path: Path, capfd
) -> None:
    """Whatever `init` says by now; what was looked at is shown."""
    path = recipe(tmp_path, synthetic, train=SHORT)
    assert cli.main(["finetune", path, f"init={seen}"]) == 0
    path = recipe(tmp_path, synthetic, train={**SHORT, "max_steps": 2}, test=section(synthetic))
    assert cli.main(["finetune", path, f"init={apart}"]) == 2
    assert f"of {Checkpoint.open(seen).path}, which was fine-tuned" in capfd.readouterr().err
    (tmp_path / "run/test.json").write_text(
        json.dumps({"checkpoint": "step_00000002", "step": 2, "results": [], "seen_before": []})
    )
    assert cli.main(["finetune", path, f"init={apart}"]) == 0
    assert "test was looked at already" in capfd.readouterr().err


def test_what_was_pretrained_on_is_told(synthetic: Path, tmp_path: Path, capfd) -> None:
    both = {"path": str(synthetic), "splits": ["val"], "modalities": ["image", "text"]}
    folder = tmp_path / "pretrained"
    folder.mkdir()
    small = {"width": 16, "layers": 1, "heads": 2}
    text = {"type": "text_transformer", "tokenizer": str(synthetic / "tokenizer")}
    made = recipe(
        folder,
        synthetic,
        model={"encoders": {"image": {**SMALL, **small}, "text": {**text, **small}}},
        objectives={"pairs": {"type": "contrastive", "pairs": [["image", "text"]]}},
        data={"sources": {"pictures": both}},
        train=SHORT,
    )
    raw = yaml.safe_load(Path(made).read_text())
    del raw["head"], raw["eval"]
    Path(made).write_text(yaml.safe_dump(raw))
    assert cli.main(["pretrain", made]) == 0
    path = recipe(tmp_path, synthetic, train=SHORT, test=section(synthetic))
    words = ["finetune", path, f"init={folder / 'run'}"]
    capfd.readouterr()
    line = "test.sources.held_out shares samples with data.sources.pictures of "
    assert cli.main([*words, "--dry-run"]) == 0
    assert f"warning   {line}" in capfd.readouterr().out
    assert cli.main(words) == 0
    assert f"warning: {line}" in capfd.readouterr().err
    (told,) = json.loads((tmp_path / "run/test.json").read_text())["seen_before"]
    assert told.startswith(line)
    assert "which was pretrained on them, " in told
    assert told in (tmp_path / "run/report.html").read_text().replace("&#39;", "'")


def changed(run: Path, folder: Path, change: Any) -> Path:
    """A copy of a run whose checkpoint's recipe is another one."""
    copy = Path(shutil.copytree(run, folder / "copy/run"))
    file = copy / "checkpoints/step_00000001/config.yaml"
    config = yaml.safe_load(file.read_text())
    change(config)
    text = yaml.safe_dump(config)
    manifest = file.with_name("manifest.json")
    told = json.loads(manifest.read_text())
    told["files"]["config.yaml"]["bytes"] = len(text.encode())
    file.write_text(text)
    manifest.write_text(json.dumps(told))
    return copy


def test_no_command_and_no_url_of_a_checkpoint_is_followed(
    seen: Path, synthetic: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "executed"
    for path in (f"pipe:touch {marker}; cat x", "http://127.0.0.1:9/data", f"file:{synthetic}"):

        def change(config: Any, path: str = path) -> None:
            config["data"]["sources"]["pictures"]["path"] = path

        (one,) = at(changed(seen, tmp_path / path[:4], change), synthetic)
        assert one.unknown is not None
        assert "there is no manifest.json in " in one.unknown
        assert "data.sources.pictures of" in one.told()
        assert "is not known" in one.told()
    assert not marker.exists()


def test_what_teaches_an_objective_counts(
    seen: Path, apart: Path, synthetic: Path, tmp_path: Path
) -> None:
    def change(config: Any) -> None:
        config["objectives"] = {"one": {"teacher": str(seen)}, "two": {"teacher": {"type": "x"}}}

    (one,) = at(changed(apart, tmp_path, change), synthetic)
    assert (one.labelled, one.unknown) == (True, None)


def test_a_circle_ends(seen: Path, synthetic: Path, tmp_path: Path) -> None:
    def change(config: Any) -> None:
        config["init"] = str(tmp_path / "copy/run")

    (one,) = at(changed(seen, tmp_path, change), synthetic)
    assert one.labelled


def test_relative_paths_are_of_where_the_run_was_started(
    synthetic: Path, tmp_path: Path, monkeypatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "data").symlink_to(synthetic)
    monkeypatch.chdir(home)
    path = recipe(home, Path("data"), data={"sources": pictures(Path("data"), "val")}, train=SHORT)
    assert cli.main(["finetune", path, "report=null", "run.dir=runs/one", "eval={}"]) == 0
    monkeypatch.chdir(tmp_path)
    (one,) = at(home / "runs/one", synthetic)
    assert one.labelled


def test_what_is_gone_or_too_large_is_not_known(
    seen: Path, synthetic: Path, tmp_path: Path, monkeypatch
) -> None:
    """The data of the first, the checkpoint that the second began with, the ids of the third."""
    data = Path(shutil.copytree(synthetic, tmp_path / "data"))
    first = tuned(tmp_path / "first", data, "train")
    begun = tuned(tmp_path / "begun", synthetic, "train", teacher={"path": str(first)})
    shutil.rmtree(data)
    (one,) = at(first, synthetic)
    assert one.unknown is not None
    assert str(data) in one.unknown
    shutil.rmtree(first)
    (one,) = at(begun, synthetic)
    assert one.before == str(first)
    monkeypatch.setattr(overlap, "ID_LIMIT", 10)
    monkeypatch.setattr(lineage, "ID_LIMIT", 10)
    large, gone = at(begun, synthetic)
    assert "more than 10 samples" in str(large.unknown)
    assert gone.before == str(first)
    assert at(seen, synthetic)[0].labelled  # the same shards are found in any case
