"""A process that has imported what a rank of a test imports, and forks ranks: the imports take
longer than most of what the tests train.

    python -m tests.zygote [bare]

With `bare` it has imported nothing: DeepSpeed asks for GPUs when it is imported, and a process that
has can't fork ranks that use them.

Each line of standard input is a request: JSON with the `module` to run as ``python -m`` would, for
each rank its `arguments`, `environment` and the file for its `output`, and a `timeout` in seconds.
The answer is a line with the ranks' exit codes, null for one that was killed, because another had
failed or the time was over.

Forked ranks have one seed of string hashes, so they iterate over a set of strings alike, and what
an import reads of the environment is that of the first request. Ranks of the launcher
(`tests.launch.deepspeed`) have their own.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import signal
import sys
import time
from pathlib import Path

IMPORTS = (
    "torch._dynamo",
    "deepspeed",
    "mmfm.train.finetune",
    "mmfm.train.pretrain",
    "mmfm_eval.cli",
    "peft",
    "torch.utils.tensorboard",
)


def main() -> None:
    # Who interrupts pytest ends this too, by closing its standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an import prints is no answer
    for name in () if "bare" in sys.argv[1:] else IMPORTS:
        importlib.import_module(name)
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a process with threads can't fork"
    while line := sys.stdin.readline():
        request = json.loads(line)
        ranks = []
        for rank in request["ranks"]:
            ranks.append(os.fork())
            if not ranks[-1]:
                return become(request["module"], **rank)
        codes = codes_of(ranks, request["timeout"])
        if codes is None:
            return
        print(json.dumps(codes), file=answers, flush=True)


def become(module: str, arguments: list[str], environment: dict[str, str], output: str) -> None:
    """Run the module as if this process had been started for it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    said = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def codes_of(ranks: list[int], timeout: float) -> list[int | None] | None:
    """Wait for all, or until one fails; then none is left. None where nobody waits for it any more:
    a request comes after the answer to the one before, so what can be read now is the end.
    """
    deadline = time.monotonic() + timeout
    codes: dict[int, int | None] = {}
    gone = False
    while len(codes) < len(ranks):
        for rank in ranks:
            if rank not in codes and (ended := os.waitpid(rank, os.WNOHANG))[0]:
                codes[rank] = os.waitstatus_to_exitcode(ended[1])
        if gone or any(codes.values()) or time.monotonic() > deadline:
            for rank in (rank for rank in ranks if rank not in codes):
                os.kill(rank, signal.SIGKILL)
                os.waitpid(rank, 0)
                codes[rank] = None
        else:
            gone = bool(select.select([0], [], [], 0.02)[0])
    return None if gone else [codes[rank] for rank in ranks]


if __name__ == "__main__":
    main()
