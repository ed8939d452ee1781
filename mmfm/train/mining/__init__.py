"""Hard negatives from an index of the current model, for a head that asks for them.

    head: {type: retrieval, hard_negatives: {per_sample: 1, among: 50, every: 200}}

At the steps 0, 200, 400, … all training samples are encoded by the model as it is, and for each
side of each pair the nearest samples of another group are searched, exactly. What is found lies in
`FILE` in the run's folder and in each of its checkpoints, so a run that is resumed goes on with the
same negatives.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mmfm import distributed
from mmfm.checkpoint import Checkpoint
from mmfm.config import ConfigError
from mmfm.data.feature_cache import FeatureCache
from mmfm.data.hard_negatives import Direction, NegativeTable, Numbers
from mmfm.heads.retrieval import HardNegativesConfig, RetrievalHead
from mmfm.train.log import RunLog
from mmfm.train.mining.search import Nearest, nearest
from mmfm.train.mining.sides import Side, Sources, encode_sides
from mmfm.train.run import Run
from mmfm.types import Read

FILE = "negatives.safetensors"


@dataclass
class Negatives:
    """The table of a run, and how near its samples are where it was made just now: the mean
    similarity of what may be drawn, and of pairs of random samples.
    """

    table: NegativeTable
    made_at: int | None = None
    similarity: float = 0.0
    random: float = 0.0


def next_mining(task: nn.Module, step: int) -> int | None:
    """The first step after `step` at which negatives are searched; None where they never are."""
    wanted = _wanted(task)
    return None if wanted is None else (step // wanted[1].every + 1) * wanted[1].every


def negatives_of(
    run: Run, found: Checkpoint | None, sources: Sources, caches: Mapping[str, FeatureCache]
) -> Negatives | None:
    """The negatives that the run goes on with from the checkpoint `found`: those in it, or where it
    is time for others, or the settings are others, new ones; None where the head asks for none.
    Collective.
    """
    wanted = _wanted(run.task)
    if wanted is None:
        return None
    head, config = wanted
    path, step = run.folder / FILE, 0 if found is None else found.step
    directions = [d for a, b in head.contrastive.pairs for d in _both_ways(a, b)]
    kept = None if found is None else _kept(found, config, directions)
    if distributed.is_main():
        run.folder.mkdir(parents=True, exist_ok=True)
    if kept is not None:
        if distributed.is_main():
            shutil.copyfile(kept.path, path)
        distributed.barrier()
        return Negatives(NegativeTable(path))
    candidates, similarity, random = _mine(run, head, config, sources, caches)
    if distributed.is_main():
        NegativeTable.write(path, candidates, {"step": step, **asdict(config)})
    distributed.barrier()
    return Negatives(NegativeTable(path), step, similarity, random)


def _wanted(task: nn.Module) -> tuple[RetrievalHead, HardNegativesConfig] | None:
    head = getattr(task, "head", None)
    if isinstance(head, RetrievalHead) and head.hard_negatives is not None:
        return head, head.hard_negatives
    return None


def _both_ways(a: Read, b: Read) -> tuple[Direction, Direction]:
    return Direction(a.modalities, b.modalities), Direction(b.modalities, a.modalities)


def _kept(
    found: Checkpoint, config: HardNegativesConfig, directions: list[Direction]
) -> NegativeTable | None:
    """The checkpoint's own table, if the run would use it at this step."""
    if not (found.path / FILE).is_file():
        return None
    table = NegativeTable(found.path / FILE)
    settings = dict(table.settings)
    made_at = int(settings.pop("step"))
    settings.pop("directions")
    same = settings == asdict(config) and table.directions == directions
    return table if same and made_at >= found.step - found.step % config.every else None


def _mine(
    run: Run,
    head: RetrievalHead,
    config: HardNegativesConfig,
    sources: Sources,
    caches: Mapping[str, FeatureCache],
) -> tuple[dict[Direction, NDArray[np.int32]], float, float]:
    """The candidates [all samples,among] of each direction, and their mean similarity and that of
    random pairs.
    """
    sides = encode_sides(run, head, sources, caches)
    total = len(Numbers(sources))
    candidates, similarities, randoms = {}, [], []
    for a, b in head.contrastive.pairs:
        for query, key in ((a, b), (b, a)):
            found = _search(sides[query], sides[key], config, run.recipe.run.seed)
            direction = Direction(query.modalities, key.modalities)
            candidates[direction] = np.full((total, config.among), -1, dtype=np.int32)
            candidates[direction][found.number] = found.candidates
            similarities.append(found.similarity)
            randoms.append(found.random)
    return candidates, float(np.mean(similarities)), float(np.mean(randoms))


def _search(query: Side, key: Side, config: HardNegativesConfig, seed: int) -> Nearest:
    """The candidates of every sample that has both sides: of those whose modalities of the `key`
    side are the sample's own.
    """
    both, at_query, at_key = np.intersect1d(query.number, key.number, return_indices=True)
    if not len(both):
        raise ConfigError("head.pairs: no training sample has both sides of a pair")
    codes = key.code[at_key]
    parts = []
    for code in np.unique(codes):
        of_query, of_key = at_query[codes == code], np.flatnonzero(key.code == code)
        found = nearest(
            query.x[of_query],
            key.x[of_key],
            query.group[of_query],
            key.group[of_key],
            skip=config.skip,
            among=config.among,
            at_least=config.per_sample,
            seed=seed,
        )
        parts.append(found.named(query.number[of_query], key.number[of_key]))
    return Nearest.together(parts)


def tell_negatives(negatives: Negatives, log: RunLog) -> None:
    """Log what was found, where something was searched."""
    if negatives.made_at is None:
        return
    near, strange = round(negatives.similarity, 6), round(negatives.random, 6)
    log.event("negatives", step=negatives.made_at, similarity=near, random=strange)
    log.say(
        f"step {negatives.made_at}  hard negatives: mean similarity {near:.3f}, of random pairs "
        f"{strange:.3f}"
    )
