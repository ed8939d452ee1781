"""The nearest rows of another group, against sorting them all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmfm.config import ConfigError
from mmfm.train.mining import search as module
from mmfm.train.mining.search import Nearest, nearest


def rows(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, 8, generator=generator), dim=-1)


QUERY, KEY = rows(23, 0), rows(40, 1)
OF_QUERY, OF_KEY = np.arange(23) % 7, np.arange(40) % 9


def find(**settings: int) -> Nearest:
    given = {"skip": 0, "among": 5, "at_least": 1, "seed": 0} | settings
    return nearest(QUERY, KEY, OF_QUERY, OF_KEY, **given)


@pytest.mark.parametrize("cells", [module.CELLS, 100])
@pytest.mark.parametrize(("skip", "among"), [(0, 5), (3, 4), (2, 60)])
def test_equals_sorting(monkeypatch, cells: int, skip: int, among: int) -> None:
    """Also block by block; where there are fewer, -1 fills up."""
    monkeypatch.setattr(module, "CELLS", cells)
    found = find(skip=skip, among=among)
    assert found.number.tolist() == list(range(23))
    similarity, values = (QUERY.double() @ KEY.double().T).numpy(), []
    for q in range(23):
        others = [k for k in np.argsort(-similarity[q]) if OF_KEY[k] != OF_QUERY[q]]
        want = [int(k) for k in others[skip : skip + among]]
        assert found.candidates[q].tolist() == want + [-1] * (among - len(want))
        values += [similarity[q, k] for k in want]
    assert found.similarity == pytest.approx(np.mean(values), rel=1e-6)


def test_random_keys_are_of_another_group_too() -> None:
    """Their mean similarity is that of all such pairs, within what 2,000 draws can tell."""
    query, key = rows(2000, 2), rows(50, 3)
    groups_q, groups_k = np.arange(2000) % 7, np.arange(50) % 7
    found = nearest(query, key, groups_q, groups_k, skip=0, among=3, at_least=1, seed=1)
    other = groups_q[:, None] != groups_k[None, :]
    want = (query @ key.T).numpy()[other].mean()
    assert found.random == pytest.approx(want, abs=0.03)
    assert found.similarity > found.random + 0.3
    same = torch.eye(8)[groups_k]
    found = nearest(same, same, groups_k, groups_k, skip=0, among=3, at_least=1, seed=1)
    assert found.random == 0


def test_the_seed_draws_the_random_keys() -> None:
    assert find(seed=0).random == find(seed=0).random != find(seed=1).random


def test_ranks_share_the_blocks(monkeypatch) -> None:
    monkeypatch.setattr(module, "CELLS", 100)
    want, parts = find(), []

    def gather(mine: list) -> list:
        parts.append(mine)
        return parts

    monkeypatch.setattr(module.distributed, "world_size", lambda: 2)
    monkeypatch.setattr(module.distributed, "all_gather_object", gather)
    for rank in (0, 1):
        monkeypatch.setattr(module.distributed, "rank", lambda rank=rank: rank)
        found = find()
    assert [len(part) for part in parts] == [6, 6]
    assert found.candidates.tolist() == want.candidates.tolist()
    assert found.similarity == pytest.approx(want.similarity)
    assert found.random == pytest.approx(want.random)


def test_ties_go_to_the_first_whatever_rounding_says() -> None:
    key = KEY[:1].repeat(30, 1) + 1e-7 * torch.randn(30, 8, generator=torch.manual_seed(0))
    none = np.full(30, -1)
    found = nearest(KEY[:1], key, np.array([5]), none, skip=0, among=4, at_least=1, seed=0)
    assert found.candidates.tolist() == [[0, 1, 2, 3]]


def test_what_is_skipped_comes_back_where_little_is_left() -> None:
    groups = np.array([0, 0, 1, 1])
    key = torch.eye(8)[:4]
    query = F.normalize(torch.tensor([[4.0, 3, 2, 1, 0, 0, 0, 0]]), dim=-1)
    found = nearest(query, key, np.array([0]), groups, skip=5, among=3, at_least=1, seed=0)
    assert found.candidates.tolist() == [[3, -1, -1]]
    found = nearest(query, key, np.array([0]), groups, skip=1, among=3, at_least=2, seed=0)
    assert found.candidates.tolist() == [[2, 3, -1]]
    with pytest.raises(ConfigError, match="only 2 samples of another group"):
        nearest(query, key, np.array([0]), groups, skip=0, among=3, at_least=3, seed=0)


def test_parts_are_put_together_by_number() -> None:
    part = Nearest(np.arange(2), np.array([[0, 1], [1, -1]]), 0.5, 0.1)
    named = part.named(np.array([7, 9]), np.array([20, 30]))
    assert named.number.tolist() == [7, 9]
    assert named.candidates.tolist() == [[20, 30], [30, -1]]
    both = Nearest.together([named, Nearest(np.array([4]), np.array([[5, 6]]), 0.2, 0.4)])
    assert both.number.tolist() == [7, 9, 4]
    assert both.similarity == pytest.approx((2 * 0.5 + 0.2) / 3)
    assert both.random == pytest.approx((2 * 0.1 + 0.4) / 3)
