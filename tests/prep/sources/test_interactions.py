"""`mmfm data make interactions`: which events make histories, in which order, and what is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from mmfm_prep.cli import main
from tests.prep.making.test_media import encoded, noise
from tests.prep.sources.test_files import dataset

EVENTS = """who,what,stars,at
b,hat,5,100
10,shoe,4,30
b,shoe,3,100
9,hat,1,20
b,cap,2,99
10,hat,4,31
10,shoe,5,29
"""
ITEMS = "what,title,photo\nhat,A hat,hat.png\nshoe,A shoe,\ncap,A cap,\ntie,A tie,\n"
COLUMNS = ["user=who", "item=what", "time=at"]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "events.csv").write_text(EVENTS)
    (tmp_path / "things").mkdir()
    (tmp_path / "things/items.csv").write_text(ITEMS)
    (tmp_path / "things/hat.png").write_bytes(encoded(noise(9, 9), "PNG"))
    return tmp_path


def make(shop: Path, *options: object, code: int = 0) -> tuple[dict, dict[str, dict]]:
    """The manifest and samples of the shop with these options."""
    table = [f"items={shop / 'things/items.csv'}", "texts.en=[title]", "image=photo"]
    table = table if "no items" not in options else []
    given = [str(option) for option in options if option != "no items"]
    words = ["make", "interactions", str(shop / "events.csv"), str(shop / "out"), "--force"]
    assert main([*words, *table, *given, "--workers=1"]) == code
    return dataset(shop / "out") if code == 0 else ({}, {})


def histories(found: dict[str, dict]) -> dict[str, str]:
    """Of each person the items, in order, without what is the same of all ids."""
    people = {name: f for name, f in found.items() if f["split"] == "users"}
    return {
        name.removeprefix("user/"): " ".join(i.removeprefix("item/") for i in f["history"])
        for name, f in people.items()
    }


def test_histories_are_by_time_then_row(shop: Path) -> None:
    manifest, found = make(shop, *COLUMNS, "rating=stars", "licence=CC0")
    assert histories(found) == {"9": "hat", "10": "shoe shoe hat", "b": "cap hat shoe"}
    assert [f["key"] for f in found.values() if f["split"] == "users"] == [
        "00000000", "00000001", "00000002",
    ]  # fmt: skip
    assert found["user/10"]["times"] == [29, 30, 31]
    assert found["user/10"]["ratings"] == [5, 4, 4]
    assert {f["licence"] for f in found.values()} == {"CC0"}
    hat = found["item/hat"]
    assert (hat["split"], hat["texts"], list(hat["files"])) == ("items", {"en": ["A hat"]}, ["png"])
    assert set(found) >= {"item/shoe", "item/cap", "item/tie"}  # nobody took a tie
    assert manifest["splits"] == ["items", "users"]
    assert manifest["held_out"] == []
    assert manifest["notes"]["events"] == {"rows": 7, "in_histories": 7, "left_out": {}}
    assert manifest["notes"]["users"] == {"in_events": 3, "with_history": 3}


def test_without_a_time_the_rows_are_in_order(shop: Path) -> None:
    _, found = make(shop, "user=who", "item=what")
    assert histories(found) == {"9": "hat", "10": "shoe hat shoe", "b": "hat shoe cap"}
    assert not {"times", "ratings"} & set(found["user/b"])


def test_without_a_table_an_item_is_its_name(shop: Path) -> None:
    manifest, found = make(shop, "no items", *COLUMNS)
    assert histories(found)["b"] == "cap hat shoe"
    assert found["item/shoe"]["texts"] == {"en": ["shoe"]}
    assert manifest["totals"] == {"history": 3, "text": 3}


def test_low_ratings_are_in_no_history(shop: Path) -> None:
    (shop / "events.csv").write_text(EVENTS + "b,tie,,1\nb,tie,good,1\nb,tie,inf,1\n")
    manifest, found = make(shop, *COLUMNS, "rating=stars", "min_rating=3")
    assert histories(found) == {"10": "shoe shoe hat", "b": "hat shoe"}
    assert manifest["notes"]["users"] == {"in_events": 3, "with_history": 2}
    assert manifest["notes"]["events"]["left_out"] == {
        "rating below 3": {"events": 2, "first": ["events.csv:5", "events.csv:6"]},
        "rating is empty": {"events": 1, "first": ["events.csv:9"]},
        "rating is no number": {"events": 1, "first": ["events.csv:10"]},
        "rating is not finite": {"events": 1, "first": ["events.csv:11"]},
    }
    _, found = make(shop, *COLUMNS, "rating=stars")
    assert found["user/b"]["ratings"] == [None, 2, 5, 3]


@pytest.mark.parametrize(("which", "times"), [("first", [29, 31]), ("last", [30, 31])])
def test_duplicates(shop: Path, which: str, times: list[int]) -> None:
    manifest, found = make(shop, *COLUMNS, f"duplicates={which}")
    assert histories(found)["10"] == "shoe hat"
    assert found["user/10"]["times"] == times
    lost = manifest["notes"]["events"]["left_out"]
    assert lost == {f"not the {which} of its user and item": {"events": 1, "first": ["user/10"]}}


def test_the_core_is_what_stays_when_nothing_more_goes(shop: Path) -> None:
    # 9 has one event; without it hat has two. cap has one; without it b has two.
    manifest, found = make(shop, *COLUMNS, "min_user=2", "min_item=2")
    assert histories(found) == {"10": "shoe shoe hat", "b": "hat shoe"}
    assert {name for name in found if name.startswith("item/")} == {"item/hat", "item/shoe"}
    notes = manifest["notes"]
    assert notes["left_out"]["item is in fewer than 2 events"]["first"] == [
        "items.csv:4", "items.csv:5",
    ]  # fmt: skip
    core = notes["events"]["left_out"]["outside of the core (min_user 2, min_item 2)"]
    assert core == {"events": 2, "first": ["user/9", "user/b"]}
    assert notes["users"] == {"in_events": 3, "with_history": 2}


def test_events_on_no_item_are_left_out(shop: Path) -> None:
    (shop / "events.csv").write_text(EVENTS + "b,glove,5,1\nc,glove,5,1\n")
    (shop / "things/hat.png").write_bytes(b"broken")
    manifest, found = make(shop, *COLUMNS)
    assert histories(found) == {"10": "shoe shoe", "b": "cap shoe"}
    items = {name for name in found if name.startswith("item/")}
    assert {item for f in found.values() for item in f.get("history", [])} <= items
    notes = manifest["notes"]
    assert notes["left_out"] == {"picture is unreadable": {"samples": 1, "first": ["items.csv:2"]}}
    assert notes["events"] == {
        "rows": 9,
        "in_histories": 4,
        "left_out": {
            "item is not in the table of items": {"events": 2, "first": ["item/glove"]},
            "item was left out": {"events": 3, "first": ["item/hat"]},
        },
    }
    assert notes["users"] == {"in_events": 4, "with_history": 2}


def test_rows_of_items_without_an_id_or_with_one_again(shop: Path) -> None:
    (shop / "things/items.csv").write_text(ITEMS + "hat,Another,\n,Nameless,\n")
    manifest, found = make(shop, *COLUMNS)
    assert found["item/hat"]["texts"] == {"en": ["A hat"]}
    assert manifest["notes"]["left_out"] == {
        "id is there already": {"samples": 1, "first": ["items.csv:6"]},
        "id is empty": {"samples": 1, "first": ["items.csv:7"]},
    }


def test_bad_rows_are_counted_by_reason(shop: Path) -> None:
    bad = ",hat,1,1\nb,,1,1\nb,hat,1,\nb,hat,1,soon\nb,hat,1,nan\nb,hat,1,1e21\n"
    (shop / "events.csv").write_text(EVENTS + bad)
    manifest, found = make(shop, *COLUMNS)
    assert histories(found)["b"] == "cap hat shoe"
    lost = manifest["notes"]["events"]["left_out"]
    assert {reason: entry["first"][0] for reason, entry in lost.items()} == {
        "user is empty": "events.csv:9",
        "item is empty": "events.csv:10",
        "time is empty": "events.csv:11",
        "time is neither a number nor an ISO date: time_format says what it is": "events.csv:12",
        "time is not finite": "events.csv:13",
        "time is beyond the year 5138": "events.csv:14",
    }


def test_items_of_another_name_with_labels_in_parquet(shop: Path) -> None:
    picture = {"bytes": encoded(noise(9, 9), "PNG"), "path": None}
    table = pyarrow.table({"sku": ["hat", "cap"], "pic": [picture, None], "kind": ["a", "b"]})
    parquet.write_table(table, shop / "items.parquet")
    lines = [{"who": 1, "what": "cap", "at": "2024-05-01"}, {"who": 1, "what": "hat", "at": "1999"}]
    (shop / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["make", "interactions", str(shop / "events.jsonl"), str(shop / "out"), *COLUMNS]
    words += [f"items={shop / 'items.parquet'}", "items_id=sku", "image=pic", "labels=[kind]"]
    assert main(words) == 0
    manifest, found = dataset(shop / "out")
    # Nothing can be seen, heard or read of a cap.
    assert histories(found) == {"1": "hat"}
    assert found["item/hat"]["labels"] == {"kind": "a"}
    assert list(manifest["notes"]["left_out"]) == ["has no picture, sound or text"]


def test_it_is_made_again_where_events_or_pictures_changed(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["make", "interactions", str(shop / "events.csv"), str(shop / "out"), *COLUMNS]
    words += [f"items={shop / 'things/items.csv'}", "texts.en=[title]", "image=photo"]
    assert [main(words), main(words)] == [0, 0]
    (shop / "things/hat.png").write_bytes(encoded(noise(30, 30), "PNG"))
    assert main(words) == 2
    assert main([*words, "--force"]) == 0
    (shop / "events.csv").write_text(EVENTS.replace("9,hat", "8,hat"))
    assert main(words) == 2
    assert "changed since" in capsys.readouterr().err


def test_tables_of_other_layouts(shop: Path) -> None:
    (shop / "events.csv").write_text('"b";"hat";2\n"b";"cap";1\n', "latin-1")
    (shop / "items.txt").write_text("hat|Grüner Hut\ncap|Mütze\n", "latin-1")
    words = ["make", "interactions", str(shop / "events.csv"), str(shop / "out")]
    words += ["delimiter=semicolon", "columns=[who, what, at]", *COLUMNS, "texts.de=[said]"]
    words += [f"items={shop / 'items.txt'}", "items_layout.columns=[what, said]"]
    words += ["items_layout.format=csv", "items_layout.delimiter=pipe"]
    words += ["items_layout.encoding=latin-1"]
    assert main(words) == 0
    manifest, found = dataset(shop / "out")
    assert histories(found) == {"b": "cap hat"}
    assert found["item/hat"]["texts"] == {"de": ["Grüner Hut"]}
    assert "items_layout.delimiter=|" in manifest["command"].replace("'", "")


def test_a_table_whose_pictures_lie_elsewhere(shop: Path, capsys) -> None:
    (shop / "pics").mkdir()
    (shop / "things/hat.png").rename(shop / "pics/hat.png")
    make(shop, *COLUMNS, code=2)
    assert f"root={shop / 'pics'}" in capsys.readouterr().err
    _, found = make(shop, *COLUMNS, f"root={shop / 'pics'}")
    assert list(found["item/hat"]["files"]) == ["png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["user=who"], "name columns of the events: user=…, item=…"),
        (["user=who", "item=wat"], "there is no column 'wat'; did you mean 'what'"),
        ([*COLUMNS, "items=things/items.csv"], "name columns of the items"),
        ([*COLUMNS, "image=photo"], "name the table of items, too: items=…"),
        ([*COLUMNS, "min_rating=3"], "min_rating needs the column: rating=…"),
        ([*COLUMNS, "min_user=-1"], "must be 0 or more"),
        ([*COLUMNS, "shares={train: 1}"], "unknown key interactions.shares"),
        (["preset=movielens", "user=who"], "preset=movielens knows its columns: leave out user"),
        (["preset=movielens", "delimiter=tab"], "knows how its files are laid out"),
        (["preset=recbole", "items=x"], "reads the items beside the events"),
        ([*COLUMNS, "rating=stars", "min_rating=9"], "no event is left: 7 events (rating below 9)"),
        (["user=who", "item=what", "min_user=4"], "no event is left: 7 events (outside of the"),
        (["user=who", "item=stars", "items=things/items.csv", "items_id=title", "texts.en=[title]"],
         "no event is on an item of the table: events name ['5', '4', '3'], column 'title'"),
    ],
)  # fmt: skip
def test_refusals(
    shop: Path,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(shop)
    assert main(["make", "interactions", "events.csv", "out", *options]) == 2
    assert message in capsys.readouterr().err
    assert not (shop / "out").exists()


def test_dates_by_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("u,i,t\na,x,2.1.2024\na,y,1.1.2024\na,z,2024\n")
    words = ["user=u", "item=i", "time=t", "time_format='%d.%m.%Y'"]
    assert (
        main(["make", "interactions", str(tmp_path / "e.csv"), str(tmp_path / "out"), *words]) == 0
    )
    manifest, found = dataset(tmp_path / "out")
    assert found["user/a"]["history"] == ["item/y", "item/x"]
    assert list(manifest["notes"]["events"]["left_out"]) == [
        "time is not as time_format = '%d.%m.%Y' has it"
    ]


def test_items_have_columns_made_of_others(tmp_path: Path) -> None:
    (tmp_path / "7.png").write_bytes(encoded(noise(8, 8), "PNG"))
    (tmp_path / "items.csv").write_text("sku,maker,model\n7,Acme,Rocket\n8,,Boat\n")
    (tmp_path / "events.csv").write_text("u,sku\na,7\na,8\n")
    words = ["user=u", "item=sku", f"items={tmp_path / 'items.csv'}", "image=./{sku}.png"]
    words.append('texts.en=["{maker} {model}"]')
    out = tmp_path / "out"
    assert main(["make", "interactions", str(tmp_path / "events.csv"), str(out), *words]) == 0
    manifest, found = dataset(out)
    assert found["item/7"]["texts"] == {"en": ["Acme Rocket"]}
    assert "png" in found["item/7"]["files"]
    assert list(manifest["notes"]["left_out"]) == ["file is missing"]
