"""A Python for each peer: mmfm's own, or one with the peer's packages in front of mmfm's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python_of(peer: str, requirement: str | None, cache: Path) -> str:
    """The interpreter for `peer`; its environment is made first."""
    if requirement is None:
        return sys.executable
    folder = cache / "environments" / requirement.replace("==", "-")
    python = folder / "bin/python"
    if python.exists():
        return str(python)
    print(f"installing {requirement} into {folder}", file=sys.stderr, flush=True)
    made = folder.with_name(f".{folder.name}")
    shutil.rmtree(made, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(made)], check=True)
    # What doesn't conflict is found in mmfm's environment, torch and Pillow among it.
    site = next((made / "lib").glob("python*/site-packages"))
    (site / "mmfm.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [str(made / "bin/python"), "-m", "pip", "install", "--quiet", requirement]
    subprocess.run(pip, check=True, stdout=sys.stderr)
    made.rename(folder)
    return str(python)


def environment() -> dict[str, str]:
    """Variables of every measurement."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "",
    }
