"""Pretrained weights: tensors are matched by position, shape and kind, or not at all."""

from __future__ import annotations

import pytest
import timm
import torch

from mmfm_prep.errors import PrepError
from mmfm_prep.registries.weights import fetch_weights, rename_by_position

OURS = {"conv.weight": torch.zeros(4, 3), "bn.weight": torch.zeros(4), "bn.bias": torch.zeros(4)}
THEIRS = {"_c.weight": torch.ones(4, 3), "_b.weight": torch.ones(4), "_b.bias": torch.full((4,), 2)}


def test_tensors_get_the_names_of_the_network() -> None:
    renamed = rename_by_position(THEIRS, OURS)
    assert list(renamed) == list(OURS)
    assert renamed["bn.bias"].tolist() == [2.0] * 4
    assert renamed["bn.bias"].dtype == torch.float32


@pytest.mark.parametrize(
    "state",
    [
        {},
        {k: v for k, v in THEIRS.items() if k != "_b.bias"},
        THEIRS | {"more.weight": torch.ones(1)},
        THEIRS | {"_c.weight": torch.ones(3, 4)},
        {k: THEIRS[k] for k in ("_c.weight", "_b.bias", "_b.weight")},
    ],
)
def test_any_mismatch_is_an_error(state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(PrepError, match="not the same"):
        rename_by_position(state, OURS)


def test_a_whole_network_under_other_names() -> None:
    model = timm.create_model("tf_efficientnet_lite0", num_classes=10)
    state = {
        f"their_{i}.{n.rsplit('.')[-1]}": v for i, (n, v) in enumerate(model.state_dict().items())
    }
    renamed = rename_by_position(state, model.state_dict())
    assert all(torch.equal(renamed[name], v) for name, v in model.state_dict().items())


def test_unknown_weights(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PrepError, match="there are efficientnet-lite0, minilm"):
        fetch_weights("resnet", tmp_path / "out", cache=tmp_path)
