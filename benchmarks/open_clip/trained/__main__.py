"""mmfm's command beside open_clip's on the same drawings: which finds more of what it never saw?

    python -m benchmarks.open_clip.trained [--epochs 6] [--seeds 0 1] [--mixed]

Both start from the same weights and train for equally many steps with the same optimiser, batch
size and random crops, each by its own command with its own data loading and order, in one process
on one core, both at a time. Then both embed the held-out drawings and titles with their own
preprocessing, and mmfm's metrics judge them. Prints recall in both directions with 95 % intervals,
the paired difference, chance and the untrained start, as markdown.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

from benchmarks.open_clip import same
from benchmarks.open_clip.shards import shards
from benchmarks.open_clip.trained import commands, embedded, peer_shards, recall, start
from mmfm.data.manifest import Manifest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=6, help="as open_clip counts them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--mixed", action="store_true", help="give open_clip tars whose samples are in random order"
    )
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "mmfm-benchmarks")
    parser.add_argument("--runs", type=Path, help="keep both sides' runs in this folder")
    args = parser.parse_args()
    data = shards(args.cache)
    tars = peer_shards.written(data, args.mixed)
    with tempfile.TemporaryDirectory() as folder:
        runs = args.runs or Path(folder)
        compared = [
            train(seed, args.epochs, data, tars, args.cache, runs / f"seed-{seed}")
            for seed in args.seeds
        ]
    print(recall.table(args.seeds, compared))
    return 0


def train(
    seed: int, epochs: int, data: Path, tars: dict[str, list[Path]], cache: Path, folder: Path
) -> recall.Compared:
    """Train both sides from the start of `seed`, one on the shards in `data`, the other on its
    `tars`; the ranks that each gives the held-out pairs.
    """
    folder.mkdir(parents=True)
    config = same.recipe(data)
    begin = start.write(config, seed, folder / "start")
    samples = len(Manifest.open(data, ["train"]))
    steps = epochs * math.ceil(samples / config.data.global_batch_size)
    commands.run_both(
        commands.mmfm(data, begin, steps, seed, folder),
        commands.open_clip(config, tars, begin, samples, epochs, seed, folder, cache),
        folder,
    )
    held_out = embedded.by_mmfm(folder / "mmfm", data)
    weights = folder / f"open_clip/checkpoints/epoch_{epochs}.pt"
    untrained = embedded.by_open_clip(begin.open_clip, None, tars["val"], held_out.ids)
    theirs = embedded.by_open_clip(begin.open_clip, weights, tars["val"], held_out.ids)
    return recall.Compared(
        untrained=recall.ranked(untrained, held_out.groups),
        open_clip=recall.ranked(theirs, held_out.groups),
        mmfm=recall.ranked(held_out, held_out.groups),
    )


if __name__ == "__main__":
    raise SystemExit(main())
