"""Near-duplicate texts, against the exact similarity."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest

from mmfm_prep.errors import PrepError
from mmfm_prep.filters import near_text
from mmfm_prep.filters.near_text import NearTexts, pieces, signature
from tests.prep.filters.near import add

WORDS = (  # noqa: SIM905
    "a the red blue green old small dog cat horse child woman man runs sits sleeps plays along"
    " under beside with near beach garden street table chair window ball river mountain forest"
    " photo bright dark early winter summer morning two three many"
).split()


def captions(count: int, seed: int = 0) -> list[str]:
    lot = random.Random(seed)
    return [" ".join(lot.choices(WORDS, k=lot.randint(6, 20))) for _ in range(count)]


def edited(text: str, lot: random.Random, changes: int) -> str:
    letters = list(text)
    for _ in range(changes):
        letters[lot.randrange(len(letters))] = lot.choice("abcdefghij ")
    return "".join(letters)


def exact(one: str, other: str) -> float:
    return len(pieces(one) & pieces(other)) / len(pieces(one) | pieces(other))


def test_estimates_are_those_of_the_exact_similarity() -> None:
    lot = random.Random(1)
    errors = []
    for text in captions(400):
        other = edited(text, lot, lot.randint(0, 12))
        a, b = (np.frombuffer(signature(t), np.uint8) for t in (text, other))
        errors.append(((a == b).mean() - 1 / 256) / (1 - 1 / 256) - exact(text, other))
    # Standard error of a share near .6 of 128: .043; of the mean of 400 such: .0022.
    assert abs(np.mean(errors)) < 0.007
    assert np.std(errors) < 0.05


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.95])
def test_recall_and_precision(threshold: float) -> None:
    lot = random.Random(2)
    seen = NearTexts(threshold)
    texts = [t for i, t in enumerate(captions(1500)) if add(seen, i, signature(t)) is None]
    assert len(texts) > 1200
    found = {True: [0, 0], False: [0, 0]}
    for text in texts:
        other = edited(text, lot, lot.randint(0, 8))
        near = exact(text, other)
        # A fresh index, so that the edits of other texts don't matter.
        alone = NearTexts(threshold)
        add(alone, 7, signature(text))
        hit = add(alone, 8, signature(other))
        assert hit in (None, 7)
        if abs(near - threshold) > 0.12 or near == 1:  # three standard errors and more
            found[near > threshold][0] += hit is not None
            found[near > threshold][1] += 1
    assert min(found[True][1], found[False][1]) > 80
    assert found[True][0] / found[True][1] > 0.99
    assert found[False][0] / found[False][1] < 0.01


def test_the_first_near_one_is_named_and_others_are_remembered() -> None:
    seen = NearTexts(0.8)
    text = "Two dogs are playing with a red ball in the grass."
    assert add(seen, 10**12, signature(text)) is None
    assert add(seen, 5, signature(text.upper() + "  ")) == 10**12
    assert add(seen, 6, signature("Two cats are sleeping on an old sofa near the window.")) is None
    assert add(seen, 7, signature("Two dogs are playing with a red ball in the grass!")) == 10**12
    assert add(seen, 8, signature("Two cats are sleeping on an old sofa near the windows.")) == 6


def test_among_many_texts_the_same_is_found_as_by_looking_at_all() -> None:
    lot = random.Random(4)
    texts = captions(5000, seed=3)  # the index grows three times
    signatures = [signature(text) for text in texts]
    signatures += [signature(edited(text, lot, 2)) for text in texts[::10]]
    rows = np.frombuffer(b"".join(signatures), np.uint8).reshape(-1, 128)
    seen = NearTexts(0.8)
    kept: list[int] = []
    missed = hits = 0
    for number, own in enumerate(signatures):
        equal = (rows[kept] == rows[number]).sum(1)
        near = [kept[i] for i in np.flatnonzero(equal >= 0.8 * 127.5 + 0.5)]
        got = add(seen, number, own)
        assert got is None or got in near
        hits += got is not None
        missed += got is None and bool(near)
        if got is None:
            kept.append(number)
    assert hits > 250
    assert missed <= 0.02 * hits


def test_in_a_template_filled_in_near_ones_are_found_though_all_are_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(near_text, "_REACH", 8)
    lot = random.Random(5)
    names = ["".join(lot.choices("bcdfghklmnprstaeiou", k=7)) for _ in range(900)]
    texts = [
        f"a beautiful photo of the {a} {b} near {c}"
        for a, b, c in zip(*[iter(names)] * 3, strict=True)
    ]
    seen = NearTexts(0.8)
    assert [add(seen, i, signature(text)) for i, text in enumerate(texts)] == [None] * 300
    found = [add(seen, -1, signature(text + "!")) for text in texts]
    assert sum(got == i for i, got in enumerate(found)) >= 297


@pytest.mark.parametrize("threshold", [0.3, 0.8, 1.0])
def test_short_texts_are_near_only_when_equal(threshold: float) -> None:
    seen = NearTexts(threshold)
    for number, text in enumerate(["chair", "chairs", "red chair", "", "椅子", "a", "A!"]):
        assert add(seen, number, signature(text)) is None
    assert add(seen, 9, signature(" Chair ")) == 0
    assert add(seen, 9, signature("椅子")) == 4
    assert add(seen, 9, signature("  ")) == 3


def test_texts_without_blanks() -> None:
    seen = NearTexts(0.7)
    assert add(seen, 0, signature("两只狗在草地上玩一个红色的球，旁边还有一个小男孩。")) is None
    assert add(seen, 1, signature("两只狗在草地上玩一个红色的球，旁边还有一个小女孩。")) == 0
    assert add(seen, 2, signature("三只猫睡在窗户旁边的旧沙发上，外面正在下大雪呢。")) is None


def test_signatures_are_the_same_in_every_process() -> None:
    code = (
        "from mmfm_prep.filters.near_text import signature as s; print(s('a red chair, old').hex())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == signature("a red chair, old").hex()
    assert len(signature("\ud800 half a surrogate, and more")) == near_text.PERMUTATIONS


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    for threshold in (0, 1.1):
        with pytest.raises(ValueError, match="must be above 0 and at most 1"):
            NearTexts(threshold)
    near_text._empty.cache_clear()
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(PrepError, match=r"datasketch: pip install 'mmfm\[filters\]'"):
        signature("a")
