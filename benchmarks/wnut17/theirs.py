"""transformers' Trainer on a token classification model, as its run_ner example does it.

    python -m benchmarks.wnut17.theirs WEIGHTS SHARDS OUT --lr 2e-4 --seed 0 --epochs 5

Reads the same samples out of the shards, and writes the entity F1 on dev and test, as seqeval
counts it, into OUT.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from seqeval.metrics import f1_score
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
)

from mmfm.data.manifest import Manifest
from mmfm.data.reader import SampleReader

IGNORED = -100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("weights")
    parser.add_argument("shards")
    parser.add_argument("out", type=Path)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--epochs", type=float, required=True)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    splits = {split: sentences(args.shards, split) for split in ("train", "dev", "test")}
    names = sorted({tag for _, tags in splits["train"] for tag in tags})
    tokenizer = AutoTokenizer.from_pretrained(args.weights)
    cut = {s: [encoded(tokenizer, names, *one) for one in found] for s, found in splits.items()}
    data = {split: [features for features, _ in found] for split, found in cut.items()}
    torch.manual_seed(args.seed)
    model = AutoModelForTokenClassification.from_pretrained(args.weights, num_labels=len(names))
    steps = args.epochs * len(data["train"]) / args.batch_size
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=str(args.out.with_suffix("")),
            per_device_train_batch_size=args.batch_size,
            per_device_eval_batch_size=64,
            learning_rate=args.lr,
            num_train_epochs=args.epochs,
            weight_decay=0.01,
            warmup_steps=min(40, int(0.1 * steps)),
            seed=args.seed,
            save_strategy="no",
            report_to=[],
            use_cpu=not torch.cuda.is_available(),
            disable_tqdm=True,
        ),
        train_dataset=data["train"],
        data_collator=DataCollatorForTokenClassification(tokenizer),
    )
    start = time.perf_counter()
    trainer.train()
    result: dict[str, float] = {"train_s": time.perf_counter() - start}
    for split in ("dev", "test"):
        found = trainer.predict(data[split])
        best = np.argmax(found.predictions, axis=-1)
        said = []
        for (tokens, _), (_, words), row, known in zip(
            splits[split], cut[split], best, found.label_ids, strict=True
        ):
            # A token of which the tokenizer leaves nothing has no prediction: it is in no entity.
            tags = ["O"] * len(tokens)
            for word, number in zip(words, row[known != IGNORED], strict=True):
                tags[word] = names[number]
            said.append(tags)
        result[split] = f1_score([tags for _, tags in splits[split]], said)
    args.out.write_text(json.dumps(result))
    return 0


def sentences(shards: str, split: str) -> list[tuple[list[str], list[str]]]:
    """(tokens, tags) of every sentence of a split."""
    manifest = Manifest.open(shards, [split])
    reader = SampleReader([(split, manifest)])
    found = [
        reader.read(0, shard, i).meta
        for shard, described in enumerate(manifest.shards)
        for i in range(described.samples)
    ]
    return [(meta["tokens"], meta["tags"]) for meta in found]


def encoded(
    tokenizer: Any, names: list[str], tokens: list[str], tags: list[str]
) -> tuple[dict[str, Any], list[int]]:
    """Ids, with the number of its tag for the first sub-word of each token and `IGNORED`
    elsewhere; and the tokens that have a first sub-word.
    """
    found = tokenizer(tokens, is_split_into_words=True, truncation=True, max_length=128)
    labels, words, before = [], [], None
    for word in found.word_ids():
        first = word is not None and word != before
        labels.append(names.index(tags[word]) if first else IGNORED)
        words += [word] if first else []
        before = word
    return {**found, "labels": labels}, words


if __name__ == "__main__":
    raise SystemExit(main())
