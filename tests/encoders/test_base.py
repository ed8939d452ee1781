"""What every encoder has without saying so."""

from __future__ import annotations

import torch

from mmfm.encoders.base import Encoder, EncoderConfig


def test_inputs_without_a_mask_are_real_at_every_position() -> None:
    encoder = Encoder(EncoderConfig())
    whole = torch.ones(2, 3, dtype=torch.bool)
    assert torch.equal(encoder.token_valid(torch.zeros(2, 3, 4)), whole)  # vectors
    assert torch.equal(encoder.token_valid(torch.zeros(2, 3, dtype=torch.int64)), whole)  # ids
    valid = torch.tensor([[True, True, False], [True, False, False]])
    assert torch.equal(encoder.token_valid(torch.zeros(2, 3, 4), valid), valid)
