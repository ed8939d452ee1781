import pytest
import torch
from torch import nn

from mmfm.layers.tied import TiedLinear
from mmfm.train.log.flops import FlopCounter, peak_flops


def test_products_are_counted_once_forward_and_twice_backward() -> None:
    frozen = nn.Linear(4, 6, bias=False).requires_grad_(False)
    trained = nn.Linear(6, 3)
    module = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(2), frozen, trained)
    module[0].requires_grad_(False)
    x = torch.randn(5, 2, 4, 4)
    with FlopCounter(module) as counter:
        y = module(x)
    convolution = 2 * (5 * 4 * 2 * 2) * (1 * 9)
    first = 2 * (5 * 4 * 6) * 4
    second = 3 * 2 * (5 * 4 * 3) * 6
    assert counter.flops == convolution + first + second
    assert torch.equal(module(x), y)
    module(x)
    assert counter.flops == convolution + first + second  # the hooks are gone


def test_a_tied_layer_counts_as_a_layer() -> None:
    words = nn.Embedding(7, 4).requires_grad_(False)
    module = nn.Sequential(nn.Linear(3, 4), TiedLinear(words))
    with FlopCounter(module) as counter:
        module(torch.randn(5, 3))
    assert counter.flops == 3 * 2 * 5 * (3 * 4 + 4 * 7)


def test_a_pass_without_gradient_of_what_trains_is_not_counted() -> None:
    module = nn.Linear(4, 4)
    with FlopCounter(module) as counter, torch.no_grad():
        module(torch.randn(2, 4))
    assert counter.flops == 0


def test_peak_is_a_measured_rate() -> None:
    assert 1e8 < peak_flops(torch.device("cpu"), torch.float32) < 1e14


@pytest.mark.gpu
def test_peak_on_a_gpu() -> None:
    assert peak_flops(torch.device("cuda"), torch.bfloat16) > 1e12
