"""A tokenizer of a dataset's own texts: what ``mmfm data tokenizer`` does.

mmfm data tokenizer data/shop data/tokenizer --vocab-size 8000 --languages en de
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from mmfm.data.tokenizer import Tokenizer, train_bpe
from mmfm_prep.dataset.reading import Dataset
from mmfm_prep.errors import PrepError
from mmfm_prep.progress import say, working
from mmfm_prep.writer import new_folder


def train_tokenizer(
    folder: Path,
    out: Path,
    *,
    vocab_size: int,
    splits: Collection[str] | None = None,
    languages: Collection[str] | None = None,
) -> Tokenizer:
    """Train a byte-level BPE on the texts of `splits` (default: all that aren't held out) in
    `languages` (default: all), write it into the folder `out`, and say how long texts are in it.

    The same texts give the same tokenizer. PrepError where there are none, or `out` is there.
    """
    dataset = Dataset.open(folder)
    dataset.check_splits(splits or ())
    if out.exists():
        raise PrepError(f"{out} is already there: name another folder, or remove it")
    chosen = set(splits or [s for s in dataset.splits if s not in dataset.held_out])
    texts = list(_texts(dataset, chosen, languages))
    if not texts:
        raise PrepError(f"{folder}: no texts in the splits {', '.join(sorted(chosen))}")
    with new_folder(out) as new:
        try:
            with working(f"train a tokenizer on {len(texts):,} texts"):
                tokenizer = train_bpe(texts, vocab_size, new)
        except ValueError as error:
            raise PrepError(str(error)) from None
    say(f"{out}: {tokenizer.vocab_size:,} tokens")
    if tokenizer.vocab_size < vocab_size:
        say(f"the texts hold no more than that: {vocab_size:,} were asked for")
    _say_lengths(tokenizer, texts, "texts it was trained on")
    others = set(dataset.splits) - chosen
    _say_lengths(tokenizer, list(_texts(dataset, others, languages)), "other splits")
    return tokenizer


def _texts(
    dataset: Dataset, splits: Collection[str], languages: Collection[str] | None
) -> Iterator[str]:
    for sample in dataset.samples(splits):
        for language, phrases in sample.texts.items():
            if languages is None or language in languages:
                yield from phrases


def _say_lengths(tokenizer: Tokenizer, texts: list[str], what: str) -> None:
    """The lengths that an encoder's max_length must reach, special tokens included."""
    if not texts:
        return
    lengths = [len(tokenizer.encode(text)) for text in texts]
    words = sum(len(text.split()) for text in texts)
    middle, most, longest = np.percentile(lengths, [50, 99, 100]).astype(int).tolist()
    special = len(tokenizer.encode(""))
    each = (sum(lengths) - special * len(texts)) / max(words, 1)
    say(
        f"{what}: {each:.2f} tokens a word; of {len(texts):,} half have at most {middle} tokens, "
        f"99 % at most {most}, the longest {longest}"
    )
