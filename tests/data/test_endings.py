"""What in a sample's files holds which modality."""

from __future__ import annotations

import sys
from dataclasses import make_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mmfm.data.endings import Holders, is_there, modality_endings
from mmfm.data.manifest import Manifest
from mmfm.data.tar import build_index
from tests.data.make_shards import write_tar


def settings_of(monkeypatch: pytest.MonkeyPatch, name: str, *endings: str) -> Any:
    """The settings of a transform in a module of somebody else's."""
    module = ModuleType(name)
    module.ENDINGS = endings  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    config = make_dataclass("Config", [])
    config.__module__ = name
    return config()


def test_transforms_from_elsewhere_name_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    own = modality_endings()
    assert own["text"] == ("txt", "json:texts")
    assert own["history"] == ("json:history",)
    transforms = {
        "video": settings_of(monkeypatch, "their_video", "gif"),
        "image": settings_of(monkeypatch, "their_image", "dng"),
    }
    found = modality_endings(transforms)
    assert found == own | {"video": ("gif",), "image": ("dng",)}


def test_an_ending_holds_one_modality() -> None:
    with pytest.raises(ValueError, match="'png' holds both 'image' and 'depth'"):
        Holders.of({"image": ("jpg", "png"), "depth": ("png",)})


@pytest.mark.parametrize(
    ("value", "there"),
    [(0, True), (0.0, True), ([0], True), ([], False), ("", False), (None, False)],
)
def test_what_a_field_holds(value: Any, there: bool) -> None:
    assert is_there(value) == there
    found = Holders.of({"price": ("json:cost",)}).in_json({"cost": value})
    assert found == ({"price"} if there else set())


def test_plain_tars_are_read_by_the_transforms_endings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {"gif": b"g", "txt": b"a", "json": b'{"cost": 0}'}
    write_tar(tmp_path / "a.tar", [("0", whole), ("1", {"txt": b"b"})])
    assert Manifest.open(tmp_path).shards[0].modality_sets == {"text": 2}
    transforms = {
        "video": settings_of(monkeypatch, "their_video", "gif"),
        "price": settings_of(monkeypatch, "their_price", "json:cost"),
    }
    opened = Manifest.open(tmp_path, transforms=transforms)
    assert opened.shards[0].modality_sets == {"price+text+video": 1, "text": 1}
    assert opened.index(0).set_names == ["price+text+video", "text"]
    restricted = Manifest.open(tmp_path, modalities=["video"], transforms=transforms)
    assert restricted.shards[0].modality_sets == {"video": 1, "": 1}
    # An index that has been lost is made with the same endings.
    (tmp_path / "a.tar.idx").unlink()
    assert opened._load_index(0).header.modality_sets == opened.shards[0].modality_sets
    assert build_index(tmp_path / "a.tar").set_names == ["text"]
