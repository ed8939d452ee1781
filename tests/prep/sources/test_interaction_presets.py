"""Folders of MovieLens and RecBole, as they come."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmfm_prep.cli import main
from tests.prep.making.test_media import encoded, noise
from tests.prep.sources.test_files import dataset
from tests.prep.sources.test_interactions import histories


def write(folder: Path, encoding: str = "utf-8", **files: str) -> Path:
    """A folder with files, in whose names here ``_`` stands for a dot."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding)
    return folder


def make(folder: Path, *options: str) -> tuple[dict, dict[str, dict]]:
    out = folder.parent / "out"
    words = ["make", "interactions", str(folder), str(out), *options]
    assert main([*words, "--force", "--workers=1"]) == 0
    return dataset(out)


FLAGS = ["0"] * 19
DRAMA = "|".join([*FLAGS[:8], "1", *FLAGS[9:]])
TWO = "|".join([*FLAGS[:3], "1", "1", *FLAGS[5:]])
SETS = {
    "100K": {
        "u_data": "1\t7\t5\t881250949\n1\t2\t3\t881250948\n",
        "u_item": f"2|Postino, Il (1994)|01-Jan-1994||http://x|{DRAMA}\n"
        f"7|Misérables, Les (1995)|01-Jan-1995||http://x|{TWO}\n",
    },
    "1M": {
        "ratings_dat": "1::7::5::881250949\n1::2::3::881250948\n",
        "movies_dat": "2::Postino, Il (1994)::Drama\n"
        "7::Misérables, Les (1995)::Animation|Children's\n",
    },
    "25M": {
        "ratings_csv": "userId,movieId,rating,timestamp\n1,7,5.0,881250949\n1,2,3.0,881250948\n",
        "movies_csv": 'movieId,title,genres\n2,"Postino, Il (1994)",Drama\n'
        '7,"Misérables, Les (1995)",Animation|Children\'s\n',
    },
}


LATIN_1 = [name for name in SETS if name != "25M"]  # whose files are UTF-8


@pytest.mark.parametrize(
    ("name", "encoding"),
    [*((name, "utf-8") for name in SETS), *((name, "latin-1") for name in LATIN_1)],
)
def test_movielens(tmp_path: Path, name: str, encoding: str) -> None:
    folder = write(tmp_path / name, encoding, **SETS[name])
    manifest, found = make(folder, "preset=movielens")
    assert histories(found) == {"1": "2 7"}
    assert found["user/1"]["times"] == [881250948, 881250949]
    assert found["user/1"]["ratings"] == [3, 5]
    assert found["item/2"]["texts"] == {"en": ["Il Postino (1994). Drama"]}
    film = found["item/7"]
    assert film["texts"] == {"en": ["Les Misérables (1995). Animation, Children's"]}
    assert film["title"] == "Les Misérables (1995)"
    assert film["genres"] == ["Animation", "Children's"]
    assert manifest["notes"]["events"] == {"rows": 2, "in_histories": 2, "left_out": {}}


def test_movielens_lines_that_are_cut_short(tmp_path: Path) -> None:
    files = dict(SETS["1M"])
    files["ratings_dat"] += "1::2\n\n"
    files["movies_dat"] += "8::Lost\n9::Shorts (1999)::(no genres listed)\n"
    manifest, found = make(write(tmp_path / "a", **files), "preset=movielens", "min_rating=4")
    assert histories(found) == {"1": "7"}
    assert found["item/9"]["texts"] == {"en": ["Shorts (1999)"]}
    notes = manifest["notes"]
    assert notes["left_out"]["has not 3 cells"]["first"] == ["movies.dat:3"]
    assert notes["events"]["left_out"]["has not 4 cells"]["first"] == ["ratings.dat:3"]
    assert notes["events"]["left_out"]["rating below 4"]["events"] == 1


INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
EVENTS = INTER + "u\ty\t3\t8.8E8\nu\tx\t4\t1\nu\tx\n"
ITEM = (
    "item_id:token\ttitle:token_seq\tkind:token_seq\tphoto:token\n"
    'x\tA "red" hat\tHats Red\tx.png\ny\tShoe\t\t\n'
)


def test_recbole(tmp_path: Path) -> None:
    folder = write(tmp_path / "shop", shop_inter=EVENTS, shop_item=ITEM, shop_user="user_id:token")
    manifest, found = make(folder, "preset=recbole")
    assert histories(found) == {"u": "x y"}
    assert found["user/u"]["times"] == [1, 880000000]
    assert found["user/u"]["ratings"] == [4, 3]
    assert found["item/x"]["texts"] == {"en": ['A "red" hat. Hats Red']}
    assert found["item/y"]["texts"] == {"en": ["Shoe"]}
    assert manifest["notes"]["events"]["left_out"]["has not 4 cells"]["first"] == ["shop.inter:4"]
    (folder / "x.png").write_bytes(encoded(noise(9, 9), "PNG"))
    options = ["image=photo", "texts.de=[title]", "labels=[kind]"]
    _, found = make(folder / "shop.inter", "preset=recbole", *options)
    assert list(found["item/x"]["files"]) == ["png"]
    assert found["item/x"]["texts"] == {"de": ['A "red" hat']}
    assert found["item/x"]["labels"] == {"kind": "Hats Red"}


def test_recbole_without_items_times_and_usual_names(tmp_path: Path) -> None:
    events = "session:token\tsong:token\nu\ty\nu\tx\n"
    folder = write(tmp_path / "songs", songs_inter=events)
    _, found = make(folder, "preset=recbole", "user=session", "item=song")
    assert histories(found) == {"u": "y x"}
    assert found["item/x"]["texts"] == {"en": ["x"]}
    assert not {"times", "ratings"} & set(found["user/u"])


@pytest.mark.parametrize(
    ("preset", "files", "message"),
    [
        ("movielens", {"x_csv": ""}, "is no folder of MovieLens: it holds no u.data, ratings.dat"),
        ("movielens", {"u_data": "1"}, "u.item, which says what the films of u.data are"),
        ("recbole", {}, "should hold one file *.inter, it holds none"),
        ("recbole", {"a_inter": "", "b_inter": ""}, "it holds a.inter, b.inter"),
        ("recbole", {"a_inter": "user_id\titem_id\n"}, "an atomic file says field:type, not ['us"),
        ("recbole", {"a_inter": "user_id:token\n"}, "there is no column 'item_id'; it has user_id"),
        ("recbole", {"a_inter": INTER}, "no event is left: it has no rows"),
    ],
)
def test_folders_that_are_none(
    tmp_path: Path, preset: str, files: dict[str, str], message: str, capsys
) -> None:
    folder = write(tmp_path / "a", **files)
    out = str(tmp_path / "out")
    assert main(["make", "interactions", str(folder), out, f"preset={preset}"]) == 2
    assert message in capsys.readouterr().err


def test_recbole_pictures_of_no_items(tmp_path: Path, capsys) -> None:
    folder = write(tmp_path / "a", a_inter=EVENTS)
    words = ["make", "interactions", str(folder), str(tmp_path / "out"), "preset=recbole"]
    assert main([*words, "image=photo"]) == 2
    assert "a.item, so that nothing is known of the items" in capsys.readouterr().err
