"""The equality matrix: how far training under DeepSpeed is from plain PyTorch in double precision.

    python -m benchmarks.equality_matrix [--ranks 1 2] [--objectives every contrastive …]

For each number of ranks, ZeRO stage, number of micro-batches, with all modalities and with one left
out of every second step: the tri-modal model of the tests with every objective together, or with
one alone. Under SGD the gradients of two steps at the first weights and the weights after three
steps, under AdamW the losses of three steps. Prints tables in markdown; exits with 1 where a loss
or a weight is more than 1e-6 off, or a gradient more than 1e-6 and three times what plain PyTorch
in fp32 is. All objectives take an hour and a half on two cores, "every" alone twenty minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

from tests import tiny
from tests.launch import deepspeed
from tests.objectives import teachers
from tests.train.exactness import Differences, Plain, differences
from tests.train.exactness_worker import EVERY, Case, all_cases

LIMIT = 1e-6
Found = dict[tuple[int, Case], Differences]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--objectives", nargs="+", help="(default: every one, together and alone)")
    args = parser.parse_args()
    found: Found = {}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = tiny.make_tokenizer(Path(folder, "tokenizer"))
        recipe = teachers.settings(tokenizer, width=24)
        plain = Plain(tokenizer, teachers.write(Path(folder, "teacher"), recipe))
        names = list(tiny.task_settings(tokenizer, teacher=plain.teacher)["objectives"])
        cases = [
            case
            for case in all_cases(names)
            if args.objectives is None or case.objective in args.objectives
        ]
        for ranks in args.ranks:
            out = Path(folder, f"ranks{ranks}")
            out.mkdir()
            (out / "cases.json").write_text(json.dumps([dataclasses.asdict(c) for c in cases]))
            worker = "tests.train.exactness_worker"
            given = (plain.tokenizer, plain.teacher, str(out / "cases.json"), str(out))
            deepspeed(ranks, worker, *given, timeout=4 * 3600)
            found |= {(ranks, case): differences(case, out, plain) for case in cases}
    print(together(found))
    print()
    print(by_objective(found))
    return int(any(too_far(one) for one in found.values()))


def too_far(found: Differences) -> bool:
    return (
        max(found.losses.values()) > LIMIT
        or max(found.weights.values(), default=0.0) > LIMIT
        or any(off > max(LIMIT, 3 * found.noise[key]) for key, off in found.gradients.items())
    )


def together(found: Found) -> str:
    """A row for each number of ranks, stage and modalities, with every objective together."""
    lines = [
        "| ranks | ZeRO | modalities | micro-batches | gradients | weights | losses, AdamW |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    rows = dict.fromkeys(
        (ranks, case.stage, case.missing, case.parts)
        for ranks, case in found
        if case.objective == EVERY
    )
    for row in rows:
        of_row = [
            (case, one)
            for (ranks, case), one in found.items()
            if (ranks, case.stage, case.missing, case.parts) == row and case.objective == EVERY
        ]
        ranks, stage, missing, parts = row
        what = "one missing" if missing else "all"
        lines.append(f"| {ranks} | {stage} | {what} | {parts} | {_cells(of_row)} |")
    return "\n".join(lines)


def by_objective(found: Found) -> str:
    """A row for each objective: the largest differences of all ranks, stages and micro-batches."""
    lines = [
        "| objective | cases | gradients | weights | losses, AdamW |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(case.objective for _, case in found):
        of_name = [(case, one) for (_, case), one in found.items() if case.objective == name]
        lines.append(f"| {name} | {len(of_name)} | {_cells(of_name)} |")
    return "\n".join(lines)


def _cells(found: list[tuple[Case, Differences]]) -> str:
    """The largest of gradients and weights (SGD) and of losses (AdamW)."""
    sgd = [one for case, one in found if case.optimizer == "sgd"]
    adamw = [one for case, one in found if case.optimizer == "adamw"]
    largest = (
        max((max(one.gradients.values()) for one in sgd), default=0.0),
        max((max(one.weights.values()) for one in sgd), default=0.0),
        max((max(one.losses.values()) for one in adamw), default=0.0),
    )
    return " | ".join(f"{number:.1e}" for number in largest)


if __name__ == "__main__":
    raise SystemExit(main())
