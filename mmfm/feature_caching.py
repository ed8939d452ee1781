"""Outputs of frozen encoders, computed once for a data set and read from disk afterwards.

An encoder with ``cache: true`` in the model's settings is run over all contents of its modality
that the cache lacks, every rank taking its share; from then on batches carry its outputs instead of
its inputs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Collection, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmfm import distributed
from mmfm.data.cache_build import build_cache
from mmfm.data.decode import build_transforms
from mmfm.data.feature_cache import FeatureCache
from mmfm.data.manifest import Manifest
from mmfm.data.transforms.base import Transform
from mmfm.encoders.base import Encoder
from mmfm.layers.fold import folded
from mmfm.model import Model
from mmfm.progress import Bar

logger = logging.getLogger(__name__)


def open_caches(
    model: Model,
    sources: Sequence[tuple[str, Manifest]],
    folder: Path,
    *,
    transforms: Mapping[str, Any] | None = None,
    train: bool,
    only: Collection[str] | None = None,
) -> dict[str, FeatureCache]:
    """The cache of each encoder that asks for one, complete for `sources`. Collective.

    `transforms`: settings by modality, as the data have them. `train`: all contents of a sample
    that training may draw; otherwise the one that evaluation uses. `only`: these modalities.
    """
    caches = {}
    for modality in model.encoders:
        encoder = model.encoder(modality)
        if encoder.cache and (only is None or modality in only):
            chosen = {m: t for m, t in (transforms or {}).items() if m == modality}
            transform = build_transforms({modality: encoder.spec}, chosen)[modality]
            settings = f"{metadata.version('mmfm')} {chosen}"
            caches[modality] = _fill(encoder, modality, transform, settings, sources, folder, train)
    return caches


def fingerprint(encoder: Encoder) -> str:
    """What the outputs depend on beside the input: the weights, and how inputs are prepared, the
    content of a tokenizer included.
    """
    # Where the tokenizer lies is no part of it: what is in it comes with the assets.
    spec = {key: value for key, value in encoder.spec.items() if key != "tokenizer"}
    about = {"spec": spec, "settings": encoder.settings}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    with tempfile.TemporaryDirectory() as folder:
        encoder.save_assets(Path(folder))
        for file in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
            digest.update(file.name.encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _fill(
    encoder: Encoder,
    modality: str,
    transform: Transform,
    settings: str,
    sources: Sequence[tuple[str, Manifest]],
    folder: Path,
    train: bool,
) -> FeatureCache:
    cache = FeatureCache(folder, f"{modality}-{fingerprint(encoder)}")
    encoder.to(distributed.device())
    fast: nn.Module | None = None

    @torch.no_grad()
    def encode(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None, Tensor]:
        nonlocal fast
        inputs = batch[modality].to(distributed.device())
        mask = batch.get(f"{modality}_mask")
        mask = None if mask is None else mask.to(inputs.device)
        if fast is None:
            # One row: an encoder may take a batch in parts, and no layer may run twice here.
            fast = folded(encoder, inputs[:1], None if mask is None else mask[:1])
        tokens, pooled = fast(inputs, mask)
        return tokens, encoder.token_valid(inputs, mask), pooled

    with Bar(f"encoding {modality} once", show=distributed.is_main()) as bar:
        report = build_cache(
            cache,
            sources,
            modality,
            transform,
            encode,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            train=train,
            settings=settings,
            progress=bar.update,
        )
    distributed.barrier()
    cache.refresh()
    if distributed.is_main():
        logger.info(
            "feature cache of %s: %d encoded on rank 0, %d there already, %d bad; %d shards are"
            " known to be in it",
            modality,
            report.encoded,
            report.present,
            sum(report.bad.values()),
            report.shards_known,
        )
    return cache
