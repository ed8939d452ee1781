"""Where does pretraining help? The sub-category of an emoji from 1, 5 and 20 labels a class.

    scripts/quickstart
    python -m benchmarks.few_labels [--labels 1 5 20] [--seeds 0 1 2] [--only probe lora full]

Ways to learn from the same labelled pictures and names of five art styles: on top of the
quickstart's pretraining the head only (`probe`), LoRA, or all weights (`full`); all weights from
those of the encoders' own makers, without mmfm's pretraining (`encoders`); all weights from random
ones (`random`). The same steps, batch size and inputs (96 pixels) for all. Each way's learning
rate is the best on a sixth style with 5 labels and the first seed; then each run is judged once, on
a seventh. Prints mean and t interval over the seeds as markdown. Runs that are done are not run
again: `--runs` keeps them.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoConfig, AutoModel, AutoTokenizer, set_seed

from benchmarks.seeded import MMFM, ROOT, SeededRun, interval, metric, run_all, tested

RECIPE = ROOT / "benchmarks/few_labels.yaml"
CACHE = Path.home() / ".cache/mmfm-benchmarks/few_labels"
TUNED_AT = 5
WAYS: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
    "probe": (("freeze=model",), (3e-3, 1e-2, 3e-2)),
    "lora": (("lora={rank: 8, alpha: 16, parts: [image, text, fusion]}",), (1e-3, 3e-3, 1e-2)),
    "full": ((), (1e-4, 3e-4, 1e-3)),
    "encoders": ((), (1e-4, 3e-4, 1e-3)),
    "random": ((), (1e-4, 3e-4, 1e-3)),
}
"""way ▶ its settings, and the learning rates that are tried."""


@dataclass(frozen=True)
class Given:
    """The pretrained run, and the folders of what goes into and comes out of the benchmark."""

    pretrained: Path
    data: Path
    runs: Path

    def model(self, way: str, seed: int) -> dict[str, Any]:
        """The pretrained run's model as it was before, with only the encoders that are needed."""
        model: dict[str, Any] = yaml.safe_load((self.pretrained / "config.yaml").read_text())[
            "model"
        ]
        for part in ("encoders", "projections"):
            model[part].pop("audio", None)
        encoders = model["encoders"]
        for name in ("image", "text"):
            encoders[name] |= {"frozen": False, "cache": False}
        encoders["image"]["image_size"] = 96
        if way == "random":
            encoders["image"] |= {"weights": None, "name": "tf_efficientnet_lite0"}
            encoders["text"]["name"] = str(self._random_text(encoders["text"]["name"], seed))
        return model

    def _random_text(self, folder: str, seed: int) -> Path:
        made = self.runs / f"random-text-{seed}"
        if not (made / "model.safetensors").exists():
            set_seed(seed)
            AutoModel.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(made)
            AutoTokenizer.from_pretrained(folder).save_pretrained(made)
        return made


@dataclass(frozen=True)
class Run(SeededRun):
    """One fine-tuning run; with `tuning` it is judged on the sixth style, otherwise the seventh."""

    given: Given
    way: str
    labels: int
    lr: float
    seed: int
    tuning: bool = False

    @property
    def folder(self) -> Path:
        kind = "tuning" if self.tuning else "test"
        return self.given.runs / kind / f"{self.way}-{self.labels}-{self.lr:g}-{self.seed}"

    @property
    def done(self) -> bool:
        return (self.folder / "test.json").exists()

    def command(self) -> list[str]:
        style = "pictures-fluent-color" if self.tuning else "pictures-twemoji"
        source = {"path": str(self.given.data), "splits": [style]}
        test = {
            "sources": {"art": source},
            "tasks": {"it": {"type": "classification", "source": "art"}},
        }
        subset = {"per_label": self.labels, "label": "subcategory", "seed": self.seed}
        made = self.way in ("encoders", "random")
        model = json.dumps(self.given.model(self.way, self.seed))
        return [
            *(*MMFM, "finetune", str(RECIPE)),
            f"model={model}" if made else f"init={self.given.pretrained}",
            f"run.dir={self.folder}",
            f"run.seed={self.seed}",
            "run.trackers=[]",
            "report=null",
            f"data.sources.pictures.path={self.given.data}",
            f"data.sources.pictures.subset={json.dumps(subset)}",
            f"test={json.dumps(test)}",
            f"optim.lr={self.lr}",
            *WAYS[self.way][0],
        ]

    def scores(self) -> dict[str, float]:
        return {"accuracy": metric(self.folder, "accuracy")["test"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--labels", type=int, nargs="+", default=[1, 5, 20])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--pretrained", type=Path, default=ROOT / "runs/quickstart")
    parser.add_argument("--data", type=Path, default=ROOT / "data/emoji")
    parser.add_argument("--runs", type=Path, default=CACHE)
    args = parser.parse_args()
    given = Given(args.pretrained.resolve(), args.data.resolve(), args.runs.resolve())

    tried = {
        way: [Run(given, way, TUNED_AT, lr, args.seeds[0], tuning=True) for lr in WAYS[way][1]]
        for way in args.only
    }
    run_all(run for runs in tried.values() for run in runs)
    best = {w: max(runs, key=lambda r: r.scores()["accuracy"]).lr for w, runs in tried.items()}
    runs = {
        (way, labels): [Run(given, way, labels, best[way], seed) for seed in args.seeds]
        for labels in args.labels
        for way in args.only
    }
    run_all(run for of_one in runs.values() for run in of_one)
    print("| way | learning rate |", " | ".join(f"{n} a class" for n in args.labels), "|")
    print("| --- | --- |", " | ".join("---" for _ in args.labels), "|")
    for way in args.only:
        cells = [
            interval([run.scores()["accuracy"] for run in runs[way, labels]])
            for labels in args.labels
        ]
        print(f"| {way} | {best[way]:g} |", " | ".join(cells), "|")
    row = tested(runs[args.only[0], args.labels[0]][0].folder, "accuracy")
    print(f"\nchance {100 * row['chance']:.1f}, the baseline {100 * row['baseline']:.1f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
