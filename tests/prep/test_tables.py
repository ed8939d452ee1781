"""Rows of tables in four formats, and errors that name file and line."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from mmfm_prep.errors import PrepError
from mmfm_prep.tables import read_rows


def rows(path: Path, *columns: str) -> list:
    return list(read_rows(path, columns))


def test_csv_and_tsv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('\ufeffname,said\nx,"one, two\nthree"\ny,Grüße\n', "utf-8")
    assert rows(tmp_path / "a.csv", "name") == [
        ("a.csv:3", {"name": "x", "said": "one, two\nthree"}),
        ("a.csv:4", {"name": "y", "said": "Grüße"}),
    ]
    (tmp_path / "b.tsv").write_text("name\tsaid\nx\n")
    assert rows(tmp_path / "b.tsv") == [("b.tsv:2", {"name": "x", "said": ""})]
    assert [place for place, _ in rows(tmp_path)] == ["a.csv:3", "a.csv:4", "b.tsv:2"]


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1, "b": ["x"]}\n\n{"a": null}\n')
    assert rows(path, "b") == [
        ("a.jsonl:1", {"a": 1, "b": ["x"]}),
        ("a.jsonl:3", {"a": None, "b": None}),
    ]


def test_parquet(tmp_path: Path) -> None:
    table = pyarrow.table({"id": [1, 2], "image": [{"bytes": b"x", "path": "a"}, None]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet", "image") == [
        ("a.parquet:1", {"id": 1, "image": {"bytes": b"x", "path": "a"}}),
        ("a.parquet:2", {"id": 2, "image": None}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"photo\nx\n", r"a\.csv:2: there is no column 'foto'; did you mean 'photo'"),
        ("a.csv", b"foto\nx,y\n", r"a\.csv:2: more cells than the header has names \(1\)"),
        ("a.csv", b"foto\n\xe9\n", r"a\.csv is not UTF-8"),
        ("a.jsonl", b'{"foto": 1}\n{"fo\n', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl:1: not an object: \[1\]"),
        ("a.parquet", b"nothing", r"a\.parquet is not a readable Parquet file"),
        ("a.xlsx", b"", r"a\.xlsx: a table ends with \.csv"),
    ],
)
def test_errors(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PrepError, match=message):
        rows(tmp_path / name, "foto")


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(PrepError, match="holds no table"):
        rows(tmp_path)
    with pytest.raises(PrepError, match=r"there is no .*gone\.csv"):
        rows(tmp_path / "gone.csv")
