"""The trials of a search in an optuna study on disk, shared by any number of processes.

The study lies in ``tune.db`` in the search's folder. Whoever runs a trial holds a lock on it; a
trial that is said to run and that nobody holds belongs to a process that is gone. It counts as
failed, and its settings are tried again where it had got to.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from mmfm.config import ConfigError, nearest
from mmfm.files import hold, let_go
from mmfm.tune.space import Search, Settings
from mmfm.tune.trial import Outcome

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed),
    "random": lambda seed: RandomSampler(seed=seed),
    "gp": lambda seed: GPSampler(seed=seed),
}
PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "median": optuna.pruners.MedianPruner,
    "halving": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "none": optuna.pruners.NopPruner,
}
FAILURES = 3
"""The search ends when its first so many trials have all failed."""
_WAIT_S = 60.0


@dataclass
class Claim:
    """A trial that this process runs, until `lock` is let go."""

    trial: optuna.Trial
    settings: Settings
    folder: Path
    lock: IO[str]


@dataclass
class Trials:
    """The study of a search. `limit`: how many trials there are to be in all; `keep`: whether the
    checkpoints of all trials stay, and not only those of the best.
    """

    search: Search
    limit: int
    sampler: str = "tpe"
    pruner: str = "median"
    seed: int = 0
    keep: bool = False
    study: optuna.Study = field(init=False)

    def __post_init__(self) -> None:
        self.folder = self.search.folder / "trials"
        for what, name, known in (
            ("sampler", self.sampler, SAMPLERS),
            ("pruner", self.pruner, PRUNERS),
        ):
            if name not in known:
                raise ConfigError(f"--{what} {name}: there is none{nearest(name, known)}")

    def open(self) -> None:
        """Make the study, or go on with the one that is there; ConfigError where that is of another
        recipe or search.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder.mkdir(parents=True, exist_ok=True)
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{(self.search.folder / 'tune.db').absolute()}",
            engine_kwargs={"connect_args": {"timeout": _WAIT_S}},
        )
        with self._alone():
            self.study = optuna.create_study(
                study_name="tune",
                storage=storage,
                direction="maximize" if self.search.by.mode == "max" else "minimize",
                load_if_exists=True,
                pruner=PRUNERS[self.pruner](),
            )
            attributes = self.study.user_attrs
            about = _about(self.search)
            before = attributes.get("about", about)
            if before != about:
                raise ConfigError(
                    f"run.dir = {self.search.folder} holds a search with other settings: "
                    f"{_differences(before, about)}. Set them back, or name another run.dir"
                )
            processes = attributes.get("processes", 0)
            self.study.set_user_attr("about", about)
            self.study.set_user_attr("processes", processes + 1)
            # One that draws what another has drawn already would learn nothing.
            self.study.sampler = SAMPLERS[self.sampler](self.seed + 100_003 * processes)

    def next(self) -> Claim | None:
        """A trial for this process; None where there are enough. ConfigError where the first ones
        have all failed.
        """
        with self._alone():
            self._recover()
            counted = self.counted()
            failed = [t for t in counted if t.state == TrialState.FAIL]
            finished = [t for t in counted if t.state.is_finished()]
            if len(failed) >= FAILURES and len(failed) == len(finished):
                raise ConfigError(
                    f"the first {len(failed)} trials have failed, the last one with: "
                    f"{failed[-1].user_attrs.get('error')} (see {self.folder}/*.txt). Mend that, "
                    "and start again in another run.dir"
                )
            if len(counted) >= self.limit:
                return None
            trial = self.study.ask()
            settings = self.search.suggest(trial)
            name = trial.user_attrs.get("folder", f"{trial.number:04d}")
            trial.set_user_attr("folder", name)
            lock = self._lock_of(trial.number)
            held = hold(lock, 0)
            assert held
            return Claim(trial, settings, self.folder / name, lock)

    def finish(self, claim: Claim, outcome: Outcome) -> None:
        """Write down how a trial ended; one that was stopped is left to whoever goes on."""
        with self._alone():
            value = outcome.value
            error = outcome.error
            if outcome.state == "complete" and (value is None or math.isnan(value)):
                error = f"its score is {value}"
            if outcome.state == "pruned":
                self.study.tell(claim.trial, state=TrialState.PRUNED)
            elif outcome.state == "complete" and not error:
                self.study.tell(claim.trial, value)
            elif outcome.state != "stopped":
                claim.trial.set_user_attr("error", error)
                self.study.tell(claim.trial, state=TrialState.FAIL)
            let_go(claim.lock)
            if not self.keep:
                self._tidy()

    def counted(self) -> list[FrozenTrial]:
        """The trials that count for the limit: without those that only wait, and without those
        whose settings were tried again.
        """
        every = self.study.get_trials(deepcopy=False)
        again = {t.user_attrs.get("again") for t in every}
        return [t for t in every if t.state != TrialState.WAITING and t.number not in again]

    def best(self) -> FrozenTrial | None:
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return self.study.best_trial if done else None

    def settings_of(self, trial: FrozenTrial) -> Settings:
        return self.search.suggest(optuna.trial.FixedTrial(trial.params))

    def _recover(self) -> None:
        """Take over the trials that nobody runs any more."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            lock = self._lock_of(trial.number)
            if hold(lock, 0):
                about = {**trial.user_attrs, "again": trial.number}
                self.study.tell(trial.number, state=TrialState.FAIL)
                self.study.enqueue_trial(trial.params, user_attrs=about)
            let_go(lock)

    def _tidy(self) -> None:
        """Delete the checkpoints of trials that are done and aren't the best."""
        every = self.study.get_trials(deepcopy=False)
        best = self.best()
        stay = {t.user_attrs.get("folder") for t in every if not t.state.is_finished()}
        stay |= {best.user_attrs.get("folder")} if best else set()
        for trial in every:
            name = trial.user_attrs.get("folder")
            if name is not None and name not in stay and trial.state != TrialState.FAIL:
                shutil.rmtree(self.folder / name / "checkpoints", ignore_errors=True)

    def _lock_of(self, number: int) -> IO[str]:
        return (self.folder / f".{number:04d}.lock").open("a", encoding="utf-8")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Only one process and thread at a time."""
        with (self.folder / ".lock").open("a", encoding="utf-8") as lock:
            if not hold(lock, _WAIT_S):
                raise OSError(f"{lock.name} is held for more than {_WAIT_S:.0f} seconds")
            try:
                yield
            finally:
                let_go(lock)


def _about(search: Search) -> dict[str, str]:
    """All that must be the same for the trials of a study, by dotted name."""
    recipe = {**search.recipe, "test": None, "search_by": vars(search.by)}
    flat = dict(_leaves(recipe, ""))
    flat |= {f"search.{name}": repr(one) for name, one in search.space.items()}
    # The folder may have moved, and how the final run ends is nothing to a trial.
    kept = {name: text for name, text in flat.items() if not name.startswith(("run.", "test"))}
    return {**kept, "run.seed": json.dumps(search.recipe["run"].get("seed", 0))}


def _leaves(node: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.dumps(node, default=str)


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    told = [f"{name} is {before.get(name)} there and {now.get(name)} here" for name in names[:3]]
    return "; ".join(told) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
