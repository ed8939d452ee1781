"""Parquet, and Arrow as Hugging Face's ``save_to_disk`` and Feather write it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from mmfm_prep.errors import PrepError
from mmfm_prep.tables.cells import MISSING, find, no_column, selected

Rows = Iterator[tuple[int, dict[str, Any]]]
_AT_ONCE = 256


def parquet_rows(path: Path, columns: Collection[str]) -> Rows:
    """(number, row); of the columns only those that are asked for are read, if any."""
    pyarrow = _pyarrow()
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            wanted = _wanted(path, columns, schema)
            batches = file.iter_batches(batch_size=_AT_ONCE, columns=wanted)
            yield from _rows(batches, columns, _class_names(schema))
    except pyarrow.ArrowInvalid as error:
        raise PrepError(f"{path} is not a readable Parquet file: {error}") from None


def arrow_rows(path: Path, columns: Collection[str]) -> Rows:
    """(number, row) of an Arrow file or stream."""
    pyarrow = _pyarrow()
    try:
        with pyarrow.memory_map(str(path)) as file:
            try:
                reader = pyarrow.ipc.open_stream(file)
                batches: Iterable[Any] = reader
            except pyarrow.ArrowInvalid:
                reader = pyarrow.ipc.open_file(file)
                batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
            wanted = _wanted(path, columns, reader.schema)
            # Sliced: a batch as it is written may be large.
            slices = (
                batch.select(wanted or reader.schema.names).slice(start, _AT_ONCE)
                for batch in batches
                for start in range(0, batch.num_rows, _AT_ONCE)
            )
            yield from _rows(slices, columns, _class_names(reader.schema))
    except pyarrow.ArrowInvalid as error:
        raise PrepError(f"{path} is not a readable Arrow file: {error}") from None


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise PrepError("reading Parquet needs pyarrow: pip install 'mmfm[parquet]'") from None
    return pyarrow


def _wanted(path: Path, columns: Collection[str], schema: Any) -> list[str] | None:
    """The file's columns that hold `columns`; None for all."""
    wanted = []
    for name in columns:
        top = name if name in schema.names else name.partition(".")[0]
        if top not in schema.names:
            raise PrepError(no_column(str(path), name, schema.names))
        wanted.append(top)
    return list(dict.fromkeys(wanted)) or None


def _rows(batches: Iterable[Any], columns: Collection[str], names: dict[str, list[str]]) -> Rows:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            for column, known in names.items():
                if isinstance(place := row.get(column), int):
                    row[column] = known[place] if 0 <= place < len(known) else None
            yield number, {**row, **selected(row, columns)}


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Column ▶ class names, where Hugging Face's datasets wrote what its numbers mean."""
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except ValueError:
        return {}
    features = find(told, "info.features")
    if features is MISSING or not isinstance(features, dict):
        return {}
    return {
        column: [str(name) for name in feature["names"]]
        for column, feature in features.items()
        if isinstance(feature, dict)
        and feature.get("_type") == "ClassLabel"
        and isinstance(feature.get("names"), list)
    }
