"""The size of what each encoder puts out: the root mean square of its tokens, over all samples of a
step on all ranks.

    with ActivationNorms(model) as norms:
        trainer.step(micro_batches)
    norms.collect()  # {"image": 1.02, …}
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mmfm import distributed
from mmfm.encoders.base import Encoder
from mmfm.layers.patch_embed import keep_valid
from mmfm.model import Model


class ActivationNorms:
    """Watches the encoders while it is entered. Padding doesn't count, nor do passes that only
    prepare (without gradient), so the numbers don't depend on micro-batches.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    def __enter__(self) -> ActivationNorms:
        zeros = torch.zeros(len(self.names), 2, dtype=torch.float64, device=distributed.device())
        self.sums = dict(zip(self.names, zeros, strict=True))
        self._hooks = [
            self.model.encoder(m).register_forward_hook(
                lambda encoder, args, output, m=m: self._add(m, encoder, args, output)
            )
            for m in self.names
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    @property
    def names(self) -> list[str]:
        return list(self.model.encoders)

    def collect(self) -> dict[str, float]:
        """Modality ▶ the root mean square, for those that the step had; collective."""
        totals = distributed.all_reduce_sum(torch.stack([self.sums[m] for m in self.names]))
        return {
            m: math.sqrt(square / count)
            for m, (square, count) in zip(self.names, totals.tolist(), strict=True)
            if count
        }

    def _add(self, m: str, encoder: Any, args: tuple[Any, ...], output: Any) -> None:
        if not torch.is_grad_enabled():
            return
        assert isinstance(encoder, Encoder)
        inputs, valid, keep = (*args, None, None)[:3]
        real_BL = encoder.token_valid(inputs, valid)
        if keep is not None:
            real_BL = keep_valid(real_BL, keep)
        tokens_BLD: Tensor = output[0].detach()
        squares_BL = tokens_BLD.float().square().sum(-1)
        count = real_BL.sum() * tokens_BLD.shape[-1]
        self.sums[m] += torch.stack([squares_BL[real_BL].double().sum(), count.double()])
