"""The commands that train, on DeepSpeed. No other part imports it."""

import os

import torch

# The launcher reads this variable too; without it DeepSpeed warns on every import without a GPU.
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
