"""Texts in parts of like lengths: what comes out is what one run over the batch gives."""

from __future__ import annotations

import pytest
import torch

from mmfm.layers.lengths import CALLS, by_length


@pytest.mark.parametrize("lengths", [[1, 7, 3, 7, 2, 5, 4, 1, 6], [3, 2], [4], [0, 2]])
def test_rows_keep_their_places(lengths: list[int]) -> None:
    longest = 8
    ids = torch.arange(len(lengths) * longest).view(len(lengths), longest)
    valid = torch.arange(longest)[None, :] < torch.tensor(lengths)[:, None]
    seen = []

    def run(ids: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        seen.append(ids.numel())
        return (ids * valid)[..., None].double()

    found = by_length(run, ids, valid)
    assert torch.equal(found[..., 0], (ids * valid).double())
    assert len(seen) == CALLS
    if len(lengths) > CALLS:
        assert sum(seen) < len(lengths) * max(lengths)


def test_padding_on_the_left_stays() -> None:
    valid = torch.tensor([[False, True, True], [True, True, False]])
    ids = torch.arange(6).view(2, 3)
    found = by_length(lambda ids, valid: ids[..., None].float(), ids, valid)
    assert found[0, :, 0].tolist() == [0, 1, 2]
    assert found[1, :, 0].tolist() == [3, 4, 0]
