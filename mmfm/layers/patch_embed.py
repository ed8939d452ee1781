"""Cut a picture or spectrogram into patches, choose some of them, embed them."""

from __future__ import annotations

from torch import Tensor, nn

from mmfm.layers.transformer import init_weights


def patchify(x_BCHW: Tensor, patch_height: int, patch_width: int) -> Tensor:
    """[B,C,H,W] ▶ [B,G,P]: patches row by row, each as (row, column, channel), as in MAE (He et al.
    2022).
    """
    B, C, H, W = x_BCHW.shape
    p, q = patch_height, patch_width
    blocks = x_BCHW.reshape(B, C, H // p, p, W // q, q).permute(0, 2, 4, 3, 5, 1)
    return blocks.reshape(B, (H // p) * (W // q), p * q * C)


def take(x_BGP: Tensor, keep_BK: Tensor) -> Tensor:
    """[B,G,P], [B,K] ▶ [B,K,P]: the grid positions in `keep`; where it is -1, anything (position
    0).
    """
    index = keep_BK.clamp(min=0)
    return x_BGP.gather(1, index[..., None].expand(-1, -1, x_BGP.shape[2]))


class PatchEmbed(nn.Module):
    """Embeds flat patches and adds their fixed position code, for all of the grid or for `keep`.

    The patches are chosen before they are projected: what a mask leaves out costs nothing.
    """

    position: Tensor

    def __init__(self, patch_dim: int, position_GD: Tensor) -> None:
        super().__init__()
        self.projection = nn.Linear(patch_dim, position_GD.shape[1])
        init_weights(self.projection)
        self.register_buffer("position", position_GD, persistent=False)

    def forward(self, patches_BGP: Tensor, keep_BK: Tensor | None = None) -> Tensor:
        B, G, _ = patches_BGP.shape
        if self.position.shape[0] < G:
            raise ValueError(f"{G} patches: more than the {self.position.shape[0]} of the grid")
        position = self.position[None, :G].expand(B, -1, -1)
        if keep_BK is not None:
            patches_BGP, position = take(patches_BGP, keep_BK), take(position, keep_BK)
        x: Tensor = self.projection(patches_BGP.to(self.projection.weight.dtype))
        return x + position.to(x.dtype)


def keep_valid(valid_BG: Tensor, keep_BK: Tensor) -> Tensor:
    """[B,K] bool: which tokens at `keep` are real, neither padding of `keep` nor of the grid."""
    return (keep_BK >= 0) & valid_BG.gather(1, keep_BK.clamp(min=0))
