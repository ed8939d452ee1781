"""The command `mmfm report`: one self-contained page about several runs.

    mmfm report configs/report/quickstart.yaml [key=value …] [--out FILE]

What has not been run yet is said on the page, with the command that makes it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 with one line on standard error for what the user can mend."""
    args = _parser().parse_intermixed_args(argv)
    from mmfm import config
    from mmfm_eval.report import summary
    from mmfm_eval.report.build import build
    from mmfm_eval.report.config import ReportConfig
    from mmfm_eval.results import write_all

    try:
        settings = config.load(ReportConfig, args.config, args.overrides)
        out = args.out or Path(settings.out)
        page = build(settings, lambda text: print(text, file=sys.stderr, flush=True))
        write_all(out.parent, {out.name: page})
        summary.show(settings)
    except (ValueError, OSError) as error:
        print(f"mmfm report: error: {error}", file=sys.stderr)
        return 2
    print(f"{out}  {len(page.encode()) / 1e6:.1f} MB")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mmfm report", description="Write one page about the runs that a YAML file names."
    )
    parser.add_argument("config", type=Path, help="YAML file with runs, sources and panels")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that replace those of the file"
    )
    parser.add_argument("--out", type=Path, help="the file to write (default: out of the YAML)")
    return parser
