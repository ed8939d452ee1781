"""What a run's checkpoints were trained on counts where it is tested."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmfm import cli
from mmfm.train.judging.lineage import trained_before
from mmfm.train.recipe import load_finetune
from tests.tiny_heads import recipe
from tests.train.judging.test_final_test import test_section as section

SHORT = {"max_steps": 1, "eval_every": 1, "save_every": 1}
OBJECTIVE = {"type": "contrastive", "pairs": [["image", "text"]]}


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
    assert "step_00000001" in message
    assert not (tmp_path / "run").exists()
    assert cli.main(["finetune", path, *words, "test={}", "--dry-run"]) == 0


def test_apart_from_what_was_fine_tuned_on(synthetic: Path, tmp_path: Path, capfd) -> None:
    first = tuned(tmp_path / "first", synthetic, "train")
    capfd.readouterr()
    path = recipe(tmp_path, synthetic, train=SHORT, test=section(synthetic))
    assert cli.main(["finetune", path, f"init={first}"]) == 0
    assert "shares samples" not in capfd.readouterr().err
    assert json.loads((tmp_path / "run/test.json").read_text())["seen_before"] == []


def test_what_was_pretrained_on_is_told(synthetic: Path, tmp_path: Path, capfd) -> None:
    both = {"path": str(synthetic), "splits": ["val"], "modalities": ["image", "text"]}
    folder = tmp_path / "pretrained"
    folder.mkdir()
    text = {"type": "text_transformer", "tokenizer": str(synthetic / "tokenizer")}
    small = {"width": 16, "layers": 1, "heads": 2}
    encoders = {
        "image": {"type": "vision_transformer", "image_size": 16, "patch_size": 8, **small},
        "text": {**text, **small},
    }
    made = recipe(
        folder,
        synthetic,
        model={"encoders": encoders},
        objectives={"pairs": OBJECTIVE},
        data={"sources": {"pictures": both}},
        train=SHORT,
    )
    raw = yaml.safe_load(Path(made).read_text())
    Path(made).write_text(
        yaml.safe_dump({k: v for k, v in raw.items() if k not in ("head", "eval")})
    )
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


def test_what_is_gone_is_told(synthetic: Path, tmp_path: Path) -> None:
    """The data of the one, and the checkpoint that the other began with."""
    data = Path(shutil.copytree(synthetic, tmp_path / "data"))
    first = tuned(tmp_path / "first", data, "train")
    second = tuned(tmp_path / "second", synthetic, "train")
    third = tmp_path / "third"
    third.mkdir()
    made = recipe(third, synthetic, train=SHORT)
    assert cli.main(["finetune", made, f"init={second}", "report=null"]) == 0
    shutil.rmtree(data)
    shutil.rmtree(second)
    path = recipe(tmp_path, synthetic, train=SHORT, test=section(synthetic))
    for init, gone in ((first, "data.sources.pictures of "), (third / "run", str(second))):
        found = list(trained_before(load_finetune(path, [f"init={init}"])))
        (unknown,) = [before for before in found if before.manifest is None]
        assert unknown.where.startswith(gone)
        assert unknown.why


def test_each_checkpoint_counts_once(seen: Path, synthetic: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path, synthetic, teacher={"path": str(seen)})
    (before,) = trained_before(load_finetune(path, [f"init={seen}"]))
    assert before.labelled
    assert before.manifest is not None
