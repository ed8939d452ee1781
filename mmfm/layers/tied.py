"""A linear layer whose weights are the rows of an embedding table of another module."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TiedLinear(nn.Module):
    """[…,D] ▶ […,V]: the products with the V rows of `table` and a bias (Press & Wolf 2017,
    arXiv:1608.05859). The table stays its owner's parameter and is trained through both uses.
    """

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.in_features, self.out_features = table.embedding_dim, table.num_embeddings
        self.bias = nn.Parameter(torch.zeros(self.out_features))
        self._table = (table,)  # in a tuple it is not registered a second time

    def embed(self, ids: Tensor) -> Tensor:
        """[…] int64 ▶ […,D]: rows of the table."""
        return self._table[0](ids)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self._table[0].weight, self.bias)
