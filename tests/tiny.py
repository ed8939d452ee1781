"""A tri-modal model and batches small enough for tests that run in several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmfm.config import from_dict
from mmfm.data.tokenizer import train_bpe
from mmfm.masking import counter_hash
from mmfm.task import PretrainTask, PretrainTaskConfig
from mmfm.types import Batch

STREAMS = 8
SLOTS = 4  # slots of each stream in a step
GLOBAL_BATCH = STREAMS * SLOTS
# Settings of DeepSpeed by which stage 3 cuts all weights, and lets go of each after each use.
IN_PARTS = {
    "zero_optimization": {
        "stage3_param_persistence_threshold": 0,
        "stage3_max_reuse_distance": 0,
    }
}

MODALITIES_OF_SLOT = (
    ("image", "text", "audio"),
    ("image", "text", "audio"),
    ("image", "text"),
    ("text", "audio"),
)


def make_tokenizer(folder: Path) -> str:
    if not folder.exists():
        words = [f"a {c} {s} tone" for c in ("red", "blue", "green") for s in ("dot", "box", "bar")]
        train_bpe(words, vocab_size=300, folder=folder)
    return str(folder)


def task_settings(
    tokenizer: str, dropout: float = 0.0, teacher: str | None = None
) -> dict[str, Any]:
    """`teacher`: a checkpoint; with it there is every kind of objective, else only four."""
    small = {"width": 16, "layers": 1, "heads": 2, "dropout": dropout}
    settings: dict[str, Any] = {
        "model": {
            "embed_dim": 16,
            "encoders": {
                "image": {"type": "vision_transformer", "image_size": 8, "patch_size": 4, **small},
                "text": {
                    "type": "text_transformer",
                    "tokenizer": tokenizer,
                    "max_length": 8,
                    **small,
                },
                "audio": {
                    "type": "audio_transformer",
                    "sample_rate": 1000,
                    "max_seconds": 0.256,
                    "n_fft": 64,
                    "hop": 16,
                    "mels": 8,
                    "patch_frames": 4,
                    "patch_mels": 8,
                    **small,
                },
            },
            "fusion": {"type": "transformer", **small},
        },
        "objectives": {
            "contrastive": {
                "type": "contrastive",
                "temperature": 0.5,
                "pairs": [["image", "text"], ["audio", "text"], ["audio+image", "text"]],
            },
            "masked_text": {"type": "masked_text", "mask_ratio": 0.4},
            "masked_image": {
                "type": "masked_image",
                "mask_ratio": 0.5,
                "decoder_width": 16,
                "decoder_heads": 2,
            },
            "masked_audio": {
                "type": "masked_audio",
                "mask_ratio": 0.5,
                "decoder_width": 16,
                "decoder_heads": 2,
                "weight": 0.5,
            },
        },
    }
    if teacher is not None:
        settings["objectives"] |= _more_objectives(teacher)
    return settings


def _more_objectives(teacher: str) -> dict[str, Any]:
    taught = {"type": "distillation", "teacher": teacher}
    return {
        "sigmoid": {
            "type": "sigmoid",
            "temperature": 0.5,
            "logit_bias": -2.0,
            "chunk": 5,
            "weight": 0.1,
            "pairs": [["image", "text"], ["audio+image", "text"]],
        },
        "matching": {"type": "matching", "pairs": [["image", "text"], ["audio", "text"]]},
        "caption": {
            "type": "caption",
            "sources": ["image", "audio"],
            "width": 16,
            "layers": 1,
            "heads": 2,
        },
        "affinity": {**taught, "what": "logit", "pairs": [["image", "text"]], "temperature": 0.5},
        "embedding": {**taught, "what": "embedding", "modality": "audio"},
        "feature": {**taught, "what": "feature", "modality": "text", "of": "tokens"},
    }


def make_task(
    tokenizer: str, dropout: float = 0.0, seed: int = 0, teacher: str | None = None
) -> PretrainTask:
    torch.manual_seed(seed)
    config = from_dict(PretrainTaskConfig, task_settings(tokenizer, dropout, teacher))
    task = PretrainTask.build(config)
    # Weights of the size that training reaches. At the small weights of the usual start all
    # embeddings are nearly equal, and the differences that the contrastive loss sees have few
    # correct digits in fp32.
    for parameter in task.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        elif parameter.abs().max() < 0.1:
            torch.nn.init.normal_(parameter, std=0.1)
    return task


def make_batch(step: int, leave_out: str | None = None) -> Batch:
    """The global batch of a step: samples stream by stream, every stream with the same slots."""
    generator = torch.Generator().manual_seed(1000 + step)
    kinds = [MODALITIES_OF_SLOT[slot] for _ in range(STREAMS) for slot in range(SLOTS)]
    rows = {
        m: torch.tensor([i for i, kind in enumerate(kinds) if m in kind])
        for m in ("image", "text", "audio")
        if m != leave_out
    }
    numbers = torch.arange(GLOBAL_BATCH) + 100 * step
    batch: Batch = {
        "rows": rows,
        "group": torch.randint(0, 10, (GLOBAL_BATCH,), generator=generator),
        "mask_seed": counter_hash(torch.tensor([7]), numbers)[0],
        "sample_hash": numbers,
        "sample_id": [str(int(n)) for n in numbers],
        "stream": torch.arange(GLOBAL_BATCH) // SLOTS,
    }
    if "image" in rows:
        batch["image"] = torch.randn(len(rows["image"]), 3, 8, 8, generator=generator)
    if "text" in rows:
        n = len(rows["text"])
        batch["text"] = torch.randint(5, 260, (n, 8), generator=generator)
        lengths = torch.randint(3, 9, (n,), generator=generator)
        batch["text_mask"] = torch.arange(8)[None, :] < lengths[:, None]
    if "audio" in rows:
        n = len(rows["audio"])
        batch["audio"] = torch.randn(n, 256, generator=generator)
        lengths = torch.randint(100, 257, (n,), generator=generator)
        batch["audio_mask"] = torch.arange(256)[None, :] < lengths[:, None]
    return batch


def in_slots(slots: tuple[int, ...]) -> Tensor:
    """[GLOBAL_BATCH] bool: the samples of `make_batch` that stand in one of these slots."""
    return torch.isin(torch.arange(GLOBAL_BATCH) % SLOTS, torch.tensor(slots))


def take_samples(batch: Batch, samples: Tensor) -> Batch:
    """The batch of some samples, in their order, with `rows` counted anew."""
    place = {int(s): i for i, s in enumerate(samples)}
    part: Batch = {"rows": {}, "sample_id": [batch["sample_id"][int(s)] for s in samples]}
    for key in ("group", "mask_seed", "sample_hash", "masked_view", "stream", "labels"):
        if key in batch:
            part[key] = batch[key][samples]
    for modality, rows in batch["rows"].items():
        chosen = [i for i, r in enumerate(rows.tolist()) if r in place]
        part["rows"][modality] = torch.tensor([place[int(rows[i])] for i in chosen])
        for key in (modality, f"{modality}_mask"):
            if key in batch:
                part[key] = batch[key][chosen]
    return part


def micro_batches(batch: Batch, rank: int, world_size: int, micro_batch_size: int) -> list[Batch]:
    """What a rank trains on: its streams rank, rank + world_size, …, stream by stream."""
    streams = range(rank, STREAMS, world_size)
    mine = torch.tensor([s * SLOTS + i for s in streams for i in range(SLOTS)])
    return [take_samples(batch, part) for part in mine.split(micro_batch_size)]
