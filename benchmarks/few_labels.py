"""Where does pretraining help? The sub-category of an emoji from 1, 5 and 20 labels a class.

    scripts/quickstart
    python -m benchmarks.few_labels [--labels 1 5 20] [--seeds 0 1 2] [--only probe lora full]
    python -m benchmarks.few_labels --labels 20 --steps 480 --only full encoders

Ways to learn from the same labelled pictures and names of five art styles: on top of the
quickstart's pretraining the head only (`probe`), LoRA, or all weights (`full`); all weights from
those of the encoders' own makers, without mmfm's pretraining (`encoders`); all weights from random
ones (`random`), whose batch norms have to train, over 16 pictures at a time. Those of the other
ways rest (docs/benchmarks.md says why). The same steps, batch size and inputs (96 pixels) for all.
Each way's learning rate is the best on a sixth style with 5 labels, the first seed and 120 steps;
then each run is judged once, on a seventh, after `--steps`. Prints mean and t interval over the
seeds as markdown. Runs that are done are not run again: `--runs` keeps them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import yaml
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer, set_seed

from benchmarks.seeded import MMFM, ROOT, TunedRun, add_at_once, best_lr, interval, run_all, tested
from mmfm.train.recipe import merge

RECIPE = ROOT / "benchmarks/few_labels.yaml"
CACHE = Path.home() / ".cache/mmfm-benchmarks/few_labels"
TUNED_AT, STEPS = 5, yaml.safe_load(RECIPE.read_text())["train"]["max_steps"]
MAKING = threading.Lock()
WAYS: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
    "probe": (("freeze=model",), (1e-2, 3e-2, 1e-1)),
    "lora": (("lora={rank: 8, alpha: 16, parts: [image, text, fusion]}",), (1e-3, 3e-3, 1e-2)),
    "full": ((), (1e-4, 3e-4, 1e-3)),
    "encoders": ((), (1e-4, 3e-4, 1e-3, 3e-3)),
    "random": (("model.encoders.image.batch_norm_size=16",), (1e-4, 3e-4, 1e-3, 3e-3)),
}
"""way ▶ its settings, and the learning rates that are tried."""


def model_of(pretrained: Path, runs: Path, way: str, seed: int) -> dict[str, Any]:
    """The pretrained run's model as it was before its first step, with only the encoders that are
    needed, as RECIPE changes them.
    """
    model = yaml.safe_load((pretrained / "config.yaml").read_text())["model"]
    for part in ("encoders", "projections"):
        model[part].pop("audio", None)
    model = merge(model, yaml.safe_load(RECIPE.read_text())["model"])
    if way == "random":
        encoders = model["encoders"]
        with MAKING:  # runs begin side by side, and share the generator that weights are drawn from
            text = _random_text(Path(encoders["text"]["name"]), runs / f"random-text-{seed}")
            image = _random_image(encoders["image"], runs / f"random-image-{seed}")
        made = {"image": {"weights": str(image)}, "text": {"name": str(text)}}
        model = merge(model, {"encoders": made})
    return model


def _random_text(like: Path, made: Path) -> Path:
    seed = int(made.name.rpartition("-")[2])
    if not (made / "model.safetensors").exists():
        set_seed(seed)
        AutoModel.from_config(AutoConfig.from_pretrained(like)).save_pretrained(made)
        AutoTokenizer.from_pretrained(like).save_pretrained(made)
    return made


def _random_image(like: dict[str, Any], made: Path) -> Path:
    if (made / "model.safetensors").exists():
        return made
    made.mkdir(parents=True, exist_ok=True)
    told = json.loads((Path(like["weights"]) / "config.json").read_text())
    set_seed(int(made.name.rpartition("-")[2]))
    network = timm.create_model(told["architecture"], num_classes=told["num_classes"])
    save_file(network.state_dict(), made / "model.safetensors")
    shutil.copy(Path(like["weights"]) / "config.json", made)
    return made


@dataclass(frozen=True)
class Run(TunedRun):
    """One fine-tuning run with so many `labels` a class."""

    pretrained: Path
    data: Path
    labels: int
    steps: int

    @property
    def name(self) -> str:
        steps = "" if self.steps == STEPS else f"-{self.steps}steps"
        return f"{self.way}-{self.labels}-{self.lr:g}-{self.seed}{steps}"

    def command(self) -> list[str]:
        start = f"init={self.pretrained}"
        if self.way in ("encoders", "random"):
            model = model_of(self.pretrained, self.runs, self.way, self.seed)
            start = f"model={json.dumps(model)}"
        subset = {"per_label": self.labels, "label": "subcategory", "seed": self.seed}
        return [
            *(*MMFM, "finetune", str(RECIPE), start),
            f"run.dir={self.folder}",
            f"run.seed={self.seed}",
            "run.trackers=[]",
            "report=null",
            f"data.sources.pictures.path={self.data}",
            f"data.sources.pictures.subset={json.dumps(subset)}",
            self.test_section(self.data),
            f"optim.lr={self.lr}",
            *(f"train.{key}={self.steps}" for key in ("max_steps", "save_every", "eval_every")),
            *WAYS[self.way][0],
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--labels", type=int, nargs="+", default=[1, 5, 20])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--only", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--pretrained", type=Path, default=ROOT / "runs/quickstart")
    parser.add_argument("--data", type=Path, default=ROOT / "data/emoji")
    parser.add_argument("--runs", type=Path, default=CACHE)
    add_at_once(parser)
    args = parser.parse_args()
    pretrained, data, folder = (p.resolve() for p in (args.pretrained, args.data, args.runs))

    def run(way: str, lr: float, labels: int, seed: int) -> Run:
        return Run(folder, way, lr, seed, pretrained, data, labels, args.steps)

    tried = {
        way: [
            replace(run(way, lr, TUNED_AT, args.seeds[0]), steps=STEPS, tuning=True)
            for lr in WAYS[way][1]
        ]
        for way in args.only
    }
    run_all((one for runs in tried.values() for one in runs), args.at_once)
    best = {way: best_lr(runs) for way, runs in tried.items()}
    runs = {
        (way, labels): [run(way, best[way], labels, seed) for seed in args.seeds]
        for labels in args.labels
        for way in args.only
    }
    run_all((one for runs_of in runs.values() for one in runs_of), args.at_once)
    print("| way | learning rate |", " | ".join(f"{n} a class" for n in args.labels), "|")
    print("| --- | --- |", " | ".join("---" for _ in args.labels), "|")
    for way in args.only:
        cells = [
            interval([one.scores()["accuracy"] for one in runs[way, labels]])
            for labels in args.labels
        ]
        print(f"| {way} | {best[way]:g} |", " | ".join(cells), "|")
    row = tested(runs[args.only[0], args.labels[0]][0].folder, "accuracy")
    print(f"\nchance {100 * row['chance']:.1f}, the baseline {100 * row['baseline']:.1f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
