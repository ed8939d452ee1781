import timm
import torch
from torch import nn

from mmfm.layers.fold import folded


def trained_looking(network):
    """Batch norms with statistics and weights as training leaves them."""
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -1, 1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -1, 1)
    return network.eval()


def norms(network):
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


@torch.no_grad()
def test_a_folded_network_gives_the_same_outputs_without_its_norms():
    for name in ("tf_efficientnet_lite0", "resnet18"):
        network = trained_looking(timm.create_model(name, num_classes=0))
        inputs = torch.randn(2, 3, 64, 64)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        fast = folded(network, inputs)
        assert norms(network) > 10
        assert norms(fast) == 0
        other = torch.randn(3, 3, 96, 96)
        wanted = network(other)
        # fp32, through some tens of layers
        torch.testing.assert_close(
            fast(other), wanted, rtol=0, atol=float(1e-5 * wanted.abs().max())
        )
        for key, value in network.state_dict().items():
            assert torch.equal(value, before[key])


class Shared(nn.Module):
    """The convolution's output is read by more than its norm."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, inputs):
        found = self.convolution(inputs)
        return self.norm(found) + found


class Twice(nn.Module):
    """One convolution, two norms."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])

    def forward(self, inputs):
        return sum(norm(self.convolution(inputs)) for norm in self.norms)


@torch.no_grad()
def test_what_can_t_be_folded_stays_as_it_is_and_the_log_says_so(caplog):
    for network in (Shared(), Twice()):
        caplog.clear()
        network = trained_looking(network)
        assert folded(network, torch.randn(2, 3, 8, 8)) is network
        assert "none is folded" in caplog.text
    caplog.clear()
    plain = nn.Sequential(nn.Linear(5, 5), nn.GELU()).eval()  # nothing to fold
    assert folded(plain, torch.randn(2, 5)) is plain
    assert not caplog.records
