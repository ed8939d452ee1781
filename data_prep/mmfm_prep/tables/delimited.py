"""CSV, TSV and their like."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from mmfm_prep.errors import PrepError
from mmfm_prep.tables.cells import no_column
from mmfm_prep.tables.layout import Layout

_OTHERS = {";": "semicolon", "\t": "tab", "|": "pipe", ",": "comma"}


def rows(
    path: Path,
    as_text: Callable[[], IO[str]],
    columns: Collection[str],
    layout: Layout,
    delimiter: str,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line where it ends, row); cells that a row lacks at its end are empty."""
    delimiter = layout.delimiter or delimiter
    with as_text() as file:
        lines = _lines(path, file, delimiter, layout.quotes)
        header = layout.columns
        if not header:
            number, first = next(lines, (0, []))
            header = [name.strip() for name in first]
            if not header:
                raise PrepError(f"{path} is empty")
        _check(path, header, columns, delimiter, bool(layout.columns))
        for number, cells in lines:
            if len(cells) > len(header):
                raise PrepError(
                    f"{path}:{number}: {len(cells)} cells, but {len(header)} names of columns: is "
                    f"a cell with {delimiter!r} unquoted? Is another delimiter= right?"
                )
            yield number, dict.fromkeys(header, "") | dict(zip(header, cells, strict=False))


def _lines(
    path: Path, file: IO[str], delimiter: str, quotes: bool
) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of what isn't blank."""
    if len(delimiter) > 1:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.rstrip("\r\n").split(delimiter)
        return
    csv.field_size_limit(1 << 30)
    # Strict: an unclosed quotation mark would take in all rows after it, in silence.
    reader = csv.reader(
        file,
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
        strict=quotes,
    )
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            hint = "; if its quotation marks are plain text, say quotes=false" if quotes else ""
            raise PrepError(f"{path}:{start}: {error}{hint}") from None
        if cells:
            yield reader.line_num, cells


def _check(
    path: Path, header: Sequence[str], columns: Collection[str], delimiter: str, named: bool
) -> None:
    for name in columns:
        if header.count(name) > 1:
            raise PrepError(f"{path}: there are two columns {name!r}")
        if name in header:
            continue
        message = no_column(str(path), name, header)
        other = next((c for c in _OTHERS if len(header) == 1 and c in header[0]), None)
        if other and not named:
            message += f". Is {other!r} what parts its cells? Then say delimiter={_OTHERS[other]}"
        elif not named:
            message += ". If its first line is no header, name the columns: 'columns=[a, b]'"
        raise PrepError(message)
