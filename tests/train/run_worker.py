"""Several ``mmfm`` commands one after the other on the ranks of one launch.

The last argument is the path of a JSON file: a list of lists of arguments. With
SLOW_CHECKPOINTS=seconds in the environment, a checkpoint takes that long between its first and its
last file; with SLOW_STEPS=seconds each step takes that much longer.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import mmfm.checkpoint
from mmfm import cli
from mmfm.train import command, engine, trainer


def main() -> int:
    slow_down(float(os.environ.get("SLOW_CHECKPOINTS", "0")))
    slow_steps(float(os.environ.get("SLOW_STEPS", "0")))
    command.end_process_group = lambda: None  # one group for all
    codes = (cli.main(arguments) for arguments in json.loads(Path(sys.argv[-1]).read_text()))
    code = next((c for c in codes if c), 0)
    engine.end_process_group()
    return code


def slow_down(seconds: float) -> None:
    hash_file, done = mmfm.checkpoint.writing.sha256, []

    def slowly(path: Path) -> str:
        if seconds and ".partial" in str(path) and not done:
            done.append(path)
            time.sleep(seconds)
        return hash_file(path)

    mmfm.checkpoint.writing.sha256 = slowly


def slow_steps(seconds: float) -> None:
    step = trainer.Trainer.step

    def slowly(self, *args, **kwargs):
        time.sleep(seconds)
        return step(self, *args, **kwargs)

    trainer.Trainer.step = slowly


if __name__ == "__main__":
    raise SystemExit(main())
