"""The shell scripts: they parse, and under Slurm each task gets its place among the ranks."""

from __future__ import annotations

import os
import signal
import subprocess
import time
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


PIP_SETTINGS = r"""
echo ":env:.find-links='/wheels'"
echo "global.extra-index-url='https://a/simple\nfile:///b'"
echo "global.timeout='9'"
"""
PIP = """
if [[ " $* " == *" uv "* ]]; then exit {has_uv}
else echo "pip $*"
fi
"""


@pytest.mark.parametrize("own_index", [True, False])
def test_uv_gets_what_pip_is_set_to(tmp_path: Path, own_index: bool) -> None:
    # The more particular setting is pip's, whatever the order in which they are listed.
    mains = {"download": "https://no", "global": "https://no", "install": "https://main/simple"}
    index = "".join(f"echo \"{k}.index-url='{v}'\"\n" for k, v in mains.items() if own_index)
    program(tmp_path / "bin/pip", PIP_SETTINGS + index)
    program(tmp_path / "bin/python", "echo https://pip/default")
    script = f"source {ROOT}/scripts/_environment.sh; VENV={tmp_path}; _pip_settings"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    main = "https://main/simple" if own_index else "https://pip/default"
    wanted = f"--default-index {main} --index {main} --find-links /wheels"
    wanted += " --index https://a/simple --index file:///b"
    assert done.stdout.split() == wanted.split()


def test_pip_has_a_default_index() -> None:
    from pip._internal.models.index import PyPI

    assert PyPI.simple_url.startswith("https://")


@pytest.mark.parametrize("has_uv", [True, False])
@pytest.mark.parametrize("uv_works", [True, False])
def test_pip_installs_where_uv_can_t(tmp_path: Path, has_uv: bool, uv_works: bool) -> None:
    program(tmp_path / "bin/pip", PIP.format(has_uv=0 if has_uv else 1))
    program(tmp_path / "bin/uv", f'echo "uv $*"; exit {0 if uv_works else 1}')
    script = (
        f"source {ROOT}/scripts/_environment.sh; VENV={tmp_path}; _install_packages --editable ."
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    tools = [line.split()[0] for line in done.stdout.splitlines() if "--editable ." in line]
    assert tools == {(True, True): ["uv"], (True, False): ["uv", "pip"]}.get(
        (has_uv, uv_works), ["pip"]
    )


STAGES = """
set -euo pipefail
source {root}/scripts/_stages.sh
make() {{ echo "making $1"; mkdir -p "$1"; echo "${{2:-}}" > "$1/manifest.json"; }}
cd {here}
stages_after test
"""


def staged(here: Path, script: str) -> subprocess.CompletedProcess[str]:
    text = STAGES.format(root=ROOT, here=here) + script
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True)


def made(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.split()[1] for line in done.stdout.splitlines() if line.startswith("making")]


def test_a_stage_is_skipped_until_something_before_it_changes(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/a.yaml").write_text("a: 1")
    script = "stage A data make data\nstage B run make run configs/a.yaml"
    assert made(staged(tmp_path, script)) == ["data", "run"]
    again = staged(tmp_path, script)
    assert made(again) == []
    assert again.stdout.count("done already") == 2
    (tmp_path / "configs/a.yaml").write_text("a: 2")
    assert made(staged(tmp_path, script)) == ["run"]
    (tmp_path / "data/manifest.json").write_text("other data")
    assert made(staged(tmp_path, script)) == ["run"]
    (tmp_path / "run/.quickstart").unlink()
    assert made(staged(tmp_path, script)) == ["run"]
    assert made(staged(tmp_path, script.replace("make data", "make data 2"))) == ["data", "run"]


def test_a_stage_that_fails_says_where_and_ends_the_script(tmp_path: Path) -> None:
    done = staged(tmp_path, "stage A data bash -c 'exit 7' \necho 'not here'")
    assert done.returncode == 7
    assert "not here" not in done.stdout
    assert "stopped (exit code 7) at: bash -c exit 7" in done.stderr
    assert "run scripts/quickstart again" in done.stderr


def test_a_stage_that_may_fail_is_left_to_the_caller(tmp_path: Path) -> None:
    done = staged(tmp_path, "optional_stage A data false || echo 'left out'\nstage B b make b")
    assert done.returncode == 0
    assert "left out" in done.stdout
    assert made(done) == ["b"]


TOGETHER = """
first() {{ stage A a make a; {waits}; stage B b make b; }}
second() {{ {tells}; stage C c make c; }}
together first second
stage D d make d
"""
WAIT = "while [[ ! -e told ]]; do sleep 0.02; done"


def test_stages_run_side_by_side_and_each_counts_for_what_follows(tmp_path: Path) -> None:
    script = TOGETHER.format(waits=WAIT, tells="touch told")
    assert made(staged(tmp_path, script)) == ["a", "b", "c", "d"]
    assert made(staged(tmp_path, script)) == []
    (tmp_path / "c/manifest.json").write_text("other data")
    assert made(staged(tmp_path, script)) == ["d"]  # neither of the first function's


@pytest.mark.parametrize("fails", ["first", "second"])
def test_a_failure_beside_others_ends_the_script_when_they_are_done(
    tmp_path: Path, fails: str
) -> None:
    bad = "stage E e bash -c 'exit 7'"
    ways = {"first": (bad, "sleep 0.5"), "second": ("sleep 0.5", bad)}[fails]
    done = staged(tmp_path, TOGETHER.format(waits=ways[0], tells=ways[1]))
    assert done.returncode == 7
    assert made(done) == (["a", "c"] if fails == "first" else ["a", "b"])
    assert "stopped (exit code 7)" in done.stdout + done.stderr


SLEEPS = "import time; open('begun', 'w').close(); time.sleep(60)"
ENDS = "trap 'touch ended; exit' TERM; touch beside; sleep 60 & wait"


def appear(*files: Path) -> bool:
    """Whether all `files` are there within half a minute."""
    until = time.monotonic() + 30
    while not all(file.exists() for file in files) and time.monotonic() < until:
        time.sleep(0.01)
    return all(file.exists() for file in files)


def test_an_interrupt_ends_what_runs_beside(tmp_path: Path) -> None:
    script = TOGETHER.format(waits=f'python -c "{SLEEPS}"', tells=f'bash -c "{ENDS}"')
    text = STAGES.format(root=ROOT, here=tmp_path) + script

    # What a shell starts in the background ignores SIGINT, and so would this script.
    def heard() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    started = subprocess.Popen(
        ["bash", "-c", text],
        start_new_session=True,
        preexec_fn=heard,
    )
    try:
        assert appear(tmp_path / "begun", tmp_path / "beside")
        os.killpg(started.pid, signal.SIGINT)
        assert started.wait(timeout=30) == 130
        assert appear(tmp_path / "ended")
    finally:
        started.kill()


def test_a_run_keeps_to_the_data_that_it_began_with(tmp_path: Path) -> None:
    script = "if trained_without data/stamps run; then echo without; else echo with; fi"
    assert staged(tmp_path, script).stdout == "with\n"
    (tmp_path / "run").mkdir()
    for path, said in (("data/stamps", "with"), ("data/emoji", "without")):
        (tmp_path / "run/config.yaml").write_text(f"data:\n  path: {path}\n")
        assert staged(tmp_path, script).stdout == f"{said}\n"


def test_cores_are_counted_whatever_the_threads_are_set_to() -> None:
    counted = "available_cores; OMP_NUM_THREADS=1 available_cores"
    script = f"source {ROOT}/scripts/_environment.sh; {counted}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    plain, set_to_1 = done.stdout.split()
    assert plain == set_to_1
    assert 1 <= int(plain) <= len(os.sched_getaffinity(0))
