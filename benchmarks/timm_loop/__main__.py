"""Image classification from efficientnet-lite0's weights, beside a plain timm training loop.

    scripts/quickstart
    python -m benchmarks.timm_loop [--seeds 0 1 2]

The sub-category of an emoji from its picture in five art styles, at 96 pixels: the same weights,
steps, batch size, augmentation, AdamW and cosine schedule on both sides, fp32, one core for each
run, and the GPU where there is one (with TF32 in convolutions, PyTorch's default). Each side's
learning rate is the best on a sixth style with the first seed; then each run is judged once, on a
seventh. Batch norms see 32 pictures at a time in mmfm, so that training is the same for any
micro-batch size, and the whole batch of 64 in the plain loop. Prints mean and t interval over the
seeds as markdown.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.seeded import MMFM, ROOT, TunedRun, add_at_once, best_lr, interval, run_all, tested

RECIPE = Path(__file__).parent / "recipe.yaml"
CACHE = Path.home() / ".cache/mmfm-benchmarks/timm_loop"
RATES = (3e-4, 1e-3, 3e-3, 1e-2)


@dataclass(frozen=True)
class Run(TunedRun):
    """One run of either side, "timm" or "mmfm"."""

    weights: Path
    data: Path

    def command(self) -> list[str]:
        if self.way == "timm":
            return [
                *(sys.executable, "-m", "benchmarks.timm_loop.theirs", str(RECIPE)),
                str(self.folder / "scores.json"),
                *("--weights", str(self.weights), "--data", str(self.data), "--split", self.split),
                *("--lr", str(self.lr), "--seed", str(self.seed)),
            ]
        return [
            *(*MMFM, "finetune", str(RECIPE)),
            f"run.dir={self.folder}",
            f"run.seed={self.seed}",
            "run.trackers=[]",
            "report=null",
            f"model.encoders.image.weights={self.weights}",
            f"data.sources.pictures.path={self.data}",
            self.test_section(self.data),
            f"optim.lr={self.lr}",
        ]

    def scores(self) -> dict[str, float]:
        if self.way == "timm":
            return {"accuracy": json.loads((self.folder / "scores.json").read_text())["accuracy"]}
        return super().scores()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--weights", type=Path, default=ROOT / "data/weights/efficientnet-lite0")
    parser.add_argument("--data", type=Path, default=ROOT / "data/emoji")
    parser.add_argument("--runs", type=Path, default=CACHE)
    add_at_once(parser)
    args = parser.parse_args()
    weights, data, folder = (path.resolve() for path in (args.weights, args.data, args.runs))

    def run(side: str, lr: float, seed: int, tuning: bool = False) -> Run:
        return Run(folder, side, lr, seed, weights, data, tuning=tuning)

    tried = {
        side: [run(side, lr, args.seeds[0], tuning=True) for lr in RATES]
        for side in ("timm", "mmfm")
    }
    run_all((one for runs in tried.values() for one in runs), args.at_once)
    best = {side: best_lr(runs) for side, runs in tried.items()}
    runs = {side: [run(side, best[side], seed) for seed in args.seeds] for side in tried}
    run_all((one for of_side in runs.values() for one in of_side), args.at_once)
    print(f"| | learning rate | test accuracy, {len(args.seeds)} seeds | each |")
    print("| --- | --- | --- | --- |")
    for side, of_one in runs.items():
        found = [one.scores()["accuracy"] for one in of_one]
        each = ", ".join(f"{100 * value:.1f}" for value in found)
        print(f"| {side} | {best[side]:g} | {interval(found)} | {each} |")
    row = tested(runs["mmfm"][0].folder, "accuracy")
    print(f"\nchance {100 * row['chance']:.1f}, the baseline {100 * row['baseline']:.1f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
