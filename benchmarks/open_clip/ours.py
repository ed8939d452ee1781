"""mmfm's side: its trainer on given batches. Losses of every step into a JSON file.

deepspeed --num_gpus 2 --module benchmarks.open_clip.ours DATA BATCHES INIT STEPS OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.open_clip import same
from mmfm import distributed
from mmfm.task import PretrainTask
from mmfm.train.engine import end_process_group, start_process_group
from mmfm.train.state import load_named
from mmfm.train.trainer import Trainer


def main() -> None:
    data, batches, init, steps, out = sys.argv[-5:]
    config = same.recipe(Path(data))
    start_process_group()
    task = PretrainTask.build(config)
    load_named(task, same.as_mmfm(same.load(Path(init))), init)
    trainer = Trainer(
        task,
        config.train,
        config.optim,
        global_batch_size=config.data.global_batch_size,
        seed=0,
    )
    held = same.load(Path(batches))
    losses = []
    for step in range(int(steps)):
        batch = same.batch_of(held, step, distributed.rank(), distributed.world_size())
        losses.append(trainer.step([batch]).loss)
    if distributed.is_main():
        Path(out).write_text(json.dumps(losses))
    distributed.barrier()
    end_process_group()


if __name__ == "__main__":
    main()
