"""open_clip's side: its model and its `ClipLoss` in a plain loop with AdamW and DDP, as its trainer
does it. Losses of every step into a JSON file.

torchrun --nproc_per_node 2 -m benchmarks.open_clip.theirs DATA BATCHES INIT STEPS OUT
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from benchmarks.open_clip import same
from mmfm.data.tokenizer import load_tokenizer
from mmfm.train.optim.schedule import lr_factor
from open_clip.loss import ClipLoss


def main() -> None:
    data, batches, init, steps, out = sys.argv[-5:]
    config = same.recipe(Path(data))
    optim = config.optim
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model = same.open_clip_model(config, load_tokenizer(config.model.encoders["text"].tokenizer))
    model.load_state_dict(same.load(Path(init)))
    model.train()
    ddp = DistributedDataParallel(model)
    # As open_clip_train.main: biases, norms and the logit scale don't decay.
    plain = {n for n, p in model.named_parameters() if p.ndim < 2}
    groups = [
        {"params": [p for n, p in model.named_parameters() if n in plain], "weight_decay": 0.0},
        {"params": [p for n, p in model.named_parameters() if n not in plain]},
    ]
    adamw = torch.optim.AdamW(
        groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay
    )
    loss_of = ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=ranks)
    held, losses = same.load(Path(batches)), []
    for step in range(int(steps)):
        batch = same.batch_of(held, step, rank, ranks)
        factor = lr_factor(
            optim.schedule, step, config.train.max_steps, optim.warmup_steps, optim.final_lr_factor
        )
        for group in adamw.param_groups:
            group["lr"] = optim.lr * factor
        adamw.zero_grad()
        short = model.context_length - batch["text"].shape[1]
        text = F.pad(batch["text"], (0, short), value=model.text.pad_id)
        loss = loss_of(*ddp(batch["image"], text))
        loss.backward()
        adamw.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        losses.append(mean.item() / ranks)
    if rank == 0:
        Path(out).write_text(json.dumps(losses))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
