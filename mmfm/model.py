"""The model: one encoder a modality, projections into one embedding space, and a fusion of any
subset of modalities.

    model = ModelConfig(embed_dim=256, encoders={"image": …, "text": …}, fusion=…).build()
    features = model.encode(batch, ["image", "text"])
    fused = model.fuse(features, ["image", "text"])

It knows no modality by name and no objective: what is computed is what a read asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmfm.config import Component
from mmfm.encoders.base import Encoder
from mmfm.fusion.base import Fusion, FusionInput
from mmfm.layers.patch_embed import keep_valid
from mmfm.layers.projection import Projection, ProjectionConfig
from mmfm.masking import keep_indices
from mmfm.types import Batch, Features, View

FUSED = "fused"
ENCODED = ("rows", "tokens", "valid", "pooled", "embedding", "kept", "masked", "targets")


@dataclass(kw_only=True)
class ModelConfig:
    """`encoders`: one for each modality; `embed_dim`: the size of the shared space; `fusion`: none
    unless given.

    `projections`: by modality (or "fused"), how its encoder's outputs get into the shared space;
    those not named are linear.
    """

    embed_dim: int = 256
    projections: dict[str, ProjectionConfig] = field(default_factory=dict)
    encoders: dict[str, Annotated[Any, Component("mmfm.encoders")]]
    fusion: Annotated[Any | None, Component("mmfm.fusion")] = None

    def __post_init__(self) -> None:
        if self.embed_dim < 1:
            raise ValueError(f"embed_dim = {self.embed_dim} must be at least 1")
        for name, projection in self.projections.items():
            if name not in self.encoders and name != FUSED:
                raise ValueError(
                    f"projections names {name!r}; the model has {', '.join(self.encoders)} and "
                    f"{FUSED}"
                )
            if name == FUSED and self.fusion is None:
                raise ValueError(f"projections.{FUSED} needs model.fusion, which is null")
            if name == FUSED and projection.reads == "tokens":
                raise ValueError(f"projections.{FUSED}: the fused tokens vary in number")
        if not self.encoders:
            raise ValueError("encoders: at least one modality is needed")
        if FUSED in self.encoders:
            raise ValueError(f"encoders: {FUSED!r} names what fusion makes, not a modality")

    def build(self, assets: Path | None = None) -> Model:
        """The model on CPU. `assets`: a folder that `Model.save_assets` wrote; nothing is then
        fetched from elsewhere.
        """
        encoders = {
            m: config.build(assets=None if assets is None else assets / m)
            for m, config in self.encoders.items()
        }
        widths = {m: encoder.width for m, encoder in encoders.items()}
        fusion = None if self.fusion is None else self.fusion.build(widths)
        projections = {
            m: self._projection(m, e.width, None if e.drops else e.grid_length)
            for m, e in encoders.items()
        }
        if fusion is not None:
            projections[FUSED] = self._projection(FUSED, fusion.width, None)
        return Model(encoders, projections, self.embed_dim, fusion)

    def _projection(self, name: str, width: int, tokens: int | None) -> Projection:
        config = self.projections.get(name, ProjectionConfig())
        try:
            return config.build(width, tokens, self.embed_dim)
        except ValueError as error:
            raise ValueError(f"projections.{name}: {error}") from None


class Model(nn.Module):
    """Encoders, their projections to `embed_dim` and maybe a fusion; see `encode` and `fuse`."""

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        projections: Mapping[str, nn.Module],
        embed_dim: int,
        fusion: Fusion | None,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.encoders = nn.ModuleDict(dict(encoders))
        self.projections = nn.ModuleDict(dict(projections))
        self.fusion = fusion

    @property
    def specs(self) -> dict[str, dict[str, Any]]:
        """What the data pipeline must know of each modality, as plain JSON."""
        return {m: self.encoder(m).spec for m in self.encoders}

    @property
    def fusion_width(self) -> int | None:
        """The width of the fused tokens; None without a fusion."""
        return None if self.fusion is None else self.fusion.width

    def encoder(self, modality: str) -> Encoder:
        """The encoder of `modality`.

        Raises:
            ValueError: if the model has none.
        """
        if modality not in self.encoders:
            have = ", ".join(self.encoders)
            raise ValueError(f"the model has no encoder of {modality!r}; it has {have}")
        encoder = self.encoders[modality]
        assert isinstance(encoder, Encoder)
        return encoder

    def encode(
        self,
        batch: Batch,
        modalities: Sequence[str],
        view: View = "clean",
        masks: Mapping[str, Tensor] | None = None,
    ) -> Features:
        """Run the encoders of those `modalities` that the batch has.

        In the masked view, `masks[m]` [B_m,G] bool says which grid positions of modality m are
        hidden; a modality without one is encoded whole. Encoders that can leave the hidden patches
        out do, others see masked inputs.
        """
        masks = dict(masks or {})
        assert view == "masked" or not masks, "masks belong to the masked view"
        features = Features(batch_size=len(batch["sample_id"]))
        for m in modalities:
            encoder = self.encoder(m)
            if m not in batch and f"{m}_tokens" not in batch:
                continue
            features.rows[m] = batch["rows"][m]
            if m in masks:
                self._encode_masked(features, batch, m, encoder, masks[m])
            else:
                self._encode_clean(features, batch, m, encoder)
            if view == "masked" and m not in features.kept:
                length = features.tokens[m].shape[1]
                grid = torch.arange(length, device=features.tokens[m].device)
                features.kept[m] = grid.expand(len(features.rows[m]), -1)
            features.embedding[m] = _embed(
                self.projections[m], features.pooled[m], features.tokens[m], features.valid[m]
            )
        return features

    def _encode_clean(self, features: Features, batch: Batch, m: str, encoder: Encoder) -> None:
        if encoder.cache and f"{m}_tokens" in batch:
            dtype = next(self.projections[m].parameters()).dtype
            features.tokens[m] = batch[f"{m}_tokens"].to(dtype)
            features.pooled[m] = batch[f"{m}_pooled"].to(dtype)
            features.valid[m] = batch[f"{m}_tokens_mask"]
            return
        inputs, valid = batch[m], batch.get(f"{m}_mask")
        features.tokens[m], features.pooled[m] = encoder(inputs, valid)
        features.valid[m] = encoder.token_valid(inputs, valid)

    def _encode_masked(
        self, features: Features, batch: Batch, m: str, encoder: Encoder, masked: Tensor
    ) -> None:
        assert m in batch, f"a mask of {m} needs the raw inputs in the batch"
        inputs, valid = batch[m], batch.get(f"{m}_mask")
        real = encoder.token_valid(inputs, valid)
        features.masked[m] = masked
        if encoder.drops:
            # Padding is left out like what is masked: it would only cost time.
            keep = keep_indices(masked | ~real)
            features.kept[m] = keep
            features.tokens[m], features.pooled[m] = encoder(inputs, valid, keep)
            features.valid[m] = keep_valid(real, keep)
        else:
            seeds = batch["mask_seed"][features.rows[m]]
            hidden = encoder.mask_inputs(inputs, masked, seeds)
            features.tokens[m], features.pooled[m] = encoder(hidden, valid)
            features.valid[m] = real
        patches = encoder.patchify(inputs, valid) if encoder.has_patches else None
        features.targets[m] = inputs if patches is None else patches

    def fuse(self, features: Features, modalities: Sequence[str]) -> Features:
        """Fuse what each sample has of `modalities`.

        New features that share the encoders' outputs of `modalities`, with `rows["fused"]`: the
        samples, ascending, that have any of them. The order in which `modalities` are named makes
        no difference.

        Raises:
            ValueError: if the model has no fusion, or the batch has none of the modalities.
        """
        if self.fusion is None:
            raise ValueError("the model has no fusion: set model.fusion")
        present = [m for m in self.encoders if m in modalities and m in features.rows]
        if not present:
            raise ValueError(f"nothing to fuse: the batch has none of {', '.join(modalities)}")
        device = features.rows[present[0]].device
        has = torch.zeros(features.batch_size, dtype=torch.bool, device=device)
        for m in present:
            has[features.rows[m]] = True
        place = has.cumsum(0) - 1  # a sample's row among those that are fused
        inputs = {
            m: FusionInput(
                rows=place[features.rows[m]],
                tokens=features.tokens[m],
                valid=features.valid[m],
                pooled=features.pooled[m],
            )
            for m in present
        }
        rows = has.nonzero()[:, 0]
        out = _restrict(features, present)
        out.rows[FUSED] = rows
        out.fused, out.fused_pooled = self.fusion(inputs, len(rows))
        out.embedding[FUSED] = _embed(self.projections[FUSED], out.fused_pooled)
        return out

    def save_assets(self, folder: Path) -> None:
        """Write what `ModelConfig.build(assets=folder)` needs beside weights and config: one folder
        a modality.
        """
        for m in self.encoders:
            (folder / m).mkdir(parents=True, exist_ok=True)
            self.encoder(m).save_assets(folder / m)


def _embed(projection: nn.Module, *encoded: Tensor) -> Tensor:
    """Project and normalise to length 1, the norm in float32."""
    return F.normalize(projection(*encoded).float(), dim=-1)


def _restrict(features: Features, modalities: Sequence[str]) -> Features:
    """Features with new dicts that hold the same tensors of `modalities` only."""
    out = Features(batch_size=features.batch_size)
    for name in ENCODED:
        chosen = {m: t for m, t in getattr(features, name).items() if m in modalities}
        setattr(out, name, chosen)
    return out
