"""The shell scripts: they parse, and under Slurm each task gets its place among the ranks."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = [*sorted((ROOT / "scripts").iterdir()), ROOT / ".ci" / "run"]

PYTHON = """
place="$RANK/$WORLD_SIZE local $LOCAL_RANK at $MASTER_ADDR:$MASTER_PORT"
echo "$place, $OMP_NUM_THREADS threads: $*"
"""
SRUN = """
shift
for place in "0 0" "1 1" "2 0" "3 1"; do
    read -r SLURM_PROCID SLURM_LOCALID <<<"$place"
    export SLURM_PROCID SLURM_LOCALID SLURM_NTASKS=4
    "$@"
done
"""


def program(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_a_script_parses(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK) != script.name.startswith("_")  # that one is sourced


def test_slurm_tasks_get_their_ranks(tmp_path: Path) -> None:
    program(tmp_path / ".venv/bin/python", PYTHON)
    program(tmp_path / "bin/srun", SRUN)
    program(tmp_path / "bin/scontrol", "echo node1; echo node2")
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_ID": "20123",
        "SLURM_CPUS_PER_TASK": "8",
    }
    environment.pop("OMP_NUM_THREADS", None)
    command = ["bash", str(ROOT / "scripts/launch_slurm.sh"), "pretrain", "a.yaml", "x=[1, 2]"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"{rank}/4 local {local} at node1:20123, 8 threads: -m mmfm pretrain a.yaml x=[1, 2]"
        for rank, local in ((0, 0), (1, 1), (2, 0), (3, 1))
    ]


def test_slurm_script_wants_to_be_submitted() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    command = ["bash", str(ROOT / "scripts/launch_slurm.sh")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "submit this script with sbatch" in done.stderr
