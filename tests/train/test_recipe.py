"""Whole recipes: sections, defaults, and a fine-tuning recipe that inherits its model."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mmfm.config import ConfigError
from mmfm.train.recipe import load_finetune, load_pretrain, merge
from tests.eval.tiny_checkpoint import make_checkpoint

DATA = {"sources": {"a": {"path": "p"}}, "global_batch_size": 16}


def write(path: Path, **sections: object) -> Path:
    path.write_text(yaml.safe_dump(sections))
    return path


def test_defaults_of_a_small_recipe(tmp_path: Path) -> None:
    path = write(
        tmp_path / "r.yaml",
        run={"dir": "runs/x"},
        data=DATA,
        model={"encoders": {"image": {"type": "vision_transformer"}}},
        objectives={"c": {"type": "contrastive"}},
    )
    recipe = load_pretrain(path, ["train.micro_batch_size=4", "run.resume=never"])
    assert recipe.train.micro_batch_size == 4
    assert (recipe.run.resume, recipe.run.seed, recipe.run.dir) == ("never", 0, "runs/x")
    assert recipe.train.grad_cache == "auto"
    assert recipe.init is None
    assert recipe.eval.tasks == {}
    with pytest.raises(ConfigError, match=r"unknown key train\.micro_batchsize; did you mean"):
        load_pretrain(path, ["train.micro_batchsize=4"])
    with pytest.raises(ConfigError, match=r"unknown key head"):
        load_pretrain(path, ["head.type=classification"])


@pytest.mark.parametrize("missing", ["run", "data", "model", "objectives"])
def test_required_sections(tmp_path: Path, missing: str) -> None:
    sections = {
        "run": {"dir": "x"},
        "data": DATA,
        "model": {"encoders": {"image": {"type": "vision_transformer"}}},
        "objectives": {},
    }
    del sections[missing]
    with pytest.raises(ConfigError, match=f"^{missing} is required"):
        load_pretrain(write(tmp_path / "r.yaml", **sections))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.max_steps=0", r"train: max_steps = 0 must be at least 1"),
        ("train.micro_batch_size=0", r"train: micro_batch_size = 0 must be at least 1"),
        ("train.micro_batch_size=-4", r"train: micro_batch_size = -4"),
        ("train.save_every=0", r"train: save_every = 0"),
        ("train.keep_checkpoints=0", r"train: keep_checkpoints = 0"),
        ("train.zero_stage=4", r"train\.zero_stage = 4"),
        ("train.precision=fp64", r"train\.precision = 'fp64'"),
        ("train.grad_cache=maybe", r"train\.grad_cache"),
        ("eval.tasks.x.type=retrievel", r"eval\.tasks\.x\.type: no module 'retrievel'; did you"),
        ("data.max_bad_share=2", r"data: max_bad_share"),
        ("data.sources=null", r"data\.sources must be a mapping"),
        ("data.max_sample_bytes=0", r"data: max_sample_bytes = 0 must be at least 1"),
        ("optim.lr=-1", r"optim: lr"),
        ("optim.grad_clip=.nan", r"optim\.grad_clip = nan: a finite number is needed"),
        ("eval.batch_size=0", r"eval: batch_size = 0 must be at least 1"),
        ("objectives.c.start_step=1000", r"objectives\.c\.start_step = 1000: the run is over"),
    ],
)
def test_bad_values_name_their_section(tmp_path: Path, override: str, message: str) -> None:
    path = write(
        tmp_path / "r.yaml",
        run={"dir": "x"},
        data=DATA,
        model={"encoders": {"image": {"type": "vision_transformer"}}},
        objectives={"c": {"type": "contrastive"}},
    )
    with pytest.raises(ConfigError, match=message):
        load_pretrain(path, [override])


def test_merge() -> None:
    base = {"a": 1, "m": {"type": "x", "width": 3, "depth": 2}, "n": {"p": {"q": 1, "r": 2}}}
    assert merge(base, {}) == base
    got = merge(base, {"m": {"width": 5}, "n": {"p": {"q": 7}}, "b": None})
    assert got["m"] == {"type": "x", "width": 5, "depth": 2}
    assert got["n"] == {"p": {"q": 7, "r": 2}}
    assert got["b"] is None
    # Another type brings its own settings: nothing of the old ones is left.
    assert merge(base, {"m": {"type": "y"}})["m"] == {"type": "y"}
    assert merge(base, {"m": {"type": "x", "depth": 9}})["m"]["width"] == 3
    assert merge(base, {"m": None})["m"] is None
    assert base["m"] == {"type": "x", "width": 3, "depth": 2}


def test_a_model_from_a_checkpoint(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "run")
    path = write(
        tmp_path / "f.yaml",
        run={"dir": "x"},
        data=DATA,
        init=str(checkpoint),
        head={"type": "classification", "label": "shape"},
        model={"encoders": {"image": {"frozen": True}, "text": {"dropout": 0.3}}},
    )
    recipe = load_finetune(path, ["model.fusion.dropout=0.2", "freeze=encoders"])
    image = recipe.model.encoders["image"]
    assert (image.frozen, image.width, image.patch_size) == (True, 16, 4)
    assert recipe.model.encoders["text"].dropout == 0.3
    assert recipe.model.fusion.dropout == 0.2
    assert recipe.model.embed_dim == 16
    assert set(recipe.model.encoders) == {"image", "text", "audio"}
    assert recipe.freeze == "encoders"
    with pytest.raises(ConfigError, match=r"freeze = 'all'"):
        load_finetune(path, ["freeze=all"])
    with pytest.raises(ValueError, match="there is no checkpoint in"):
        load_finetune(path, [f"init={tmp_path / 'nowhere'}"])
    # null takes an encoder out of what was inherited.
    assert set(load_finetune(path, ["model.encoders.audio=null"]).model.encoders) == {
        "image",
        "text",
    }


def test_transforms_from_a_checkpoint(tmp_path: Path) -> None:
    """A head sees the texts that the model was trained with, unless the file says otherwise."""
    text = {"type": "text", "caption": "first", "languages": ["en"]}
    checkpoint = make_checkpoint(tmp_path / "run", transforms={"text": text})
    head = {"type": "classification", "label": "shape"}
    path = write(tmp_path / "f.yaml", run={"dir": "x"}, data=DATA, init=str(checkpoint), head=head)
    assert load_finetune(path).data.transforms["text"].caption == "first"
    changed = load_finetune(path, ["data.transforms.text.languages=[de]"]).data.transforms["text"]
    assert (changed.caption, changed.languages) == ("first", ["de"])
    assert load_finetune(path, ["model.encoders.text=null"]).data.transforms == {}


def test_a_fine_tuning_recipe_needs_a_model(tmp_path: Path) -> None:
    path = write(
        tmp_path / "f.yaml",
        run={"dir": "x"},
        data=DATA,
        head={"type": "classification", "label": "shape"},
    )
    with pytest.raises(ConfigError, match="name a checkpoint as init, or describe a model"):
        load_finetune(path)
