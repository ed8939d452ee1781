"""The vocabulary that crosses the borders between parts: batches, reads, features, losses.

A *batch* is a plain dict of tensors with fixed keys. For each modality ``m`` that is present:

- ``m``: its inputs (``image`` [B_m,3,H,W] float, ``text`` [B_m,L] int64, ``audio`` [B_m,S] float
  waveform);
- ``m_mask`` where inputs are padded: [B_m,L] or [B_m,S] bool, True = valid;
- ``m_tokens`` [B_m,L,D], ``m_tokens_mask`` [B_m,L], ``m_pooled`` [B_m,D]: the outputs of a frozen
  encoder instead, where they come from the feature cache (``m`` is then there only if something
  asks for raw inputs too).

For a recommendation head ``history`` [B_h,L] int64, rows of its table of items, with
``history_mask`` and, in training, ``history_next`` [B_h,L], the row that follows each.

Always there: ``rows`` {m: [B_m] int64, the sample of each row}, ``group``, ``mask_seed``,
``sample_hash`` [B] int64, ``sample_id`` (list of B strings); for a head also ``labels`` (see
`mmfm.data.labels`). From the pipeline also ``masked_view`` [B] bool, the samples that enter the
masked view (without it all do), and ``stream`` [B] int64, the canonical stream of each sample
(without it all are of one). A micro-batch holds all that its streams have in the step. Behind those
may stand others, of which ``negative`` [B] bool is True: they are there to be told from the step's
samples, and count for nothing else. A sample whose text comes in windows is there once for each,
with ``window`` [B] int64 counting from 0.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Batch = dict[str, Any]
LossTerms = dict[str, tuple[Tensor, Tensor]]
"""name ▶ (sum over this rank's samples, count): the loss is the global sum over the global count.
"""

View = Literal["clean", "masked"]

IGNORE_INDEX = -100

LabelKind = Literal["class", "set", "number", "tags", "items"]


class Label(NamedTuple):
    """What a head learns of the samples: their `field`, in which `names` number the classes.

    `kind`: one class of ``labels`` a sample, a set of them, one of its ``numbers``, a tag for each
    of its ``tokens``, or the items of its history. A checkpoint holds it as a list.
    """

    field: str
    names: Sequence[str] = ()
    kind: LabelKind = "class"


@dataclass(frozen=True)
class Read:
    """What an objective or a head reads: encoder outputs of `modalities` in one `view`, fused or
    not.

    Equal reads are computed once. Of a fused clean read, the modalities that are `replaced` come
    from a hard negative of each sample (see `mmfm.negatives`), drawn at `temperature`.
    """

    view: View
    modalities: tuple[str, ...]
    fused: bool = False
    replaced: tuple[str, ...] = ()
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if self.replaced and not (self.fused and self.view == "clean"):
            raise ValueError(f"{self}: only a fused read of the clean view can replace modalities")
        if self.replaced and not set(self.replaced) < set(self.modalities):
            raise ValueError(f"{self}: `replaced` must name some of the modalities, and not all")

    @property
    def kept(self) -> tuple[str, ...]:
        """The modalities that are the sample's own."""
        return tuple(m for m in self.modalities if m not in self.replaced)


@dataclass
class Features:
    """Outputs of one read. Shapes: B_m rows of modality m, L tokens, D width, E embedding dim.

    `kept[m]`: [B_m,K] int64, the grid position of each token, -1 = padding (masked view).
    `masked[m]`: [B_m,G] bool, the grid positions to predict. `targets[m]`: what stands at every
    grid position, [B_m,G,P] patches where the modality has patches, else the inputs (text: [B_m,G]
    ids). For a fused read `rows["fused"]` are the samples that have any of its modalities,
    `fused[m]` the fused tokens of modality m (rows as in `rows[m]`), and the key ``fused`` stands
    in `embedding` beside the modalities.
    """

    batch_size: int
    rows: dict[str, Tensor] = field(default_factory=dict)
    tokens: dict[str, Tensor] = field(default_factory=dict)
    valid: dict[str, Tensor] = field(default_factory=dict)
    pooled: dict[str, Tensor] = field(default_factory=dict)
    embedding: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)
    masked: dict[str, Tensor] = field(default_factory=dict)
    targets: dict[str, Tensor] = field(default_factory=dict)
    fused: dict[str, Tensor] = field(default_factory=dict)
    fused_pooled: Tensor | None = None

    def has(self, modalities: Collection[str]) -> bool:
        """Whether there are rows of any of `modalities`."""
        return any(m in self.rows for m in modalities)


def to_device(value: Any, device: torch.device) -> Any:
    """`value` with every tensor in it, also inside mappings, on `device`."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    return value
