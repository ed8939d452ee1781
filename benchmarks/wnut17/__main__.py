"""Fine-tuning for named entities: full, LoRA and frozen, beside transformers' Trainer.

    python -m benchmarks.wnut17 WNUT17 [--epochs 5] [--seeds 0 1 2] [--only full theirs]

WNUT17 is a folder with train.conll, dev.conll and test.conll. The same weights (all-MiniLM-L6-v2),
sentences, epochs and batch size on both sides, fp32, one core for each run and two at a time. Each
side's learning rate is the best on dev of those that are tried with the first seed; then all seeds
are run with it, and judged on test once. Prints mean and t interval over the seeds as markdown.
Runs that are done are not run again: `--runs` keeps them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.seeded import add_at_once, interval, run_all
from benchmarks.wnut17.jobs import CACHE, Job, Made

WAYS: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
    "theirs": ((), (1e-4, 2e-4, 4e-4)),
    "full": ((), (1e-4, 2e-4, 4e-4)),
    "lora": (("lora={rank: 16, alpha: 32, parts: [text]}",), (5e-4, 1e-3, 2e-3, 4e-3)),
    "frozen": (("freeze=encoders",), (3e-3, 1e-2, 3e-2, 1e-1)),
}
"""way ▶ the settings of mmfm, and the learning rates that are tried."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("conll", type=Path)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--runs", type=Path, default=CACHE)
    add_at_once(parser)
    args = parser.parse_args()
    made = Made.of(args.conll, args.runs)

    def job(way: str, lr: float, seed: int) -> Job:
        return Job(made, way, lr, seed, args.epochs, WAYS[way][0], theirs=way == "theirs")

    tried = [job(way, lr, args.seeds[0]) for way in args.only for lr in WAYS[way][1]]
    run_all(tried, args.at_once)
    best = {
        way: max((j for j in tried if j.way == way), key=lambda j: j.scores()["dev"]).lr
        for way in args.only
    }
    chosen = {way: [job(way, best[way], seed) for seed in args.seeds] for way in args.only}
    run_all([j for jobs in chosen.values() for j in jobs], args.at_once)
    print(f"| way | learning rate | dev F1 | test F1, {len(args.seeds)} seeds | each |")
    print("| --- | --- | --- | --- | --- |")
    for way, jobs in chosen.items():
        dev, test = ([j.scores()[split] for j in jobs] for split in ("dev", "test"))
        each = ", ".join(f"{100 * value:.1f}" for value in test)
        print(f"| {way} | {best[way]:g} | {interval(dev)} | {interval(test)} | {each} |")
    for jobs in chosen.values():
        if not jobs[0].theirs:
            dictionary, chance = jobs[0].baseline()
            print(f"| dictionary of the training entities | | | {100 * dictionary:.1f} | |")
            print(f"| tags by their frequency | | | {100 * chance:.1f} | |")
            break
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
