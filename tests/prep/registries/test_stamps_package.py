"""The items in Tux Paint's package, on a small made-up one."""

from __future__ import annotations

from mmfm_prep.registries.stamps_package import find_items, read_captions

PATHS = [
    "animals/frog.png",
    "animals/frog.txt",
    "animals/frog.ogg",
    "animals/frog_desc.ogg",
    "animals/frog_desc_fr.ogg",
    "animals/frog_desc_pt_BR.wav",
    "animals/frog.dat",
    "animals/frog_mirror.png",
    "animals/toad_desc_el.ogg",
    "math/7.svg",
    "math/7.txt",
    "math/7.ogg",
    "math/7_de.ogg",
    "math/7_en_GB.ogg",
]


def test_items_have_their_picture_captions_and_clips() -> None:
    items, left_out = find_items(PATHS)
    frog, seven = items
    assert (frog.stem, frog.category, frog.picture) == ("animals/frog", "animals", PATHS[0])
    assert frog.clips == {
        "": "animals/frog.ogg",
        "en": "animals/frog_desc.ogg",
        "fr": "animals/frog_desc_fr.ogg",
        "pt_BR": "animals/frog_desc_pt_BR.wav",
    }
    assert (seven.picture, seven.clips) == ("math/7.svg", {})
    assert left_out == {
        "clip: a word among the sounds": 3,
        "clip: no caption": 1,
        "picture: no caption": 1,
    }


def test_captions_in_the_order_asked_for() -> None:
    text = "A frog.\nfr.utf8=Une grenouille.\nzh_CN.utf8=青蛙\nde.utf8= \nnot a line\nfr.utf8=No."
    captions = read_captions(text.encode("utf-8-sig"), ["en", "zh", "de", "fr", "sv"])
    assert captions == {"en": ["A frog."], "zh": ["青蛙"], "fr": ["Une grenouille."]}
    assert list(captions) == ["en", "zh", "fr"]


def test_captions_in_a_broken_encoding_are_left_out() -> None:
    data = b"A frog.\nta.utf8=\xb4\xd5\nfr.utf8=Une grenouille."
    assert read_captions(data, ["en", "ta", "fr"]) == {
        "en": ["A frog."],
        "fr": ["Une grenouille."],
    }
    assert read_captions(b"", ["en"]) == {}
