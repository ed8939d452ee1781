"""What every fusion has in common: from each modality's tokens to fused tokens and one vector a
sample.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass
class FusionInput:
    """One modality's part: B_m rows of L tokens.

    `rows` [B_m] int64, all different: the sample, 0 ≤ row < N, that each row belongs to. `valid`
    [B_m,L] bool.
    """

    rows: Tensor
    tokens: Tensor
    valid: Tensor
    pooled: Tensor


class Fusion(nn.Module):
    """Fuses what each of N samples has; every sample has at least one modality."""

    width: int

    def forward(
        self, inputs: dict[str, FusionInput], samples: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """▶ (fused tokens {m: [B_m,L_m,width]}, pooled [N,width]).

        A sample's outputs depend on its own modalities only, not on what other samples of the batch
        have.
        """
        raise NotImplementedError
