"""What the commands `pretrain` and `finetune` share: arguments, the plan of `--dry-run`, errors and
exit codes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from mmfm import distributed
from mmfm.checkpoint import Checkpoint
from mmfm.data.mixture import never_seen, progress
from mmfm.data.order import Order
from mmfm.train.engine import check_config, end_process_group, start_process_group
from mmfm.train.engine.deepspeed_config import deepspeed_config
from mmfm.train.engine.gradients import part_of
from mmfm.train.loop import check, train
from mmfm.train.optim.layers import described
from mmfm.train.resume import resume_point
from mmfm.train.run import Run

WAIT_FOR_FIRST_RANK_S = 20.0


def main(
    name: str,
    about: str,
    argv: Sequence[str] | None,
    prepare: Callable[[str, Sequence[str]], Run],
    after: Callable[[Run], None] | None = None,
    folds: Callable[[str, Sequence[str], int], Iterable[list[str]]] | None = None,
) -> int:
    """Set the run up, show its plan or train it; 2 with one line on standard error for a user's
    error. `folds`: the overrides of each of several runs, for a command with ``--folds``.

    All that can be checked is checked before a process group starts and before anything is written.
    """
    parser = _Parser(prog=f"mmfm {name}", description=about)
    parser.add_argument("config", help="YAML file of the recipe")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that replace those of the file"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, show the plan")
    if folds is not None:
        parser.add_argument("--folds", type=int, help="a run for each of so many folds of the data")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    try:
        args = parser.parse_intermixed_args(argv)
        asked: int | None = getattr(args, "folds", None)
        runs: Iterable[list[str]] = [[]]
        if folds is not None and asked is not None:
            runs = folds(args.config, args.overrides, asked)
        for more in runs:
            overrides = [*args.overrides, *more]
            run = prepare(args.config, overrides)
            found = resume_point(run.recipe)
            text = plan(run, found)
            if args.dry_run:
                if _first_rank():
                    print(text)
                return 0
            start_process_group()
            while (ending := train(run, found)) in ("thaws", "mines"):
                run, found = _go_on(prepare(args.config, overrides))
            if ending != "done":
                return 0
            if after is not None and distributed.is_main():
                after(run)
        return 0
    except (ValueError, OSError) as error:
        _let_first_rank_speak()
        print(f"mmfm {name}: error: {_one_line(error)}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        if _first_rank():
            told = "stopped; the same command goes on from the newest checkpoint, if there is one"
            print(f"mmfm {name}: {told}", file=sys.stderr, flush=True)
        return 130
    except Exception:
        _let_first_rank_speak()
        raise
    finally:
        end_process_group()


def _go_on(run: Run) -> tuple[Run, Checkpoint]:
    """The run and the checkpoint that it has just written, checked."""
    found = Checkpoint.open(run.folder)
    check(run, found, run.pipeline(distributed.world_size()))
    return run, found


class _Parser(argparse.ArgumentParser):
    """Wrong arguments are an error like any other: one line, on one rank."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} ({self.format_usage().strip()})")


def _let_first_rank_speak() -> None:
    """Wait, except on the first rank, which as a rule has the same error or the one behind it.

    When it has told and ended, the launcher ends the others; one that is still there tells itself.
    """
    if not _first_rank():
        time.sleep(WAIT_FOR_FIRST_RANK_S)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def plan(run: Run, found: Checkpoint | None) -> str:
    """What the run will do, checked against the data and the number of ranks; ValueError where it
    can't be.
    """
    recipe = run.recipe
    world_size = distributed.launched_world_size()
    pipeline = run.pipeline(world_size)
    check(run, found, pipeline)
    size, micro = recipe.data.global_batch_size, pipeline.micro_batch_size
    parts = size // world_size // micro
    cached = recipe.train.uses_grad_cache(bool(run.task.cached), parts)
    engine = deepspeed_config(
        global_batch_size=size,
        micro_batch_size=micro,
        world_size=world_size,
        zero_stage=recipe.train.zero_stage,
        precision=recipe.train.precision,
        grad_clip=recipe.optim.grad_clip,
        overrides=recipe.deepspeed,
    )
    check_config(engine)
    start = f"step {found.step} of {found.path}" if found else "the start"
    lines = [
        f"run       {run.folder}, {recipe.train.max_steps} steps from {start}",
        _in_epochs(run, pipeline.order),
        f"batch     {size} = {world_size} ranks × {parts} micro-batches × {micro}; grad_cache "
        f"{'on' if cached else 'off'}",
        *_parameters(run),
        *(f"layers    {line}" for line in _layers(run)),
        *run.notes,
        f"{'stratum':<42}samples  weight        a step  comes every  epochs/1000",
    ]
    for share in pipeline.order.composition():
        name = f"{share.source}:{share.modality_set}"
        rare = "  rare" if share.every_steps > 1 else ""
        lines.append(
            f"  {name:<38} {share.samples:>9,}  {share.weight:>5}/{share.period:<6} "
            f"{share.per_step:>8.2f}  {share.every_steps:>8.1f} st  "
            f"{share.epochs_per_1000_steps:>8.2f}{rare}"
        )
    for source, count in pipeline.order.ignored.items():
        if count:
            lines.append(f"  {source}: {count} samples have no known modality and are left out")
    lines += _mixture(pipeline.order, recipe.train.max_steps)
    lines += [f"warning   {line}" for line in run.warnings(pipeline)]
    lines.append("deepspeed " + json.dumps(engine))
    return "\n".join(lines)


def _in_epochs(run: Run, order: Order) -> str:
    """How many epochs the run, and the time from one evaluation or checkpoint to the next, are."""
    train = run.recipe.train
    samples = sum(stratum.samples for stratum in order.strata)
    told = [
        f"{name} {steps * order.global_batch_size / samples:.3g}"
        for name, steps in (
            ("all steps", train.max_steps),
            ("eval_every", train.eval_every),
            ("save_every", train.save_every),
        )
    ]
    return f"epochs    {samples:,} samples in each; {', '.join(told)}"


def _mixture(order: Order, steps: int) -> list[str]:
    """How often the run goes through each source, and what it never sees."""
    lines = [f"{'source':<42}samples     drawn  epochs in {steps:,} steps"]
    lines += [
        f"  {source.source:<38} {source.samples:>9,}  {source.drawn:>8,}  {source.epochs:.2f}"
        for source in progress(order, steps)
    ]
    for part in never_seen(order, steps):
        share = 100 * part.never / part.samples
        lines.append(
            f"warning   {part.source}:{part.modality_set}: {part.never:,} of {part.samples:,}"
            f" samples ({share:.0f} %) are never seen in {steps:,} steps"
        )
    return lines


def _parameters(run: Run) -> list[str]:
    parts: dict[str, list[int]] = {}
    for name, parameter in run.task.named_parameters():
        counts = parts.setdefault(part_of(name), [0, 0])
        counts[0] += parameter.numel()
        counts[1] += parameter.numel() * parameter.requires_grad
    lines = []
    for part, (total, trained) in parts.items():
        train = "" if trained == total else f"{trained:,} train" if trained else "frozen"
        lines.append(f"weights   {part:<32} {total:>12,}  {train}".rstrip())
    return lines


def _layers(run: Run) -> list[str]:
    optim = run.recipe.optim
    return described(run.task, optim.top_layers, optim.unfreeze_every)


def _first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"
