"""Rows of tables in all formats, and errors that name file and line."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow
import pytest
from pyarrow import feather, parquet

from mmfm_prep.errors import PrepError
from mmfm_prep.tables import Layout, read_rows
from mmfm_prep.tables.cells import moment


def rows(path: Path, *columns: str, **layout: object) -> list:
    return list(read_rows(path, columns, Layout(**layout)))


def cells(path: Path, *columns: str, **layout: object) -> list:
    return [tuple(row[name] for name in columns) for _, row in rows(path, *columns, **layout)]


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
    assert rows(tmp_path / "a.parquet") == [
        ("a.parquet:1", {"id": 1, "image": {"bytes": b"x", "path": "a"}}),
        ("a.parquet:2", {"id": 2, "image": None}),
    ]
    assert cells(tmp_path / "a.parquet", "image.path") == [("a",), (None,)]


def test_hugging_face_says_what_numbers_mean(tmp_path: Path) -> None:
    feature = {"_type": "ClassLabel", "names": ["cat", "dog"]}
    told = {"info": {"features": {"label": feature, "n": {"_type": "Value"}}}}
    table = pyarrow.table({"label": [1, 0, -1], "n": [0, 1, 1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(told)})
    parquet.write_table(table, tmp_path / "a.parquet")
    feather.write_feather(table, tmp_path / "b.feather")
    with pyarrow.ipc.new_stream(str(tmp_path / "c.arrow"), table.schema) as stream:
        stream.write_table(table)
    expected = [("dog", 0), ("cat", 1), (None, 1)]
    for name in ("a.parquet", "b.feather", "c.arrow"):
        assert cells(tmp_path / name, "label", "n") == expected


def test_a_file_may_need_words(tmp_path: Path) -> None:
    path = tmp_path / "metadata.txt"
    path.write_bytes('1|"so, he said|caf\xe9\n2|x|y\n'.encode("latin-1"))
    layout = {"format": "csv", "delimiter": "pipe", "quotes": False, "encoding": "latin-1"}
    assert cells(path, "id", "b", columns=["id", "a", "b"], **layout) == [("1", "café"), ("2", "y")]
    assert cells(path, "a", columns=["id", "a", "b"], **layout)[0] == ('"so, he said',)
    path.write_text("1::Toy Story\n\n2::Heat\n")
    layout = {"format": "csv", "delimiter": "::", "quotes": False}
    assert cells(path, "t", columns=["id", "t"], **layout) == [("Toy Story",), ("Heat",)]


def test_packed_files(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert rows(tmp_path / "a.csv.gz") == [("a.csv.gz:2", {"a": "1", "b": "2"})]
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n')[:-9])
    with pytest.raises(PrepError, match=r"b\.jsonl\.gz can't be unpacked"):
        rows(tmp_path / "b.jsonl.gz")


@pytest.mark.parametrize(
    "content",
    [
        [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}],
        {"a": [1, 2], "b": ["x", "y"]},
        {"version": "1", "data": [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]},
        {"a": {"0": 1, "1": 2}, "b": {"0": "x", "1": "y"}},
        {"one": {"a": 1, "b": "x"}, "two": {"a": 2, "b": "y"}},
    ],
)
def test_json_that_holds_a_table(tmp_path: Path, content: object) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content, indent=1))
    assert cells(tmp_path / "a.json", "a", "b") == [(1, "x"), (2, "y")]


def test_json_of_several_lists_and_json_that_is_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"images": [{"f": 1}], "said": {"all": [{"f": 2}, {"f": 3}]}}))
    assert cells(path, "f", records="said.all") == [(2,), (3,)]
    path.write_text(json.dumps({"images": [{"f": 1}], "annotations": [{"f": 2}]}))
    with pytest.raises(PrepError, match=r"say which, e\.g\. records=annotations"):
        rows(path, "f")
    with pytest.raises(PrepError, match=r"no list 'image'; did you mean 'images'"):
        rows(path, "f", records="image")
    path.write_text('{"f": 1}\n{"f": 2}\n')
    assert cells(path, "f") == [(1,), (2,)]


def test_names_with_dots_lead_inside(tmp_path: Path) -> None:
    said = [{"raw": "one", "n": 1}, {"raw": "two"}]
    lines = [{"m": {"x": {"y": 1}}, "s": said, "a.b": 5}, {"s": []}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    names = ["m.x.y", "s.raw", "s.1.raw", "a.b"]
    assert cells(tmp_path / "a.jsonl", *names) == [
        (1, ["one", "two"], "two", 5),
        (None, None, None, None),
    ]
    with pytest.raises(PrepError, match=r"there is no column 's\.row'; did you mean 's\.raw'"):
        rows(tmp_path / "a.jsonl", "s.row")


def test_a_column_may_begin_late(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": 2, "b": 3}\n')
    assert cells(tmp_path / "a.jsonl", "b") == [(None,), (3,)]


def test_cells_that_hold_json_or_a_python_list(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("""id,raw\n1,"[""a"", ""b""]"\n2,"['c']"\n3,\n""")
    assert cells(tmp_path / "a.csv", "raw", "raw.0", parse=["raw"]) == [
        (["a", "b"], "a"), (["c"], "c"), ("", None),
    ]  # fmt: skip
    (tmp_path / "a.csv").write_text("id,raw\n1,[a\n")
    with pytest.raises(PrepError, match=r"a\.csv:2, column raw: neither JSON nor a Python list"):
        rows(tmp_path / "a.csv", "id", parse=["raw"])


def test_times() -> None:
    assert moment("1500000000") == moment(1500000000) == 1.5e9
    assert moment(1500000000123) == moment(1500000000123000000) == pytest.approx(1500000000.123)
    assert moment("1970-01-02") == moment(date(1970, 1, 2)) == 86400
    assert moment("1970-01-01T01:00:00+01:00") == moment(datetime(1970, 1, 1, tzinfo=UTC)) == 0
    assert moment(None) is moment(" ") is moment(float("nan")) is None
    for wrong in ("yesterday", "inf"):
        with pytest.raises(ValueError, match="time is"):
            moment(wrong)


def test_json_beside_other_tables_is_about_them(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "state.json").write_text('[{"a": 2}]')
    assert cells(tmp_path, "a") == [(1,)]
    assert cells(tmp_path, "a", format="json") == [(2,)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"photo\nx\n", r"a\.csv: there is no column 'foto'; did you mean 'photo'"),
        ("a.csv", b"foto;b\nx;y\n", r"no column 'foto'; .*Then say delimiter=semicolon"),
        ("a.csv", b"1,2\n", r"name the columns: 'columns=\[a, b\]'"),
        ("a.csv", b"foto\nx,y\n", r"a\.csv:2: 2 cells, but 1 names of columns: is a cell with ','"),
        ("a.csv", b"foto,foto\n1,2\n", r"there are two columns 'foto'"),
        ("a.csv", b'foto\nx\n"y\nz\n', r"a\.csv:3: .*plain text, say quotes=false"),
        ("a.csv", b"", r"a\.csv is empty"),
        ("a.csv", b"foto\n\xe9\n", r"a\.csv is not UTF-8: say what it is, e\.g\. encoding=cp1252"),
        ("a.jsonl", b'{"foto": 1}\n{"fo\n', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl:1: not an object: \[1\]"),
        ("a.json", b"[1", r"a\.json: not JSON"),
        ("a.parquet", b"nothing", r"a\.parquet is not a readable Parquet file"),
        ("a.arrow", b"nothing", r"a\.arrow is not a readable Arrow file"),
        ("a.xlsx", b"", r"a\.xlsx is a spreadsheet: save it as CSV"),
        ("a.csv.zip", b"", r"a\.csv\.zip is an archive: unpack it first"),
        ("a.dat", b"", r"a\.dat: a table ends with \.csv.*format=csv"),
    ],
)
def test_errors(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PrepError, match=message):
        rows(tmp_path / name, "foto")


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"delimiter": ""}, "say delimiter=pipe"),
        ({"delimiter": "::"}, "say so with quotes=false"),
        ({"columns": ["a", "a"]}, "a name is there twice"),
        ({"encoding": "utf-9"}, "Python knows none"),
    ],
)
def test_layouts_that_make_no_sense(layout: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layout(**layout)


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(PrepError, match="holds no table"):
        rows(tmp_path)
    with pytest.raises(PrepError, match=r"there is no .*gone\.csv"):
        rows(tmp_path / "gone.csv")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.csv").write_text("a\n")
    with pytest.raises(PrepError, match=r"data does: name it"):
        rows(tmp_path)
