"""The command `mmfm eval`: run a suite on a checkpoint and write results.json and report.html.

    mmfm eval runs/quickstart configs/eval/quickstart.yaml
    mmfm eval CHECKPOINT SUITE.yaml --force        # also where the same has been run before
    mmfm eval CHECKPOINT/ema SUITE.yaml            # the average of its weights (optim.ema)
    deepspeed --num_gpus 2 --module mmfm eval CHECKPOINT SUITE.yaml batch_size=128

Nothing that takes time is imported before the arguments are read.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmfm.checkpoint import Checkpoint
    from mmfm_eval.results import Results
    from mmfm_eval.suite import SuiteConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on standard error for what the user can mend."""
    args = _parser().parse_intermixed_args(argv)
    from mmfm import distributed
    from mmfm_eval.tasks.base import AgreedError

    try:
        distributed.init()
        return _evaluate(args)
    except (ValueError, OSError) as error:
        if distributed.is_main() or not isinstance(error, AgreedError):
            where = "" if distributed.world_size() == 1 else f" (rank {distributed.rank()})"
            print(f"mmfm eval: error{where}: {error}", file=sys.stderr)
        return 2
    finally:
        distributed.shutdown()


def _evaluate(args: argparse.Namespace) -> int:
    from mmfm import config, distributed
    from mmfm.checkpoint import Checkpoint
    from mmfm_eval import runner
    from mmfm_eval.report import page, terminal
    from mmfm_eval.results import write_all
    from mmfm_eval.suite import SuiteConfig
    from mmfm_eval.tasks.base import on_main

    suite = runner.agreed(lambda: config.load(SuiteConfig, args.suite, args.overrides))
    # Not verified here: mmfm.load reads and compares every file.
    checkpoint = runner.agreed(lambda: Checkpoint.open(args.checkpoint, verify=False))
    out = args.out or default_folder(checkpoint, suite)
    results = None
    if not (args.force or args.dry_run):
        results = on_main(lambda: _already(out, suite, checkpoint, args.device))
    if results is None:
        plan = runner.prepare(suite, checkpoint, args.device)
        if args.dry_run:
            if distributed.is_main():
                print(plan.describe())
            return 0
        runner.agreed(lambda: _check_writable(out))
        results = runner.run(plan, checkpoint, _say)
    else:
        _say(f"{out} has the results of this suite on this checkpoint already (--force: run it)")
    files = {"results.json": results.to_json(), "report.html": page.render(results)}
    on_main(lambda: write_all(out, files))
    if distributed.is_main():
        terminal.show(results)
        print(f"{out / 'results.json'}  {out / 'report.html'}")
    return 0


def _already(
    out: Path, suite: SuiteConfig, checkpoint: Checkpoint, device: str | None
) -> Results | None:
    """The results in `out`, where running the suite again would give the same."""
    from mmfm_eval import runner
    from mmfm_eval.results import already

    manifests = runner.open_sources(suite, checkpoint)
    wanted = runner.the_protocol(suite, checkpoint, manifests, runner.device_named(device))
    return already(out / "results.json", wanted)


def _say(text: str) -> None:
    from mmfm import distributed

    if distributed.is_main():
        print(text, file=sys.stderr, flush=True)


def _check_writable(folder: Path) -> None:
    """ValueError before anything runs where `folder` can't be made or written to."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(f"--out {folder}: {there} is no folder that can be written to")


def default_folder(checkpoint: Checkpoint, suite: SuiteConfig) -> Path:
    """``<run>/eval/<suite>/<checkpoint>``, where the checkpoint lies in ``<run>/checkpoints`` or in
    ``<run>``; for its averaged weights ``<checkpoint>-ema``.
    """
    run = checkpoint.path.parent
    if run.name == "checkpoints":
        run = run.parent
    kind = "" if checkpoint.weights == "model" else f"-{checkpoint.weights}"
    return run / "eval" / suite.name / f"{checkpoint.path.name}{kind}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mmfm eval", description="Judge a checkpoint by a suite of tasks."
    )
    parser.add_argument(
        "checkpoint", type=Path, help="folder of a checkpoint, or of a run (its latest)"
    )
    parser.add_argument("suite", type=Path, help="YAML file of the suite")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that replace those of the file"
    )
    parser.add_argument("--out", type=Path, help="folder for results.json and report.html")
    parser.add_argument(
        "--device", help="cpu, cuda or cuda:N (default: the GPU where there is one)"
    )
    parser.add_argument("--force", action="store_true", help="run it where its results are there")
    parser.add_argument("--dry-run", action="store_true", help="check everything, run nothing")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    return parser
