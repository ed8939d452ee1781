"""The steps of a run that are left, and all that is done after each: log, evaluate, save."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from mmfm import distributed
from mmfm.data.loading import WorkerDiedError
from mmfm.data.pipeline import Pipeline
from mmfm.data.quarantine import check_bad_share
from mmfm.files import write_json
from mmfm.train.engine.pieces import averaged_weights
from mmfm.train.health.activations import ActivationNorms
from mmfm.train.health.alarms import Alarms
from mmfm.train.health.full_texts import FullTexts
from mmfm.train.health.nonfinite import NonFiniteError
from mmfm.train.health.watchdog import Watchdog
from mmfm.train.judging.best import Patience
from mmfm.train.judging.evaluation import Evaluation
from mmfm.train.log import RunLog
from mmfm.train.log.flops import FlopCounter, peak_flops
from mmfm.train.log.measure import Clock, count_tokens, metrics_row
from mmfm.train.mining import next_mining
from mmfm.train.optim import frozen_until
from mmfm.train.optim.groups import next_thaw
from mmfm.train.run import Run
from mmfm.train.saving import Saver
from mmfm.train.signals import StopSignals
from mmfm.train.trainer import StepResult, Trainer
from mmfm.types import Batch

Ending = Literal["done", "stopped", "thaws", "mines"]


@dataclass
class Steps:
    """``run()`` goes to the end, to where a rank is asked to stop, to where a part of the model
    begins to train, or to where hard negatives are searched anew; collective.
    """

    of: Run
    trainer: Trainer
    pipeline: Pipeline
    batches: Iterator[list[Batch]]
    evaluation: Evaluation
    saver: Saver
    patience: Patience
    log: RunLog
    clock: Clock = field(init=False)

    def __post_init__(self) -> None:
        recipe, device = self.of.recipe, self.trainer.engine.device
        self.config, self.ema = recipe.train, recipe.optim.ema
        self.thaw = next_thaw(frozen_until(self.of.task, recipe.optim), self.trainer.step_index)
        self.mining = next_mining(self.of.task, self.trainer.step_index)
        self.alarms = Alarms(self.config.alarms, self.of.task)
        self.full_texts = FullTexts(self.of.task.specs)
        self.clock = Clock(recipe.data.global_batch_size)
        dtype = torch.bfloat16 if self.config.precision == "bf16" else torch.float32
        self.clock.peak_flops = peak_flops(device, dtype)

    def run(self, stop: StopSignals) -> Ending:
        """Where it ended; unless that is the last step, its checkpoint is written."""
        with stop, Watchdog(self.of.folder, self.config.stall_s) as watchdog:
            while self.trainer.step_index < self.config.max_steps and not self.patience.over:
                watchdog.step = self.trainer.step_index
                self.clock.start()
                micro_batches = next(self.batches, None)
                if micro_batches is None:
                    self._stop()
                    return "stopped"
                self._step(micro_batches)
                step = self.trainer.step_index
                if step >= self.config.max_steps:
                    break
                if self.patience.over:
                    self._stop_early()
                elif step in (self.thaw, self.mining):
                    self.saver.save()
                    return "thaws" if step == self.thaw else "mines"
        return "done"

    def _step(self, micro_batches: list[Batch]) -> None:
        config, step = self.config, self.trainer.step_index + 1
        last = step == config.max_steps
        logs, evaluates, saves = (
            last or step % every == 0
            for every in (config.log_every, config.eval_every, config.save_every)
        )
        self.clock.data_is_there()
        result, sizes = self._train(micro_batches, watch=logs and config.log_norms)
        self.clock.step_is_done(count_tokens(self.of.task.model, micro_batches))
        for alarm in self.alarms.look(result.losses, result.scalars):
            self.log.event("alarm", step=step, alarm=alarm.kind, of=alarm.name)
            self.log.say(f"step {step}  alarm: {alarm.text}")
        self.full_texts.add(micro_batches)
        if logs or saves:
            self._check_data()
        if logs:
            left = config.max_steps - step
            row = metrics_row(step, self.pipeline, result, micro_batches, self.clock, left)
            self.log.train({**row, **sizes})
            for warning in self.full_texts.warnings():
                self.log.say(f"step {step}  warning: {warning}")
        if evaluates:
            averaged = self.ema is not None and self.ema.evaluate
            with averaged_weights(self.trainer.engine) if averaged else nullcontext():
                scores = self.evaluation.run(step)
            self.saver.keep_best(scores)
            self.patience.add(scores)
        if saves:
            self.saver.save()

    def _train(
        self, micro_batches: list[Batch], watch: bool
    ) -> tuple[StepResult, dict[str, float]]:
        """The step, and where `watch` the sizes of gradients and activations by part."""
        with ExitStack() as watching:
            counter = norms = None
            if not self.clock.flops_a_step:
                counter = watching.enter_context(FlopCounter(self.of.task))
            if watch:
                norms = watching.enter_context(ActivationNorms(self.of.task.model))
            try:
                result = self.trainer.step(micro_batches)
            except NonFiniteError as error:
                if distributed.is_main():
                    write_json(self.of.folder / "nonfinite.json", error.report)
                raise
        if counter is not None:
            self.clock.flops_a_step = counter.flops
        if norms is None:
            return result, {}
        sizes = {f"rms/{m}": size for m, size in norms.collect().items()}
        sizes |= {f"grad_norm/{part}": norm for part, norm in result.grad_norms.items()}
        return result, sizes

    def _stop(self) -> None:
        step = self.trainer.step_index
        self.saver.save()
        self.log.event("stop", step=step)
        auto = self.of.recipe.run.resume == "auto"  # a path may lead back to an older step
        how = "the same command" if auto else "the same command with run.resume=auto"
        self.log.say(f"stopped after step {step}; {how} goes on from there")

    def _stop_early(self) -> None:
        step, patience = self.trainer.step_index, self.patience
        self.saver.save()
        self.log.event("early_stop", step=step, best=patience.best)
        best = "none" if patience.best is None else f"{patience.best:.4f}"
        self.log.say(
            f"done after step {step}: the last {patience.without} evaluations are no better than "
            f"the best before, {best}"
        )

    def _check_data(self) -> None:
        """Stop on all ranks together where too many samples were bad."""
        counts = distributed.all_gather_object(
            (sum(self.pipeline.bad_counts.values()), self.pipeline.samples_read)
        )
        bad, read = (sum(column) for column in zip(*counts, strict=True))
        check_bad_share(bad, read, self.pipeline.config.max_bad_share)


def together(steps: Iterator[list[Batch]], stop: StopSignals) -> Iterator[list[Batch]]:
    """The steps' micro-batches, until one rank is asked to stop. Where one rank has none, all ranks
    raise its error; collective.
    """
    while True:
        found, problem, asked = None, None, stop.asked
        try:
            found = None if asked else next(steps)
        except (ValueError, OSError, WorkerDiedError) as error:
            problem = str(error)
        flags = torch.tensor([problem is not None, asked], device=distributed.device()).double()
        failed, stopped = distributed.all_reduce_sum(flags).tolist()
        if failed:
            told: list[Any] = distributed.all_gather_object(problem)
            raise ValueError(next(p for p in told if p is not None))
        if stopped:
            return
        assert found is not None
        yield found
