"""Run a module of the tests under the real DeepSpeed launcher, on CPU with gloo or on GPUs with
nccl.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


ON_CPU = {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}


def command(
    ranks: int, module: str, *arguments: str, gpu: bool = False
) -> tuple[list[str], dict[str, str]]:
    """``deepspeed --num_gpus RANKS --module MODULE ARGUMENTS`` and its environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = Path(sys.executable).parent / "deepspeed"
    words = [str(launcher), "--num_gpus", str(ranks), "--master_port", str(port)]
    words += ["--module", module, *arguments]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PATH": f"{launcher.parent}{os.pathsep}{os.environ['PATH']}",
        **({} if gpu else ON_CPU),
    }
    return words, environment


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
