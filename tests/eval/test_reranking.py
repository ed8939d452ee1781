"""Re-ranking by the fusion, against judging all pairs one by one from the raw samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmfm.config import ConfigError
from mmfm.data.evaluation import EvaluationSource
from mmfm.data.manifest import Manifest
from mmfm.predictor import Predictor, load
from mmfm.types import Batch
from mmfm_eval.metrics.ranking import first_relevant_ranks
from mmfm_eval.tasks import _reranking as reranking
from mmfm_eval.tasks._reranking import TokenStore
from tests import tiny
from tests.eval.fakes import retrieval
from tests.eval.tiny_checkpoint import make_checkpoint, make_data

PAIRS = [["image", "text"], ["audio+image", "text"]]
IMAGE, TEXT = {"source": "a", "modality": "image"}, {"source": "a", "modality": "text"}
BOTH = {"source": "a", "modalities": ["audio", "image"]}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory) -> Predictor:
    """With weights of the size that training reaches."""
    folder = tmp_path_factory.mktemp("rerank")
    made = load(make_checkpoint(folder, objectives={"m": {"type": "matching", "pairs": PAIRS}}))
    torch.manual_seed(1)
    for parameter in made.task.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return made


@pytest.fixture(scope="module")
def data(predictor: Predictor, tmp_path_factory) -> dict[str, EvaluationSource]:
    folder = make_data(tmp_path_factory.mktemp("rerank") / "data")
    manifest = Manifest.open(str(folder), ["val"])
    return {"a": EvaluationSource("a", manifest, predictor.specs, batch_size=6)}


def naive(predictor: Predictor, data: dict[str, EvaluationSource], sides: Any) -> dict[Any, float]:
    """(query's id, gallery's id) ▶ the logit, each pair encoded and fused by itself."""
    samples: dict[str, Batch] = {}
    for batch in data["a"]:
        for i, name in enumerate(batch["sample_id"]):
            samples[name] = tiny.take_samples(batch, torch.tensor([i]))
    matching, model = predictor.task.objectives["m"], predictor.model
    found = {}
    for left, one in samples.items():
        for right, other in samples.items():
            pair: Batch = {"rows": {}, "sample_id": ["pair"]}
            for names, part in ((sides[0], one), (sides[1], other)):
                for m in names:
                    if len(part["rows"].get(m, ())):
                        pair["rows"][m] = torch.tensor([0])
                        pair |= {k: part[k] for k in (m, f"{m}_mask") if k in part}
            if set(pair["rows"]) == {*sides[0], *sides[1]}:
                with torch.no_grad():
                    features = model.encode(pair, sorted(pair["rows"]))
                    pooled = model.fuse(features, sorted(pair["rows"])).fused_pooled
                    found[left, right] = matching.logits(pooled).item()
    return found


@pytest.mark.parametrize("query", [IMAGE, BOTH], ids=["image", "audio+image"])
def test_scores_are_those_of_judging_pair_by_pair(
    predictor: Predictor, data: dict[str, EvaluationSource], query: dict[str, Any]
) -> None:
    """Ranks by hand: first the best four, by the fusion, then the others as they were."""
    task = retrieval(query, TEXT, rerank=4, baseline="none")
    names = tuple(query.get("modalities") or [query["modality"]])
    encoded = task.encode(predictor, data)
    left, right = task._sides(encoded[task.readings[0]][0])
    scores = {s.name: s for s in task(predictor, data)}
    plain = {s.name: s for s in retrieval(query, TEXT, baseline="none")(predictor, data)}
    for name, score in plain.items():
        assert scores[name] == score
    assert set(scores) == {*plain, *(f"{name}_reranked" for name in plain)}
    logits = naive(predictor, data, (names, ("text",)))
    moved = 0
    for start, queries, gallery, turned in (
        (f"{'+'.join(names)}_to_text", left, right, False),
        (f"text_to_{'+'.join(names)}", right, left, True),
    ):
        ranks = []
        for q in range(len(queries)):
            cosine = queries.x[q].astype(float) @ gallery.x.astype(float).T
            order = list(np.argsort(-cosine, kind="stable"))
            pair = [(queries.ids[q], gallery.ids[g]) for g in order[:4]]
            judged = np.array([logits[p[::-1] if turned else p] for p in pair])
            relevant = np.array([queries.groups[q] == gallery.groups[g] for g in order])
            if relevant[:4].any():  # a tie counts as the expected rank
                best = judged[relevant[:4]].max()
                others, own = judged[~relevant[:4]], judged[relevant[:4]]
                tied = (abs(others - best) <= 1e-4).sum() / ((abs(own - best) <= 1e-4).sum() + 1)
                ranks.append(1 + (others > best + 1e-4).sum() + tied)
            else:
                best = cosine[order[4:]][relevant[4:]].max()
                others = cosine[order[4:]][~relevant[4:]]
                own = cosine[order[4:]][relevant[4:]]
                tied = (abs(others - best) <= 1e-6).sum() / ((abs(own - best) <= 1e-6).sum() + 1)
                ranks.append(5 + (others > best + 1e-6).sum() + tied)
            moved += not (np.diff(judged) <= 0).all()
        rank = np.array(ranks)
        for k in (1, 5, 10):
            assert scores[f"{start}_R@{k}_reranked"].value == pytest.approx((rank <= k).mean())
        assert scores[f"{start}_MRR_reranked"].value == pytest.approx((1 / rank).mean())
        assert scores[f"{start}_median_rank_reranked"].value == np.median(rank)
        before, after = scores[f"{start}_MRR"], scores[f"{start}_MRR_reranked"]
        assert (after.chance, after.n) == (before.chance, before.n)
    assert moved > 10


def test_blocks_make_no_difference(
    predictor: Predictor, data: dict[str, EvaluationSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = retrieval(IMAGE, TEXT, rerank=3, both_directions=False, baseline="none")
    ((_, whole, other),) = task.encode(predictor, data).values()
    assert other is None
    monkeypatch.setattr(reranking, "AT_ONCE", 2)
    ((_, parts, _),) = task.encode(predictor, data).values()
    assert np.array_equal(whole.candidates, parts.candidates)
    np.testing.assert_allclose(parts.logit, whole.logit, rtol=1e-4, atol=1e-5)
    assert not any(name.startswith("text_to") for name in (s.name for s in task(predictor, data)))


def test_judged_rows_come_first() -> None:
    """Also where their scores are far below the cosines; ties are ties."""
    queries, gallery = np.eye(4)[:1], np.array([[0.9, 0, 0, 0], [0.8, 0, 0, 0], [0.1, 0, 0, 0]])
    group = np.array([7])

    def rank(groups: list[int], candidates: list[int], score: list[float]) -> float:
        judged = (np.array([candidates]), np.array([score]))
        found = first_relevant_ranks(queries, gallery, group, np.array(groups), judged=judged)
        return float(found.rank[0])

    assert rank([7, 0, 0], [0, 1], [-50.0, -40.0]) == 2
    assert rank([0, 0, 7], [0, 1], [-50.0, -40.0]) == 3
    assert rank([0, 7, 0], [0, 1], [-50.0, -40.0]) == 1
    assert rank([0, 7, 0], [0, 1], [-50.0, -50.0]) == 1.5


def test_tokens_are_kept_without_padding(predictor: Predictor, data) -> None:
    batch = next(b for b in data["a"] if "text" in b["rows"])
    read = reranking.Read("clean", ("text",))
    with torch.no_grad():
        features = predictor.run(batch, reads=[read]).features
    ids = batch["sample_id"]
    with TokenStore() as store:
        store.add("a", batch, features)
        tokens, valid, pooled = store.get("a", "text", [ids[2], ids[0]])
    found = features[read]
    for at, row in enumerate((2, 0)):
        kept = found.valid["text"][row]
        assert torch.equal(tokens[at][valid[at]], found.tokens["text"][row][kept])
        assert torch.equal(pooled[at], found.pooled["text"][row])


def test_refusals(predictor: Predictor, data, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rerank = -1 must not be negative"):
        retrieval(IMAGE, TEXT, rerank=-1)
    with pytest.raises(ConfigError, match="two sides without a modality in common"):
        retrieval(IMAGE, {"source": "b", "modality": "image"}, rerank=4)
    audio = {"source": "a", "modality": "audio"}
    task = retrieval(audio, TEXT, rerank=4)
    message = "has learnt to match audio and text.* has learnt image_text, audio.image_text"
    with pytest.raises(ConfigError, match=message):
        task.check_model(predictor)
    with pytest.raises(ConfigError, match="This one has learnt none"):
        retrieval(IMAGE, TEXT, rerank=4).check_model(load(make_checkpoint(tmp_path)))
    with pytest.raises(ConfigError, match="there is no source 'b'"):
        retrieval(IMAGE, {"source": "b", "modality": "text"}, rerank=4).check_sources(["a"])
