"""Typed configuration: what is accepted, and the messages for what is not."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import pkgutil
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml

import mmfm
import mmfm_eval
from mmfm import config
from mmfm.config import Component, ConfigError, from_dict, load, read_yaml, to_dict
from mmfm.model import ModelConfig
from mmfm.train.recipe import FinetuneConfig, PretrainConfig, merge

ROOT = Path(__file__).parent.parent


@dataclass(kw_only=True)
class Inner:
    size: int = 3
    rate: float = 0.5
    pair: tuple[float, float] = (1.0, 2.0)
    kind: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"size = {self.size} must not be negative")


@dataclass(kw_only=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    parts: dict[str, Inner] = field(default_factory=dict)
    limit: int | None = None
    names: list[str] = field(default_factory=list)
    encoder: Annotated[Any | None, Component("mmfm.encoders")] = None
    free: dict[str, Any] = field(default_factory=dict)


def test_defaults_and_values() -> None:
    got = from_dict(Outer, {"name": "n", "inner": {"pair": [3, 4]}, "parts": {"x": {"size": 1}}})
    assert got == Outer(name="n", inner=Inner(pair=(3.0, 4.0)), parts={"x": Inner(size=1)})
    assert from_dict(Outer, {"name": "n", "inner": None}).inner == Inner()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"nam": "n"}, r"unknown key nam; did you mean 'name'\? Valid: name, inner"),
        ({"name": "n", "inner": {"sise": 1}}, r"unknown key inner\.sise; did you mean 'size'"),
        ({"name": "n", "parts": {"x": {"rat": 1}}}, r"parts\.x\.rat; did you mean 'rate'"),
        ({"name": "n", "inner": {"size": "many"}}, r"inner\.size = 'many': .*integer"),
        ({"name": "n", "inner": {"size": 1.5}}, r"inner\.size = 1\.5"),
        ({"name": "n", "inner": {"size": True}}, r"inner\.size = True: a number is needed"),
        ({"name": "n", "inner": {"rate": "x"}}, r"inner\.rate = 'x': .*number"),
        ({"name": "n", "inner": {"rate": "inf"}}, r"inner\.rate = 'inf': a finite number"),
        ({"name": "n", "inner": {"pair": [1, "x"]}}, r"inner\.pair\.1 = .*number"),
        ({"name": "n", "inner": {"pair": [1]}}, r"inner\.pair"),
        ({"name": "n", "inner": {"kind": "c"}}, r"inner\.kind = 'c': .*'a' or 'b'"),
        ({"name": "n", "names": "x"}, r"names = 'x': a list is needed, \[x\]"),
        ({"name": 3}, r"name = 3: .*string"),
        ({"name": "n", "inner": [1]}, r"inner must be a mapping, not \[1\]"),
        ({"name": "n", "parts": "x"}, r"parts must be a mapping, not 'x'"),
        ({"name": "n", "limit": "x"}, r"limit = 'x'"),
        ({"name": "n", "inner": {"size": -1}}, r"^inner: size = -1 must not be negative"),
        ({}, r"^name is required and has no default"),
        ({"name": "n", "encoder": {"width": 3}}, r"encoder\.type is required: one of .*timm_model"),
        ({"name": "n", "encoder": {"type": 3}}, r"encoder\.type is required"),
        ({"name": "n", "encoder": 3}, r"encoder must be a mapping with a key 'type'"),
        (
            {"name": "n", "encoder": {"type": "vision_transfomer"}},
            r"encoder\.type: no module 'vision_transfomer'; did you mean 'vision_transformer'",
        ),
        ({"name": "n", "encoder": {"type": "no.such.module"}}, r"no module 'no\.such\.module'"),
        ({"name": "n", "encoder": {"type": ".relative"}}, r"no module '\.relative'"),
        ({"name": "n", "encoder": {"type": "mmfm.types"}}, r"mmfm\.types has no dataclass named"),
        (
            {"name": "n", "encoder": {"type": "vision_transformer", "widht": 8}},
            r"unknown key encoder\.widht; did you mean 'width'",
        ),
        (
            {"name": "n", "encoder": {"type": "vision_transformer", "patch_size": 15}},
            r"^encoder: image_size = 224 must be a multiple",
        ),
    ],
)
def test_errors_name_path_value_and_nearest(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(Outer, raw)


def test_a_null_entry_takes_a_named_part_out() -> None:
    got = from_dict(Outer, {"name": "n", "parts": {"x": {"size": 1}, "y": None}})
    assert list(got.parts) == ["x"]
    assert from_dict(Outer, {"name": "n", "limit": None, "encoder": None}).encoder is None


def test_files_and_overrides(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text("name: n\nparts: {x: {size: 1}, y: {}}\n")
    got = load(
        Outer,
        path,
        ["inner.rate=3e-4", "parts.y=null", "parts.z.size=7", "limit=5", "free.a.b=[1, two]"],
    )
    assert got == Outer(
        name="n",
        inner=Inner(rate=3e-4),
        parts={"x": Inner(size=1), "z": Inner(size=7)},
        limit=5,
        free={"a": {"b": [1, "two"]}},
    )
    # A value may hold "=", and a string that YAML would not take for one.
    assert load(Outer, path, ["name=a=b"]).name == "a=b"
    assert load(Outer, path, ["limit=", "encoder="]).limit is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name", r"override 'name' must look like key\.sub=value"),
        ("=3", r"must look like"),
        ("name=[1", r"override 'name=\[1': the value is not valid YAML .*quote it: .name=\"\[1\""),
        ("name.sub=3", r"override 'name\.sub=3': name is 'n', not a mapping"),
        ("inner.siez=3", r"unknown key inner\.siez; did you mean 'size'"),
    ],
)
def test_bad_overrides(tmp_path: Path, override: str, message: str) -> None:
    path = tmp_path / "small.yaml"
    path.write_text("name: n\n")
    with pytest.raises(ConfigError, match=message):
        load(Outer, path, [override])


def test_bad_files(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"Did you mean .*quickstart\.yaml\?"):
        read_yaml(tmp_path / "quikstart.yaml")
    with pytest.raises(ConfigError, match=r"there is no configuration file .*nowhere/x\.yaml\.$"):
        read_yaml(tmp_path / "nowhere" / "x.yaml")
    with pytest.raises(ConfigError, match=r"quickstart\.yaml is not valid YAML"):
        read_yaml(tmp_path / "quickstart.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="must hold a mapping at its top, not list"):
        read_yaml(tmp_path / "list.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}


COMPONENT = """
from dataclasses import dataclass

@dataclass(kw_only=True)
class Config:
    depth: int = 2
"""


def test_components_by_short_and_dotted_type(tmp_path: Path, monkeypatch) -> None:
    short = from_dict(Outer, {"name": "n", "encoder": {"type": "vision_transformer", "width": 8}})
    assert type(short.encoder).__module__ == "mmfm.encoders.vision_transformer"
    assert to_dict(short)["encoder"]["type"] == "vision_transformer"
    package = tmp_path / "config_test_package"
    package.mkdir()
    (package / "part.py").write_text(COMPONENT)
    (package / "broken").mkdir()
    (package / "broken" / "__init__.py").write_text("import a_library_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    dotted = from_dict(
        Outer, {"name": "n", "encoder": {"type": "config_test_package.part", "depth": 5}}
    )
    assert dotted.encoder.depth == 5
    assert to_dict(dotted)["encoder"] == {"type": "config_test_package.part", "depth": 5}
    assert from_dict(Outer, to_dict(dotted)) == dotted
    # What is wrong inside the user's own module is not reported as a missing module.
    for kind in ("config_test_package.broken", "config_test_package.broken.part"):
        with pytest.raises(ModuleNotFoundError, match="a_library_that_is_not_there"):
            from_dict(Outer, {"name": "n", "encoder": {"type": kind}})


def test_a_module_in_a_folder_below_the_package_has_a_dotted_type() -> None:
    deep = type("Config", (), {"__module__": "mmfm.encoders.vendor.net"})()
    assert config.component_type(deep, "mmfm.encoders") == "mmfm.encoders.vendor.net"


def test_a_default_component_type() -> None:
    marker = Component("mmfm.fusion", default="late")
    got = config.component({}, marker, "fusion")
    assert config.component_type(got, "mmfm.fusion") == "late"


def full_recipe() -> dict[str, Any]:
    return {
        "run": {"dir": "runs/x", "seed": 3},
        "data": {
            "sources": {"a": {"path": "p", "splits": ["train"], "weight": 2}},
            "global_batch_size": 32,
            "transforms": {"image": {"type": "image", "crop_scale": [0.5, 1.0]}},
        },
        "model": {
            "encoders": {
                "image": {"type": "vision_transformer", "mean": [0.1, 0.2, 0.3]},
                "text": {"type": "text_transformer", "tokenizer": "t"},
                "audio": {"type": "audio_transformer"},
            },
            "fusion": {"type": "late"},
        },
        "objectives": {
            "contrastive": {"type": "contrastive", "pairs": [["image", "text"]]},
            "mlm": {"type": "masked_text"},
        },
        "optim": {"betas": [0.9, 0.95]},
        "train": {"grad_cache": False, "micro_batch_negatives": True},
        "eval": {
            "sources": {"v": {"path": "p"}},
            "tasks": {
                "r": {
                    "type": "retrieval",
                    "query": {"source": "v", "modality": "image"},
                    "gallery": {"source": "v", "modality": "text"},
                }
            },
        },
        "deepspeed": {"zero_optimization": {"reduce_bucket_size": 5}},
    }


def test_a_complete_recipe_survives_a_round_trip() -> None:
    recipe = from_dict(PretrainConfig, full_recipe())
    text = config.dump(recipe)
    again = from_dict(PretrainConfig, yaml.safe_load(text))
    assert again == recipe
    assert again.optim.betas == (0.9, 0.95)
    assert again.train.grad_cache is False
    plain = yaml.safe_load(text)
    # Complete: every default is written out.
    assert plain["train"]["max_steps"] == 1000
    assert set(plain) == {f.name for f in dataclasses.fields(PretrainConfig)}


RECIPES = sorted((ROOT / "configs").glob("pretrain/*.yaml"))
HEADS = sorted((ROOT / "configs").glob("finetune/*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_shipped_pretraining_recipes_survive_a_round_trip(path: Path) -> None:
    recipe = load(PretrainConfig, path)
    assert from_dict(PretrainConfig, yaml.safe_load(config.dump(recipe))) == recipe


@pytest.mark.parametrize("path", HEADS, ids=lambda p: p.stem)
def test_shipped_finetuning_recipes_survive_a_round_trip(path: Path) -> None:
    raw = read_yaml(path)
    if "init" in raw:  # the rest of the model comes from the checkpoint
        raw["model"] = merge(full_recipe()["model"], raw.get("model", {}))
    recipe = from_dict(FinetuneConfig, raw)
    assert from_dict(FinetuneConfig, yaml.safe_load(config.dump(recipe))) == recipe


def test_shipped_recipes_hold_only_what_differs_from_the_defaults() -> None:
    assert RECIPES
    for path in RECIPES:
        raw = read_yaml(path)
        for section in ("optim", "train", "eval"):
            kind = {f.name: f for f in dataclasses.fields(PretrainConfig)}[section].default_factory
            for key, value in raw.get(section, {}).items():
                default = getattr(kind(), key)
                assert value != (list(default) if isinstance(default, tuple) else default), (
                    f"{path.name}: {section}.{key} is the default"
                )


def test_the_model_of_a_recipe_alone() -> None:
    model = full_recipe()["model"]
    assert from_dict(ModelConfig, model, "model") == from_dict(PretrainConfig, full_recipe()).model


# ---------------------------------------------------------------- no setting without a reader


def config_classes() -> dict[str, type]:
    """Every dataclass of settings in the library and the suites."""
    found = {}
    for package in (mmfm, mmfm_eval):
        for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if info.name.endswith(("__main__", ".trackers.wandb", ".trackers.mlflow")):
                continue  # those two need libraries that need not be there, and have no settings
            module = importlib.import_module(info.name)
            for name, item in vars(module).items():
                settings = name == "Config" or re.fullmatch(r"\w+(Config|Source)", name)
                here = getattr(item, "__module__", None) == info.name
                if settings and here and dataclasses.is_dataclass(item):
                    found[f"{info.name}.{name}"] = item
    return found


def attributes_read() -> set[str]:
    """Names that some code reads as an attribute, or by getattr with a name written out.

    What the dataclasses' own checks read doesn't count.
    """
    read = set()
    for folder in ("mmfm", "eval/mmfm_eval", "data_prep/mmfm_prep"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            skip = {
                node
                for check in ast.walk(tree)
                if isinstance(check, ast.FunctionDef) and check.name == "__post_init__"
                for node in ast.walk(check)
            }
            for node in ast.walk(tree):
                if node in skip:
                    continue
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    read.add(node.attr)
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
                    read |= {a.value for a in node.args if isinstance(a, ast.Constant)}
        for template in (ROOT / folder).rglob("*.j2"):
            read |= set(re.findall(r"\.(\w+)", template.read_text(encoding="utf-8")))
    return read


def test_every_setting_is_read_by_some_code() -> None:
    classes, read = config_classes(), attributes_read()
    assert len(classes) > 20
    unread = [
        f"{name}.{f.name}"
        for name, cls in classes.items()
        for f in dataclasses.fields(cls)
        if f.name not in read
    ]
    assert not unread
