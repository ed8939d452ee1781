"""The complete recipe of a run: every section of its YAML, each owned by the part that reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from mmfm.checkpoint import Checkpoint
from mmfm.config import Component, ConfigError, component, from_dict, read_yaml
from mmfm.data.pipeline import DataConfig
from mmfm.data.subset import SubsetConfig
from mmfm.task import FinetuneTaskConfig, PretrainTaskConfig
from mmfm.train.epochs import resolve_epochs
from mmfm.train.optim import OptimConfig
from mmfm.train.trainer import TrainConfig

PAGE = Component("mmfm_eval.report.runs", "finetuned")


@dataclass(kw_only=True)
class RunConfig:
    """`resume`: "auto" continues what is in `dir`, "never" refuses a folder in use, a path
    continues from there. `feature_cache`: the folder for outputs of frozen encoders with ``cache:
    true``. `trackers`: "tensorboard", "wandb", "mlflow", or dotted modules as those of
    `mmfm.train.log.trackers`.
    """

    dir: str
    seed: int = 0
    resume: str = "auto"
    feature_cache: str = "cache/features"
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed = {self.seed} must be from 0 to 2**63 - 1")


@dataclass(kw_only=True)
class EvalSource:
    """What `Manifest.open` takes: a folder of shards, which of its splits, which modalities; and
    which part of it, as `mmfm.data.subset` draws it.
    """

    path: str
    splits: list[str] | None = None
    modalities: list[str] | None = None
    subset: SubsetConfig | None = None


@dataclass(kw_only=True)
class EvalConfig:
    """What is evaluated every `train.eval_every` steps and at the end: the tasks of the eval
    suites.
    """

    sources: dict[str, EvalSource] = field(default_factory=dict)
    tasks: dict[str, Annotated[Any, Component("mmfm_eval.tasks")]] = field(default_factory=dict)
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size = {self.batch_size} must be at least 1")


@dataclass(kw_only=True)
class Recipe:
    """The sections that pretraining and fine-tuning share. `test` is as `eval`, but looked at once,
    when the run is done. `deepspeed` overrides keys of DeepSpeed's own JSON.
    """

    run: RunConfig
    data: DataConfig
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    test: EvalConfig = field(default_factory=EvalConfig)
    deepspeed: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        moving = self.optim.warmup_steps + self.optim.decay_steps
        if self.optim.decay_steps and moving > self.train.max_steps:
            raise ValueError(
                f"optim.warmup_steps and optim.decay_steps are {moving} steps together, more than "
                f"train.max_steps = {self.train.max_steps}"
            )


@dataclass(kw_only=True)
class PretrainConfig(Recipe, PretrainTaskConfig):
    """``mmfm pretrain``. `init`: a checkpoint whose model's weights the run starts from."""

    init: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_start(self.optim, self.init)
        for name, objective in self.objectives.items():
            if objective.start_step >= self.train.max_steps:
                raise ValueError(
                    f"objectives.{name}.start_step = {objective.start_step}: the run is over by "
                    f"then (train.max_steps = {self.train.max_steps}); leave the objective out"
                )


@dataclass(kw_only=True)
class FinetuneConfig(Recipe, FinetuneTaskConfig):
    """``mmfm finetune``. With `init`, `model` need only hold what differs from the checkpoint's.

    `freeze`: "none" trains all that the model's own settings leave trainable, "encoders" all but
    the encoders, "model" the head only. For `init_head` and `replay` see `mmfm.train.head.refit`.
    `report` writes report.html, null the plain one of pretraining.
    """

    init: str | None = None
    init_head: Literal["auto", "never"] = "auto"
    replay: float = 0.0
    freeze: Literal["none", "encoders", "model"] = "none"
    report: Annotated[Any | None, PAGE] = field(default_factory=lambda: component({}, PAGE))

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_start(self.optim, self.init)
        if not 0 <= self.replay < 1:
            raise ConfigError(f"replay = {self.replay} is a share of the draws, in [0, 1)")
        if self.replay and self.init is None:
            raise ConfigError("replay is of what a checkpoint was trained on: name it as init")
        if self.lora is not None and self.freeze == "model":
            raise ConfigError(
                "freeze = model trains the head only, but lora is for the model: leave one out"
            )


def _check_start(optim: OptimConfig, init: str | None) -> None:
    if optim.l2_sp and init is None:
        raise ConfigError(
            "optim.l2_sp draws weights to those of a pretrained model: name its checkpoint as init"
        )


def load_pretrain(path: str | Path, overrides: Sequence[str] = ()) -> PretrainConfig:
    raw = _read(path, overrides)
    resolve_epochs(raw)
    return from_dict(PretrainConfig, raw)


def load_finetune(path: str | Path, overrides: Sequence[str] = ()) -> FinetuneConfig:
    """As for pretraining; the settings of the model and of `data.transforms` come from the
    checkpoint `init`, changed by those of the file.
    """
    raw = _read(path, overrides)
    init, model = raw.get("init"), raw.get("model") or {}
    replayed: set[str] = set()
    if init is not None:
        if not isinstance(init, str):
            raise ConfigError(f"init = {init!r}: the path of a checkpoint is needed")
        if not isinstance(model, Mapping):
            raise ConfigError(f"model must be a mapping, not {model!r}")
        before = Checkpoint.open(init, verify=False)
        raw["model"] = merge(before.config["model"], model)
        data = raw.get("data")
        if isinstance(data, dict) and isinstance(data.get("transforms") or {}, Mapping):
            encoders = raw["model"].get("encoders") or {}
            known = before.preprocessing["transforms"].items()
            inherited = {m: settings for m, settings in known if encoders.get(m)}
            data["transforms"] = merge(inherited, data.get("transforms") or {})
        if raw.get("replay"):
            replayed = _inherit_replayed(data, before)
    elif "model" not in raw:
        raise ConfigError("name a checkpoint as init, or describe a model")
    resolve_epochs(raw, replayed)
    return from_dict(FinetuneConfig, raw)


def _inherit_replayed(data: Any, before: Checkpoint) -> set[str]:
    """What ``data.sources.replay-NAME`` doesn't set is as it was in the checkpoint's recipe; the
    names of all that are replayed.
    """
    there = {f"replay-{name}": one for name, one in before.config["data"]["sources"].items()}
    sources = data.get("sources") if isinstance(data, Mapping) else None
    if isinstance(sources, dict):
        both = {name: sources[name] for name in there if isinstance(sources.get(name), Mapping)}
        sources.update({name: merge(there[name], over) for name, over in both.items()})
    return set(there)


def _read(path: str | Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The recipe without what only `mmfm tune` reads: it runs as it stands."""
    raw = read_yaml(path, overrides)
    return {key: value for key, value in raw.items() if key not in ("search", "search_by")}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the entries of `over`, mappings merged; another ``type`` replaces the whole
    mapping.
    """
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = value
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            same = value.get("type", old.get("type")) == old.get("type")
            merged[key] = merge(old, value) if same else value
    return merged
