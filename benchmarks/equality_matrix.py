"""The equality matrix: how far training under DeepSpeed is from plain PyTorch in double precision.

    python -m benchmarks.equality_matrix [--ranks 1 2] [--objectives every contrastive …]

For each number of ranks, ZeRO stage, number of micro-batches, with all modalities and with one left
out of every second step: the tri-modal model of the tests with every objective together, or with
one alone. Under SGD the gradients of two steps at the first weights and the weights after three
steps, under AdamW the losses of three steps. Prints tables in markdown; exits with 1 where one of
them is `too_far` off. A case takes seconds, under ZeRO 3 many more: all of them take hours.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.train.exactness import Differences, Plain, differences, too_far, train
from tests.train.exactness_worker import EVERY, Case, all_cases

Found = dict[tuple[int, Case], Differences]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--objectives", nargs="+", help="(default: every one, together and alone)")
    args = parser.parse_args()
    found: Found = {}
    with tempfile.TemporaryDirectory() as folder:
        plain = Plain.make(Path(folder))
        cases = [
            case
            for case in all_cases(plain.objectives)
            if args.objectives is None or case.objective in args.objectives
        ]
        for ranks in args.ranks:
            out = Path(folder, f"ranks{ranks}")
            out.mkdir()
            train(ranks, cases, plain, out)
            found |= {(ranks, case): differences(case, out, plain) for case in cases}
    print(together(found))
    print()
    print(by_objective(found))
    return int(any(too_far(one) for one in found.values()))


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
