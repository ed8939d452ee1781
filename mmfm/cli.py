"""The command `mmfm`: finds its subcommands among the entry points "mmfm.commands".

    mmfm pretrain CONFIG [key=value …]        also python -m mmfm …, and deepspeed --num_gpus 8
    --module mmfm …

Exit codes: 0 done, 2 the user's error, 3 a run that stood still (`mmfm.train.health.watchdog`).
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points

ABOUT = {
    "data": "make shards of raw data, and look into them",
    "pretrain": "pretrain a model on shards",
    "finetune": "fine-tune a model on a task with a head",
    "tune": "search for the settings of a recipe",
    "eval": "judge a checkpoint by a suite of tasks",
    "report": "write one page about several runs",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the subcommand that `argv` names and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # The deepspeed launcher puts --local_rank=N first; the environment says the same.
    while arguments and re.fullmatch(r"--local[_-]rank(=\d+)?", arguments[0]):
        del arguments[: 1 if "=" in arguments[0] else 2]
    commands = {e.name: e for e in entry_points(group="mmfm.commands")}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage(sorted(commands, key=_place)))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from mmfm import __version__

        print(f"mmfm {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(commands)}"
        print(f"mmfm: there is no command {name!r}{hint}", file=sys.stderr)
        return 2
    code = commands[name].load()(rest)
    return int(code or 0)


def _usage(names: Sequence[str]) -> str:
    lines = [f"  mmfm {name:<10} {ABOUT.get(name, '')}".rstrip() for name in names]
    return "\n".join(["usage: mmfm COMMAND …", "", *lines, "", "mmfm COMMAND --help says more."])


def _place(name: str) -> tuple[int, str]:
    known = list(ABOUT)
    return (known.index(name) if name in known else len(known), name)
