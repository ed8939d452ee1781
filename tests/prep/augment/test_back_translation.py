"""Back-translation: with models that know a phrase book, and one with language codes."""

from __future__ import annotations

import types
from pathlib import Path

import pytest
import torch
from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer

from mmfm_prep.augment.back_translation import BackTranslation, _load, _token
from mmfm_prep.augment.text import TextAugmentation
from mmfm_prep.errors import PrepError
from tests.prep.augment.tiny_translators import save_translator

TO_GERMAN = {
    "a big hound runs": "ein grosser hund rennt",
    "a red chair": "ein roter stuhl",
    "a dog": "ein hund",
}
TO_ENGLISH = {
    ">>en<< ein grosser hund rennt": "a big dog runs",
    ">>en<< ein roter stuhl": "a red chair",
    ">>en<< ein hund": "one dog",
    "ein hund": "rennt",  # what is said without the prefix
}
TEXTS = ["a big hound runs", "a red chair", "a dog"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("translators")
    return save_translator(folder / "de", TO_GERMAN), save_translator(folder / "en", TO_ENGLISH)


@pytest.mark.parametrize("options", [{}, {"batch": 1}, {"num_beams": 3}, {"batch": 2}])
def test_there_and_back(models: tuple[str, str], options: dict[str, int]) -> None:
    forward, back = models
    one = BackTranslation(forward=forward, back=back, back_prefix=">>en<< ", **options)
    assert one.apply(TEXTS) == ["a big dog runs", "a red chair", "one dog"]


def test_the_prefix_steers(models: tuple[str, str]) -> None:
    forward, back = models
    assert BackTranslation(forward=forward, back=back).apply(["a dog"]) == ["rennt"]


def test_what_is_too_long_is_not_cut_but_left(models: tuple[str, str]) -> None:
    forward, back = models
    one = BackTranslation(forward=forward, back=back, back_prefix=">>en<< ", max_tokens=4)
    # Five tokens to begin with; four, with the prefix too many on the way back; enough.
    assert one.apply(TEXTS) == [None, None, "one dog"]
    assert one.apply([]) == []


def test_a_translation_that_never_ends_is_left(tmp_path: Path) -> None:
    forever = save_translator(tmp_path / "loop", {"a dog": "dog dog dog dog dog dog dog dog"})
    assert BackTranslation(forward=forever, back=forever, max_tokens=5).apply(["a dog"]) == [None]


def test_equal_results_add_nothing(models: tuple[str, str]) -> None:
    forward, back = models
    one = BackTranslation(forward=forward, back=back, back_prefix=">>en<< ")
    augmentation = TextAugmentation(back_translations=[one])
    texts = {"en": TEXTS, "de": ["ein hund"]}
    assert augmentation.asked(texts) == {"back_translation": 3}
    made, marks = augmentation.apply(texts, seed=0)
    assert made == {"en": [*TEXTS, "a big dog runs", "one dog"], "de": ["ein hund"]}
    assert marks == {"en": {"3": "back_translation", "4": "back_translation"}}


def test_a_model_is_loaded_once(models: tuple[str, str]) -> None:
    assert _load(models[0], "cpu")[1] is _load(models[0], "cpu")[1]


@pytest.fixture(scope="module")
def with_codes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One NLLB for both directions, spelling letters: only its codes tell it which."""
    folder = tmp_path_factory.mktemp("nllb")
    letters = ["<s>", "<pad>", "</s>", "<unk>", "▁", *"dhkognu"]
    tokenizer = NllbTokenizer(vocab={letter: i for i, letter in enumerate(letters)}, merges=[])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = M2M100ForConditionalGeneration(
        M2M100Config(
            vocab_size=len(tokenizer),
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_position_embeddings=64,
            dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            encoder_layerdrop=0.0,
            decoder_layerdrop=0.0,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=2,
            decoder_start_token_id=2,
        )
    )
    pairs = [("eng_Latn", "dog", "deu_Latn", "hund"), ("deu_Latn", "hund", "eng_Latn", "hound")]
    pairs += [("eng_Latn", "dog", "eng_Latn", "dog"), ("deu_Latn", "hund", "deu_Latn", "hund")]
    inputs, labels = [], []
    for source, text, target, wanted in pairs:
        tokenizer.src_lang = source
        inputs.append(tokenizer(text)["input_ids"])
        tokenizer.src_lang = target
        labels.append(tokenizer(wanted)["input_ids"])
    width = max(map(len, [*inputs, *labels]))
    ids = torch.tensor([row + [1] * (width - len(row)) for row in inputs])
    targets = torch.tensor([row + [-100] * (width - len(row)) for row in labels])
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(300):
        optimiser.zero_grad()
        model(ids, (ids != 1).long(), labels=targets).loss.backward()
        optimiser.step()
    model.save_pretrained(folder)
    return str(folder)


def test_language_codes(with_codes: str) -> None:
    options = {"language_code": "eng_Latn", "pivot_code": "deu_Latn", "max_tokens": 20}
    one = BackTranslation(forward=with_codes, back=with_codes, **options)
    assert one.apply(["dog"]) == ["hound"]
    same = BackTranslation(
        forward=with_codes, back=with_codes, **{**options, "pivot_code": "eng_Latn"}
    )
    assert same.apply(["dog"]) == ["dog"]


def test_codes_of_m2m_100() -> None:
    # Its tokenizer needs sentencepiece, which isn't among mmfm's requirements.
    stub = types.SimpleNamespace(
        src_lang="en", lang_code_to_id={"de": 128020}, get_lang_id={"de": 128020}.__getitem__
    )
    assert _token(stub, "de", "m2m") == 128020
    with pytest.raises(PrepError, match="m2m has no language code 'dee'; did you mean de"):
        _token(stub, "dee", "m2m")


def test_refusals(models: tuple[str, str], with_codes: str, tmp_path: Path) -> None:
    def refused(message: str, **options: object) -> None:
        words = {"forward": with_codes, "back": with_codes, "max_tokens": 20, **options}
        with pytest.raises(ValueError, match=message):
            BackTranslation(**words).apply(["dog"])

    refused("num_beams = 0 must be at least 1", num_beams=0)
    refused("name both or none", language_code="eng_Latn")
    codes = {"language_code": "eng_Latn", "pivot_code": "de_Latn"}
    refused("no language code 'de_Latn'; did you mean deu_Latn", **codes)
    refused("knows no language codes", forward=models[0], **codes)
    refused("max_tokens = 128: .* takes no more than 64", max_tokens=128)
    refused("there is no folder", forward=str(tmp_path / "none"))
    (tmp_path / "config.json").write_text("{}")
    refused("can't load .* as a sequence-to-sequence model", back=str(tmp_path))
    wrong = BackTranslation(forward=str(tmp_path / "none"), back="x")
    with pytest.raises(PrepError, match="there is no folder"):
        TextAugmentation(back_translations=[wrong]).prepare()
