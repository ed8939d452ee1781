"""Run a module on several ranks, on CPU with gloo or on GPUs with nccl: by the DeepSpeed launcher,
or without it, which spares the tests two processes that import all of DeepSpeed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
    words = [sys.executable, "-u", "-m", module]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, str(rank)) for rank in range(ranks)]
        processes = [
            subprocess.Popen(
                [*words, f"--local_rank={rank}", *arguments],
                cwd=ROOT,
                env={**environment(gpu), **together, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=output.open("w"),
                stderr=subprocess.STDOUT,
            )
            for rank, output in enumerate(outputs)
        ]
        try:
            deadline = time.monotonic() + timeout
            while None in (codes := [process.poll() for process in processes]):
                if any(codes) or time.monotonic() > deadline:
                    break
                time.sleep(0.05)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        for rank, code in enumerate(codes):
            if code or (not any(codes) and code is None):
                said = outputs[rank].read_text()[-4000:]
                raise AssertionError(f"rank {rank} of {module} ended with {code}:\n{said}")
