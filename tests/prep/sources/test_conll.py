"""CoNLL's columns in the dialects that there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prep.sources.making import dataset, make, reasons


def write(path: Path, *sentences: str, between: str = "\n\n") -> Path:
    """Each sentence's tokens are parted by spaces, their cells by slashes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [s.replace(" ", "\n").replace("/", "\t") for s in sentences]
    path.write_text(between.join(lines) + "\n", encoding="utf-8")
    return path


def made(folder: Path, *words: object) -> tuple[dict, dict[str, tuple[list, list]]]:
    """The manifest, and by id the tokens and tags."""
    assert make("conll", *words[:1], folder / "out", *words[1:]) == 0
    manifest, found = dataset(folder / "out")
    for sample in found.values():
        assert sample["texts"]["en"] == [" ".join(sample["tokens"])]
    return manifest, {name: (one["tokens"], one["tags"]) for name, one in found.items()}


def test_a_folder_of_splits(tmp_path: Path) -> None:
    write(
        tmp_path / "set/wnut17train.conll", "Jo/B-per lives/O", "in/O Rome/B-loc", between="\n \t\n"
    )
    write(tmp_path / "set/emerging.test.annotated", "Cafe\u0301/B-loc #/O")
    write(tmp_path / "set/notes.txt", "hello/O")
    (tmp_path / "set/README.md").write_text("x")
    manifest, found = made(tmp_path, tmp_path / "set")
    assert found == {
        "wnut17train.conll/0": (["Jo", "lives"], ["B-per", "O"]),
        "wnut17train.conll/1": (["in", "Rome"], ["O", "B-loc"]),
        "emerging.test.annotated/0": (["Café", "#"], ["B-loc", "O"]),
    }
    assert manifest["splits"] == ["test", "train"]
    assert manifest["held_out"] == ["test"]
    assert manifest["notes"]["tags"] == {"B-loc": 2, "B-per": 1, "O": 3}
    assert reasons(manifest) == {"the file's name tells no split": ["notes.txt"]}


def test_documents_comments_and_a_hash(tmp_path: Path) -> None:
    text = (
        "-DOCSTART- -X- O O\n\n# id 5f6c\tdomain=en\nEU NNP I-NP B-ORG\n# # B-NP O\n\n"
        "# O O O\nx X O O\n# id O O\n\n-DOCSTART- -X- O O\n\ny Y O O\n"
    )
    (tmp_path / "a.conll").write_text(text)
    assert make("conll", tmp_path / "a.conll", tmp_path / "out", "shares={train: 1}") == 0
    _, found = dataset(tmp_path / "out")
    assert {name: (one["tokens"], one["group"]) for name, one in found.items()} == {
        "a.conll/0": (["EU", "#"], "a.conll/document 1"),
        "a.conll/1": (["#", "x", "#"], "a.conll/document 1"),
        "a.conll/2": (["y"], "a.conll/document 2"),
    }


def test_parts_of_speech(tmp_path: Path) -> None:
    """CoNLL-U: named columns, words that are written together, documents."""
    rest = "\t_" * 6
    lines = ["# newdoc id = weblog", "# sent_id = 1", f"1-2\tdon't{rest}\t_\t_"]
    lines += [f"1\tdo\tdo\tAUX{rest}", f"2\tn't\tnot\tPART{rest}", f"2.1\tx\tx\tX{rest}", ""]
    (tmp_path / "en-train.conllu").write_text("\n".join(lines))
    words = ["columns=[id, form, lemma, upos]", "token=form", "tag=upos", "scheme=plain"]
    manifest, found = made(tmp_path, tmp_path / "en-train.conllu", *words)
    assert found == {"en-train.conllu/0": (["do", "n't"], ["AUX", "PART"])}
    _, samples = dataset(tmp_path / "out")
    assert samples["en-train.conllu/0"]["group"] == "en-train.conllu/weblog"
    assert manifest["totals"] == {"text": 1}


@pytest.mark.parametrize(
    ("told", "written", "repaired"),
    [
        ("I-a I-a O I-b", "B-a I-a O B-b", 2),
        ("I-a B-a I-a", "B-a B-a I-a", 1),
        ("B-a I-b I-b", "B-a B-b I-b", 1),
        ("B-a E-a S-a O U-b B-b L-b", "B-a I-a B-a O B-b B-b I-b", 0),
        ("B-a O I-a", "B-a O B-a", 1),
    ],
)
def test_schemes(tmp_path: Path, told: str, written: str, repaired: int) -> None:
    write(tmp_path / "train.bio", " ".join(f"w{n}/{t}" for n, t in enumerate(told.split())))
    manifest, found = made(tmp_path, tmp_path / "train.bio")
    assert found["train.bio/0"][1] == written.split()
    assert manifest["notes"]["tags_repaired"] == repaired


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("a/I-x b/B-x", "tags are IOB1: 1 that began with I- were made B-"),
        ("a/I-x b/O c/B-y", "tags: 1 went on with what hadn't begun and were made B-"),
    ],
)
def test_what_was_made_of_tags_is_said(
    tmp_path: Path, first: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path, write(tmp_path / "train.bio", first))
    assert message in capsys.readouterr().err


def test_sentences_that_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "train.bio", "a/O", "b/O c", "d/C-x", "e/O /O", "f/B-", "g/O")
    manifest, found = made(tmp_path, path)
    assert set(found) == {"train.bio/0", "train.bio/5"}
    assert reasons(manifest) == {
        "a line has no tag": ["train.bio:3"],
        "a tag is neither O nor B-… or I-…": ["train.bio:6", "train.bio:11"],
        "a token or tag is empty": ["train.bio:8"],
    }
    assert manifest["notes"]["tags"] == {"O": 2}


def test_another_encoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "esp.train").write_bytes("a O\n\nniño O\n".encode("latin-1"))
    assert make("conll", tmp_path / "esp.train", tmp_path / "out") == 2
    assert "is not UTF-8: say what it is, e.g. encoding=latin-1" in capsys.readouterr().err
    _, found = made(tmp_path, tmp_path / "esp.train", "encoding=latin-1")
    assert found["esp.train/1"][0] == ["niño"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "tags such as 'NOUN' mark no beginnings (B-…, I-…); scheme=plain takes them"),
        (["tag=0"], "token and tag are the same column: 0"),
        (["tag=upos"], "tag = 'upos' is a column without a number; name them"),
        (["tag=upos", "columns=[form, pos]"], "columns = ['form', 'pos']"),
        (["encoding=utf-9"], "Python knows none of that name"),
        (["tag=5"], "gives no sample"),
        (["filters.text.personal=mask"], "would leave tokens as they are: use drop"),
    ],
)
def test_refusals(
    tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "train.conll", "cat/NOUN")
    assert make("conll", path, tmp_path / "out", *words) == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "set").mkdir()
    assert make("conll", tmp_path / "set", tmp_path / "out") == 2
    assert "holds no file that ends with .conll" in capsys.readouterr().err
