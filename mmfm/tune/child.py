"""The process of a trial: ``python -m mmfm.tune.child PARENT finetune RECIPE`` is `mmfm finetune
RECIPE`, asked to stop as soon as the process PARENT is gone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from mmfm import cli

_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> int:
    """Exit code of the command."""
    # A search that was killed can't end its trials itself; two processes would share a folder.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(argv[0]):
        return 1
    return cli.main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
