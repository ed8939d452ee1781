"""Tokenizers: training, special tokens, loading, and agreement with transformers."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from mmfm.data.tokenizer import SPECIAL_TOKENS, Tokenizer, load_tokenizer, train_bpe

TEXTS = ["a red dot", "ein roter Punkt", "точка", "赤い点", "a [MASK] in a text"] * 4


def test_encode_puts_special_tokens_around_the_text(tmp_path: Path) -> None:
    tokenizer = train_bpe(TEXTS, 320, tmp_path)
    ids = tokenizer.encode("a red dot")
    assert ids[0] == tokenizer.cls_id == tokenizer.bos_id == 2
    assert ids[-1] == tokenizer.sep_id == tokenizer.eos_id == 3
    assert (tokenizer.pad_id, tokenizer.mask_id) == (0, 4)
    assert tokenizer.special_ids == (0, 1, 2, 3, 4)
    assert max(ids) < tokenizer.vocab_size <= 320
    assert tokenizer.decode(ids) == "a red dot"
    assert tokenizer.frame == ([tokenizer.cls_id], [tokenizer.sep_id])


@pytest.mark.parametrize("text", ["never seen: ÆØÅ ", "новое", "🙂 \u200d", "tab\tand\nline"])
def test_any_text_can_be_encoded(tmp_path: Path, text: str) -> None:
    tokenizer = train_bpe(TEXTS, 300, tmp_path)
    assert tokenizer.decode(tokenizer.encode(text)) == text.strip()


def test_long_texts_are_cut_but_keep_their_end(tmp_path: Path) -> None:
    tokenizer = train_bpe(TEXTS, 300, tmp_path)
    whole, cut = tokenizer.encode("a red dot " * 9), tokenizer.encode("a red dot " * 9, 8)
    assert cut == [*whole[:7], tokenizer.sep_id]
    with pytest.raises(ValueError, match="max_length = 2"):
        tokenizer.encode("a", 2)


def test_special_tokens_in_a_text_are_text(tmp_path: Path) -> None:
    tokenizer = train_bpe(TEXTS, 300, tmp_path)
    for copy in (tokenizer, load_tokenizer(tmp_path), pickle.loads(pickle.dumps(tokenizer))):
        ids = copy.encode("[MASK] [SEP][PAD]")
        assert not set(ids[1:-1]) & set(copy.special_ids)
        assert ids == tokenizer.encode("[MASK] [SEP][PAD]")


def test_training_is_deterministic(tmp_path: Path) -> None:
    for name in ("one", "two"):
        train_bpe(TEXTS, 310, tmp_path / name)
    one, two = ((tmp_path / n / "tokenizer.json").read_bytes() for n in ("one", "two"))
    assert one == two
    with pytest.raises(ValueError, match="at least 261"):
        train_bpe(TEXTS, 100, tmp_path)


def test_a_full_disk_is_an_os_error(tmp_path: Path) -> None:
    tokenizer = train_bpe(TEXTS, 300, tmp_path / "one")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/tokenizer.json").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        tokenizer.save(tmp_path / "full")


def test_saved_tokenizers_are_equal(tmp_path: Path) -> None:
    tokenizer = train_bpe(TEXTS, 300, tmp_path / "one")
    load_tokenizer(tmp_path / "one").save(tmp_path / "two")
    again = load_tokenizer(tmp_path / "two")
    for text in TEXTS:
        assert again.encode(text, 9) == tokenizer.encode(text, 9)
    assert (tmp_path / "one" / "tokenizer.json").read_bytes() == (
        tmp_path / "two" / "tokenizer.json"
    ).read_bytes()


def test_agrees_with_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = train_bpe(TEXTS, 300, tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in ["a red dot", "ein Punkt", "赤い点", "été"]:
        assert tokenizer.encode(text) == theirs(text)["input_ids"]
        expected = theirs(text, truncation=True, max_length=5)["input_ids"]
        assert tokenizer.encode(text, 5) == expected
    assert theirs.pad_token_id == tokenizer.pad_id
    assert theirs.mask_token_id == tokenizer.mask_id


def test_loads_a_vocabulary_file_through_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    words = [*SPECIAL_TOKENS, "a", "red", "dot", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("A red dots") == [2, 5, 6, 7, 8, 3]
    assert tokenizer.vocab_size == 9
    tokenizer.save(tmp_path / "saved")  # as an encoder's assets: needs no transformers to load
    again = load_tokenizer(tmp_path / "saved")
    assert again.encode("a red dots") == [2, 5, 6, 7, 8, 3]
    assert again.special_ids == tokenizer.special_ids == (0, 1, 2, 3, 4)
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")("red")["input_ids"] == [2, 6, 3]


def test_settings_of_a_saved_file_do_not_pad_or_cut(tmp_path: Path) -> None:
    tokenizer = train_bpe(TEXTS, 300, tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["truncation"] = {
        "direction": "Right",
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    content["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    text = "a red dot and more"
    assert load_tokenizer(tmp_path).encode(text) == tokenizer.encode(text)


def test_errors_name_the_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no tokenizer '.*nowhere'"):
        load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is no tokenizer"):
        load_tokenizer(tmp_path)


def test_words_have_the_space_before_them_that_bytes_tell() -> None:
    """As transformers' `add_prefix_space=True`, which it wants for words that were split before."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["[PAD]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(["the left left left the the"], trainer)
    tokenizer = Tokenizer(backend)
    ids, words = tokenizer.encode_words(["the", "left", "left"])
    assert ids == tokenizer.encode(" the left left")
    assert sorted(set(words)) == [0, 1, 2]
    assert tokenizer.encode("left") != tokenizer.encode(" left")  # plain texts stay as they are
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.encode_words(["left"]) == tokenizer.encode_words(["left"])
