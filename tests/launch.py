"""Run a module on several ranks, on CPU with gloo or on GPUs with nccl: by the DeepSpeed launcher,
or without it, forked from a process that has imported all of DeepSpeed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from mmfm.testing import free_port

ROOT = Path(__file__).parent.parent


ON_CPU = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}


def command(
    ranks: int, module: str, *arguments: str, gpu: bool = False
) -> tuple[list[str], dict[str, str]]:
    """``deepspeed --num_gpus RANKS --module MODULE ARGUMENTS`` and its environment."""
    port = free_port()
    launcher = Path(sys.executable).parent / "deepspeed"
    words = [str(launcher), "--num_gpus", str(ranks), "--master_port", str(port)]
    words += ["--module", module, *arguments]
    path = f"{launcher.parent}{os.pathsep}{os.environ['PATH']}"
    return words, {**environment(gpu), "PATH": path}


def environment(gpu: bool) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **({} if gpu else ON_CPU)}


def deepspeed(
    ranks: int,
    module: str,
    *arguments: str,
    gpu: bool = False,
    check: bool = True,
    timeout: float = 600,
):
    """Run the launcher in the project's root; returns the finished process."""
    words, environment = command(ranks, module, *arguments, gpu=gpu)
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(words)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done


def on_ranks(
    ranks: int, module: str, *arguments: str, gpu: bool = False, timeout: float = 600
) -> None:
    """Start the processes as the launcher would, and wait for all; AssertionError where one fails,
    with what it said.
    """
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    together |= {"WORLD_SIZE": str(ranks), "LOCAL_SIZE": str(ranks)}
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, str(rank)) for rank in range(ranks)]
        each = [
            {
                "arguments": [f"--local_rank={rank}", *arguments],
                "environment": {
                    **environment(gpu),
                    **together,
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                },
                "output": str(output),
            }
            for rank, output in enumerate(outputs)
        ]
        codes = ask(zygote(gpu), {"module": module, "ranks": each, "timeout": timeout})
        # One that failed by itself tells more than one that was killed for it.
        for rank in sorted(range(ranks), key=lambda rank: codes[rank] is None):
            if codes[rank] != 0:
                said = outputs[rank].read_text()[-4000:]
                raise AssertionError(f"rank {rank} of {module} ended with {codes[rank]}:\n{said}")


@cache
def zygote(gpu: bool) -> subprocess.Popen[str]:
    """tests/zygote.py; it ends with this process, when its standard input does."""
    words = [sys.executable, "-u", "-m", "tests.zygote", *(["bare"] if gpu else [])]
    return subprocess.Popen(
        words,
        cwd=ROOT,
        env=environment(gpu),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ask(server: subprocess.Popen[str], request: dict[str, Any]) -> list[int | None]:
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
    except BaseException:  # interrupted, or the server is gone: its answer is nobody's any more
        zygote.cache_clear()
        with suppress(BrokenPipeError):
            server.stdin.close()
        raise
    if not answer:
        zygote.cache_clear()
        raise AssertionError("tests.zygote has ended; its standard error says why")
    codes: list[int | None] = json.loads(answer)
    return codes
