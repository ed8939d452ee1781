"""What is searched: any settings of a recipe, each with a range or a list of choices.

    search:
      optim.lr: {low: 1.0e-5, high: 1.0e-3, log: true}
      optim.warmup_steps: {low: 0, high: 100, step: 20}
      head.dropout: [0.0, 0.1, 0.3]
      head.modalities: [[image], [image, text]]
    search_by: {task: shape, metric: accuracy}

A range between two whole numbers gives whole numbers. Without `search_by`, `train.keep_best` says
which score counts.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from mmfm.config import ConfigError, apply_overrides, from_dict, nearest, read_yaml
from mmfm.train.judging.best import KeepBest
from mmfm.train.recipe import Recipe, load_finetune, load_pretrain

Settings = dict[str, Any]
"""Dotted name of a setting ▶ its value."""


class Suggests(Protocol):
    """What a range or a list needs of an optuna trial."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int: ...
    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None, log: bool
    ) -> float: ...
    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(kw_only=True)
class Range:
    """From `low` to `high`, both included; `log`: small numbers as often as large ones; `step`:
    only multiples of it above `low`.
    """

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low = {self.low} must be below high = {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0, and no step")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step = {self.step} must be above 0")

    def suggest(self, trial: Suggests, name: str) -> int | float:
        numbers = (self.low, self.high, 1 if self.step is None else self.step)
        if all(isinstance(number, int) for number in numbers):
            low, high, step = map(int, numbers)
            return trial.suggest_int(name, low, high, step=step, log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def examples(self) -> list[Any]:
        return [self.low, self.high]

    def __str__(self) -> str:
        step = "" if self.step is None else f" in steps of {self.step:g}"
        return f"{self.low:g} to {self.high:g}{step}{', log' if self.log else ''}"


@dataclass(frozen=True)
class Choices:
    """One of some values; what is no plain value stands in optuna's storage as JSON."""

    values: tuple[Any, ...]

    def suggest(self, trial: Suggests, name: str) -> Any:
        return self.values[self.stored.index(trial.suggest_categorical(name, self.stored))]

    def examples(self) -> list[Any]:
        return list(self.values)

    def __str__(self) -> str:
        return ", ".join(map(json.dumps, self.values))

    @property
    def stored(self) -> list[Any]:
        plain = (str, int, float, type(None))
        # False equals 0 and True 1, and where both are among the values the second is never found.
        return [
            v if isinstance(v, plain) and not isinstance(v, bool) else json.dumps(v)
            for v in self.values
        ]


@dataclass(frozen=True)
class Search:
    """A recipe without its section `search`, as plain data, and what is searched in it."""

    recipe: dict[str, Any]
    space: dict[str, Range | Choices]
    by: KeepBest

    @property
    def command(self) -> str:
        """The command that runs a trial."""
        return "finetune" if "head" in self.recipe else "pretrain"

    @property
    def folder(self) -> Path:
        return Path(self.recipe["run"]["dir"])

    def suggest(self, trial: Suggests) -> Settings:
        return {name: one.suggest(trial, name) for name, one in self.space.items()}

    def with_settings(self, settings: Settings, **sections: Any) -> dict[str, Any]:
        """The recipe with these settings and sections in the place of its own."""
        raw: dict[str, Any] = json.loads(json.dumps({**self.recipe, **sections}))
        apply_overrides(raw, as_overrides(settings))
        return raw

    def of_trial(self, settings: Settings, folder: Path) -> dict[str, Any]:
        """The recipe of a trial: it never sees the test."""
        run = {**self.recipe["run"], "dir": str(folder), "resume": "auto"}
        return self.with_settings(settings, run=run, test={})

    def compared_by(self, settings: Settings) -> KeepBest | None:
        """The score by which a run with these settings chooses the checkpoint that it hands out."""
        wanted = (self.with_settings(settings).get("train") or {}).get("keep_best")
        return None if wanted is None else from_dict(KeepBest, wanted, "train.keep_best")


def as_overrides(settings: Settings) -> list[str]:
    """``key=value`` words for the command line."""
    return [f"{name}={json.dumps(value)}" for name, value in settings.items()]


def read_search(config: str | Path, overrides: Sequence[str] = ()) -> Search:
    """The search of a recipe; ConfigError where a setting isn't one of the recipe's, or a value of
    it can't be.
    """
    raw = read_yaml(config, overrides)
    wanted, by = raw.pop("search", None), raw.pop("search_by", None)
    if not isinstance(wanted, Mapping) or not wanted:
        raise ConfigError(
            "search: name the settings to be searched, such as "
            "search: {optim.lr: {low: 1.0e-5, high: 1.0e-3, log: true}}"
        )
    space = dict(_flat(wanted, ""))
    by = by or (raw.get("train") or {}).get("keep_best")
    if by is None:
        raise ConfigError("search_by: name the task and the metric that count, or train.keep_best")
    search = Search(raw, space, from_dict(KeepBest, by, "search_by"))
    _check(search)
    return search


def _flat(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Range | Choices]]:
    for key, value in node.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, list):
            if len(value) < 2:
                raise ConfigError(f"search.{name} = {value!r}: at least two choices are needed")
            yield name, Choices(tuple(value))
        elif isinstance(value, Mapping) and {"low", "high"} & value.keys():
            yield name, from_dict(Range, value, f"search.{name}")
        elif isinstance(value, Mapping) and value:
            yield from _flat(value, name)
        else:
            raise ConfigError(
                f"search.{name} = {value!r}: a list, or {{low: …, high: …}} is needed"
            )


def _check(search: Search) -> None:
    """Every choice and both ends of every range make a recipe that can be read."""
    for name in search.space:
        if name in ("run.dir", "run.resume") or name.split(".")[0] == "test":
            raise ConfigError(f"search.{name}: that is nothing to be searched")
    first = {name: one.examples()[0] for name, one in search.space.items()}
    recipe = _loaded(search, {}, None)
    if search.by.task not in recipe.eval.tasks:
        raise ConfigError(
            f"search_by.task = {search.by.task!r} is none of eval.tasks"
            f"{nearest(search.by.task, recipe.eval.tasks)}"
        )
    for name, one in search.space.items():
        for value in one.examples():
            _loaded(search, {**first, name: value}, name)


def _loaded(search: Search, settings: Settings, name: str | None) -> Recipe:
    load = load_finetune if search.command == "finetune" else load_pretrain
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        yaml.safe_dump(search.with_settings(settings), file, allow_unicode=True)
        file.flush()
        try:
            return load(file.name)
        except ConfigError as error:
            if name is None:
                raise
            raise ConfigError(f"search.{name} = {settings[name]!r}: {error}") from None
