"""Batch norms that train: the outputs of each group, and the statistics that a step leaves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from mmfm.layers.batch_norms import (
    GroupNorms,
    follow_precision,
    gather,
    settle,
    trains_norms,
)


class Network(nn.Module):
    """Two norms, one of them with a momentum of its own."""

    def __init__(self, size: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4, momentum=0.3)
        )
        self.norms = GroupNorms(self.layers, size)

    def run(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        found = self.layers(inputs)
        return found, found.mean((2, 3))

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return self.norms(self.run, inputs)


@pytest.fixture
def inputs() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(12, 3, 6, 6) * torch.arange(1, 13).view(-1, 1, 1, 1)


def test_a_group_is_normalised_as_a_batch_of_its_own(inputs: Tensor) -> None:
    network = Network(4)
    alone = copy.deepcopy(network.layers)
    gather(network)
    maps, pooled = network(inputs)
    want = torch.cat([alone(part) for part in inputs.split(4)])
    assert torch.equal(maps, want)
    assert torch.equal(pooled, want.mean((2, 3)))


def test_a_group_that_would_be_cut_short_shares_with_the_others(inputs: Tensor) -> None:
    network = Network(5)
    maps, _ = network(inputs)
    alone = Network(5).layers
    assert torch.equal(maps, torch.cat([alone(part) for part in inputs.split(4)]))


def test_a_step_moves_the_statistics_by_the_mean_of_its_groups(inputs: Tensor) -> None:
    network = Network(4)
    alone = copy.deepcopy(network.layers)
    first, second = (m for m in network.layers if isinstance(m, nn.BatchNorm2d))
    gather(network)
    network(inputs)
    settle(network)
    means, spreads, later = [], [], []
    for part in inputs.split(4):
        made = alone[0](part)
        means.append(made.mean((0, 2, 3)))
        spreads.append(made.var((0, 2, 3)))
        later.append(alone[2](alone[1](made)).mean((0, 2, 3)))
    torch.testing.assert_close(first.running_mean, 0.1 * torch.stack(means).mean(0))
    torch.testing.assert_close(first.running_var, 0.9 + 0.1 * torch.stack(spreads).mean(0))
    torch.testing.assert_close(second.running_mean, 0.3 * torch.stack(later).mean(0))
    assert (first.momentum, second.momentum) == (0.1, 0.3)
    assert first.num_batches_tracked == 0


@pytest.mark.parametrize("parts", [1, 3])
def test_micro_batches_and_repeats_leave_the_same(parts: int, inputs: Tensor) -> None:
    """A step that runs its micro-batches twice, as with grad_cache."""
    network, other = Network(4), Network(4)
    for one, runs in ((network, [inputs]), (other, [*inputs.tensor_split(parts)] * 2)):
        for _ in range(2):
            gather(one)
            for part in runs:
                one(part)
            settle(one)
    for got, want in zip(other.buffers(), network.buffers(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("skipped", [True, False])
def test_what_a_step_skips_or_never_reads_moves_nothing(skipped: bool, inputs: Tensor) -> None:
    network = Network(4)
    before = [b.clone() for b in network.buffers()]
    gather(network)
    if skipped:
        network(inputs)
    settle(network, moves=not skipped)
    assert all(map(torch.equal, network.buffers(), before))


def test_a_pass_without_gradient_is_not_gathered(inputs: Tensor) -> None:
    """As grad_cache makes one, of some views only."""
    network, other = Network(4), Network(4)
    for one in (network, other):
        gather(one)
        with torch.set_grad_enabled(one is other):
            one(3 * inputs[:4])
        one(inputs)
        settle(one)
    once = Network(4)
    gather(once)
    once(inputs)
    settle(once)
    assert all(map(torch.equal, network.buffers(), once.buffers()))
    assert not torch.equal(other.layers[1].running_mean, once.layers[1].running_mean)


def test_without_steps_each_group_moves_the_statistics(inputs: Tensor) -> None:
    network = Network(6)
    alone = copy.deepcopy(network.layers)
    network(inputs)
    for part in inputs.split(6):
        alone(part)
    assert all(map(torch.equal, network.layers.buffers(), alone.buffers()))


def test_a_variance_that_overflows_moves_nothing(inputs: Tensor) -> None:
    network = Network(4)
    follow_precision(network)
    network.half()
    for norm in (network.layers[1], network.layers[3]):
        norm.float()
        norm.weight.data, norm.bias.data = norm.weight.half(), norm.bias.half()
    gather(network)
    network((1000 * inputs).half())
    settle(network)
    first, second = network.layers[1], network.layers[3]
    assert torch.equal(first.running_var, torch.ones(4))
    assert second.running_var.isfinite().all()
    assert not torch.equal(second.running_var, torch.ones(4))


def test_no_group_is_of_one(inputs: Tensor) -> None:
    maps, _ = Network(2)(inputs[:5])
    alone = Network(2).layers
    assert torch.equal(maps, torch.cat([alone(inputs[:3]), alone(inputs[3:5])]))


def test_adds_nothing_to_the_weights() -> None:
    network = Network(4)
    assert set(network.state_dict()) == {f"layers.{n}" for n in network.layers.state_dict()}
    assert trains_norms(network)
    assert not trains_norms(network.layers)


@pytest.mark.parametrize("size", [1, 4])
def test_too_small_a_group_or_no_norm_is_refused(size: int) -> None:
    network = nn.Conv2d(3, 4, 3) if size > 1 else nn.BatchNorm2d(3)
    with pytest.raises(ValueError, match=f"batch_norm_size = {size}: the network has"):
        GroupNorms(network, size)


def test_one_sample_is_refused(inputs: Tensor) -> None:
    with pytest.raises(ValueError, match="micro-batch with one sample"):
        Network(4)(inputs[:1])


@pytest.mark.parametrize("training", [True, False])
def test_half_weights_leave_the_statistics_in_fp32(training: bool, inputs: Tensor) -> None:
    network, whole = Network(4).train(training), Network(4).train(training)
    follow_precision(network)
    for parameter in network.parameters():
        parameter.data = parameter.data.bfloat16()
    found = network.layers(inputs.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), whole.layers(inputs), rtol=0.1, atol=0.1)
    for got, want in zip(network.buffers(), whole.buffers(), strict=True):
        assert got.dtype == want.dtype
        torch.testing.assert_close(got, want, rtol=0.02, atol=0.02)


def test_norms_without_statistics_are_left_alone(inputs: Tensor) -> None:
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    want = norm(inputs)
    follow_precision(norm)
    assert torch.equal(norm(inputs), want)
    with pytest.raises(ValueError, match="the network has 0 batch norms"):
        GroupNorms(norm, 4)
