"""The command ``mmfm data``: raw files and registries ▶ shards.

    mmfm data make synthetic data/synthetic          # a small tri-modal set, made up, no network
    mmfm data make emoji data/emoji image_size=96    # options are key=value
    mmfm data make movielens data/movielens          # films, and who watched which
    mmfm data make interactions orders.csv data/orders user=who item=what time=at
    mmfm data make table shop.csv data/shop image=photo 'texts.en=[title]' 'labels=[category]'
    mmfm data make image_folder photos data/photos   # audio_folder, text_folder: a class a folder
    mmfm data make coco coco data/coco               # captions in COCO's JSON
    mmfm data make conll wnut17 data/wnut17          # a token and its tag a line
    mmfm data make shards cc12m data/cc12m           # WebDataset tars, processed and filtered
    mmfm data make my_package.my_source data/mine    # a source of your own
    mmfm data weights minilm data/weights/minilm     # a pretrained encoder, as a folder
    mmfm data inspect data/emoji                     # what is in it
    mmfm data verify data/emoji                      # whether all of it can be read
    mmfm data stats data/emoji                       # numbers to set a recipe by
    mmfm data tokenizer data/emoji data/tokenizer    # of its texts
    mmfm data index tars --manifest                  # of WebDataset tars that you have

Exit codes: 0 done, 2 an error that you can mend (one line on stderr says how).
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from mmfm.config import ConfigError
from mmfm_prep.errors import PrepError
from mmfm_prep.stopping import clean_end_on_sigterm

_OPTION = re.compile(r"[A-Za-z_][\w.]*=")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``mmfm data`` with `argv` (without "data"); returns the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names and texts may be what it can't encode
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = _parser()
    try:
        args, rest = parser.parse_known_args(argv)
        # argparse takes options of the form key=value before a flag, but not after one.
        flags = [item for item in rest if item.startswith("-") or "places" not in args]
        if flags:
            parser.error(f"unrecognized arguments: {' '.join(flags)}")
        if rest:
            args.places += rest
    except SystemExit as stop:  # argparse's own exit: 0 after --help, 2 after a usage error
        return int(stop.code or 0)
    try:
        with clean_end_on_sigterm():
            args.run(args)
    except (PrepError, ConfigError) as error:
        print(f"mmfm data: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""  # a full disk tells of no file
        print(f"mmfm data: {where}{error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mmfm data: stopped; nothing half-written is left", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mmfm data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    make = commands.add_parser("make", help="make a dataset of a source")
    make.add_argument(
        "source",
        metavar="SOURCE",
        help="table, image_folder, audio_folder, text_folder, coco, conll, interactions, shards, "
        "synthetic, emoji, stamps, movielens, or a dotted module",
    )
    make.add_argument(
        "places",
        metavar="[IN] OUT [key=value …]",
        nargs="+",
        help="what is read (not by all sources), the folder to make, options of the source",
    )
    make.add_argument("--force", action="store_true", help="make it anew where it is already there")
    make.add_argument(
        "--drop-leaks", action="store_true", help="leave out of train what is held out too"
    )
    make.add_argument("--workers", type=int, help="processes (default: as many as cores)")
    make.add_argument("--engine", choices=("local", "ray"), default="local", help="who works")
    make.set_defaults(run=_make)

    weights = commands.add_parser("weights", help="fetch a pretrained encoder into a folder")
    weights.add_argument("name", metavar="NAME", help="efficientnet-lite0 or minilm")
    weights.add_argument("out", metavar="OUT", type=Path, help="the folder to make")
    weights.add_argument("--cache", type=Path, default=Path("cache"), help="where downloads stay")
    weights.add_argument(
        "--force", action="store_true", help="fetch anew where it is already there"
    )
    weights.set_defaults(run=_weights)

    inspect = commands.add_parser("inspect", help="show what a dataset holds")
    inspect.add_argument("folder", metavar="DIR", type=Path)
    inspect.add_argument("--html", type=Path, metavar="FILE", help="write a page to look at")
    inspect.add_argument(
        "--samples", type=int, default=24, help="how many of each split the page shows (24)"
    )
    inspect.add_argument("--seed", type=int, default=0, help="of the draw of these samples")
    inspect.set_defaults(run=_inspect)

    verify = commands.add_parser("verify", help="find what is damaged, missing or there twice")
    verify.add_argument("folder", metavar="DIR", type=Path)
    verify.add_argument("--fast", action="store_true", help="decode no picture, sound or text")
    verify.add_argument("--workers", type=int, help="processes (default: as many as cores)")
    verify.set_defaults(run=_verify)

    index = commands.add_parser("index", help="index plain tars, and list them in a manifest")
    index.add_argument("folder", metavar="DIR", type=Path)
    index.add_argument("--manifest", action="store_true", help="write manifest.json beside them")
    index.add_argument(
        "--split",
        metavar="NAME=PATTERN",
        action="append",
        default=[],
        help="the tars of a split: --split 'val=val-*.tar' (default: one split, train)",
    )
    index.add_argument(
        "--modality",
        metavar="NAME=ENDINGS",
        action="append",
        default=[],
        help="the files of one that mmfm doesn't know: --modality video=gif,mp4",
    )
    index.add_argument("--licence", default="unknown", help="for the manifest")
    index.add_argument("--workers", type=int, help="processes (default: as many as cores)")
    index.set_defaults(run=_index)
    stats = commands.add_parser("stats", help="numbers to set a recipe by")
    stats.add_argument("folder", metavar="DIR", type=Path)
    stats.add_argument("--size", type=int, default=224, help="of pictures for mean and std (224)")
    stats.add_argument("--tokenizer", help="a folder or name: counts texts in its tokens")
    stats.add_argument("--json", type=Path, metavar="FILE", help="write the numbers, too")
    stats.add_argument("--workers", type=int, help="processes (default: as many as cores)")
    stats.set_defaults(run=_stats)

    tokenizer = commands.add_parser("tokenizer", help="train a tokenizer on a dataset's texts")
    tokenizer.add_argument("folder", metavar="DIR", type=Path)
    tokenizer.add_argument("out", metavar="OUT", type=Path, help="the folder to make")
    tokenizer.add_argument("--vocab-size", type=int, default=8000, help="tokens (8000)")
    tokenizer.add_argument("--splits", nargs="+", help="default: all that aren't held out")
    tokenizer.add_argument("--languages", nargs="+", help="default: all")
    tokenizer.set_defaults(run=_tokenizer)
    return parser


def _make(args: argparse.Namespace) -> None:
    from mmfm_prep.make import make, source_config

    options = [place for place in args.places if _OPTION.match(place)]
    options += ["drop_leaks=true"] if args.drop_leaks else []
    places = [place for place in args.places if not _OPTION.match(place)]
    if not 1 <= len(places) <= 2:
        raise PrepError(f"name what is read (not by all sources) and the folder to make: {places}")
    if len(places) == 2:
        options.insert(0, f"input={json.dumps(places[0])}")  # quoted: it is no YAML
    try:
        config = source_config(args.source, options)
    except ConfigError as error:
        if len(places) == 2 and str(error).startswith(f"unknown key {args.source}.input"):
            raise PrepError(
                f"{args.source} reads no files of yours, so that {places[1]!r} is too many; "
                "options must look like key.sub=value"
            ) from None
        raise
    make(config, Path(places[-1]), force=args.force, workers=args.workers, engine=args.engine)


def _weights(args: argparse.Namespace) -> None:
    from mmfm_prep.registries.weights import fetch_weights

    fetch_weights(args.name, args.out, cache=args.cache, force=args.force)


def _inspect(args: argparse.Namespace) -> None:
    from mmfm_prep.dataset.inspect import inspect

    inspect(args.folder, args.html, args.samples, args.seed)


def _verify(args: argparse.Namespace) -> None:
    from mmfm_prep.dataset.verify import verify
    from mmfm_prep.parallel import Execution

    found = verify(args.folder, decode=not args.fast, execution=Execution(args.workers))
    if found:
        raise PrepError(f"{args.folder} has {found:,} problems")


def _index(args: argparse.Namespace) -> None:
    from mmfm_prep.dataset.index import index, parse_endings, parse_splits
    from mmfm_prep.parallel import Execution

    splits = parse_splits(args.split)
    if splits and not args.manifest:
        raise PrepError("--split is for the manifest: add --manifest")
    index(
        args.folder,
        manifest=args.manifest,
        splits=splits,
        licence=args.licence,
        others=parse_endings(args.modality),
        execution=Execution(args.workers),
    )


def _stats(args: argparse.Namespace) -> None:
    from mmfm_prep.dataset.stats import stats
    from mmfm_prep.parallel import Execution

    if args.size < 1:
        raise PrepError(f"--size {args.size} must be at least 1")
    stats(
        args.folder,
        size=args.size,
        tokenizer=args.tokenizer,
        output=args.json,
        execution=Execution(args.workers),
    )


def _tokenizer(args: argparse.Namespace) -> None:
    from mmfm_prep.dataset.tokenizer import train_tokenizer

    train_tokenizer(
        args.folder,
        args.out,
        vocab_size=args.vocab_size,
        splits=args.splits,
        languages=args.languages,
    )


if __name__ == "__main__":
    raise SystemExit(main())
