"""The commands that train, on DeepSpeed. No other part imports it.

From `command`, which `pretrain` and `finetune` share, over the `run` and its `loop` of `steps` to
the one step of the `trainer`. The rooms beside: the `engine`, the optimiser (`optim`), what a
fine-tuned `head` is given before the first step, the `mining` of hard negatives, when and how a run
judges its model (`judging`), what is told of it (`log`) and whether it is well (`health`).
"""

import os

import torch

# The launcher reads this variable too; without it DeepSpeed warns on every import without a GPU.
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
