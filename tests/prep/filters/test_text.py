"""The filter of texts: each reason, and what passes."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from mmfm.config import ConfigError, from_dict
from mmfm_prep.errors import PrepError
from mmfm_prep.filters import Unwanted, language
from mmfm_prep.filters.text import TextFilter

SENTENCES = {
    "en": "Two dogs are playing with a red ball in the grass.",
    "de": "Zwei Hunde spielen mit einem roten Ball im Gras.",
    "es": "Dos perros juegan con una pelota roja en la hierba.",
    "fr": "Deux chiens jouent avec une balle rouge dans l'herbe.",
    "ru": "Две собаки играют с красным мячом на траве.",
    "ja": "二匹の犬が芝生の上で赤いボールで遊んでいます。",
    "zh": "两只狗在草地上玩一个红色的球，旁边还有一个小男孩。",
}


def reason(text: str, **options: object) -> str | None:
    """Why `text` is refused."""
    try:
        assert TextFilter(**options).apply(text) == text
    except Unwanted as unwanted:
        return str(unwanted)
    return None


@pytest.mark.parametrize(
    ("options", "kept", "refused", "message"),
    [
        ({"min_chars": 5}, "chair", "sofa", "text shorter than 5 characters"),
        ({"max_chars": 5}, "chair", "a sofa", "text longer than 5 characters"),
        ({"min_words": 2}, "a sofa", " sofa ", "text of fewer than 2 words"),
        ({"max_words": 1}, "armchair", "a sofa", "text of more than 1 word"),
        ({"scripts": ["Latin"]}, "Das Café 24", "кафе 24", "text not in script Latin"),
        ({"scripts": ["Latin"]}, "😀 1.5", "a кафе", "text not in script Latin"),
        ({"scripts": ["Greek", "Latin"]}, "ένα cafe", "咖啡", "text not in script Greek, Latin"),
        ({"scripts": ["Katakana"]}, "コーヒー", "かわいい", "text not in script Katakana"),
        ({"scripts": ["Latin"]}, "the name of it is Я", "the name: Я", "text not in script Latin"),
        ({"personal": "drop"}, "call me", "a@b.org", "text has personal data: e-mail"),
        ({"personal": "drop"}, "2021-12-25", "+49 30 901820", "text has personal data: phone"),
    ],
)  # fmt: skip
def test_reasons(options: dict[str, object], kept: str, refused: str, message: str) -> None:
    assert reason(kept, **options) is None
    assert reason(refused, **options) == message


def test_languages() -> None:
    for name, text in SENTENCES.items():
        assert reason(text, languages=[name]) is None, name
        others = [other for other in SENTENCES if other != name]
        assert reason(text, languages=others) == f"text not in {', '.join(others)}"


def test_short_texts_are_too_short_to_tell() -> None:
    assert reason("ein roter Stuhl", languages=["ru"], language_min_chars=16) is None
    assert reason("ein roter Stuhl", languages=["ru"]) == "text not in ru"
    assert reason("😀 " * 20, languages=["ru"]) == "text not in ru"


def test_masks_do_not_make_a_text_long_enough_to_tell() -> None:
    assert reason("[e-mail] [phone] Jo", languages=["ru"], personal="mask") is None


def test_the_confidence_is_that_of_all_languages_together() -> None:
    text = "ein roter Stuhl im Garten"
    sure = dict(language._detector().rank(text))["de"]
    for confidence, wanted in ((sure - 0.01, None), (sure + 0.01, "text not in de, zh")):
        options = {"languages": ["de", "zh"], "language_confidence": confidence}
        assert reason(text, **options) == wanted


def test_masking() -> None:
    one = TextFilter(personal="mask", phone_region="US", max_words=4)
    assert one.apply("write to jo@example.org") == "write to [e-mail]"
    assert one.apply("call (415) 555-2671") == "call [phone]"  # one word now
    german = TextFilter(personal="mask", languages=["de"])
    assert german.apply("Ruf an: +49 30 901820 oder schreib an jo@example.org").endswith("[e-mail]")


def test_it_asks_nothing_unless_told_to() -> None:
    assert not TextFilter().active
    assert TextFilter().apply(" \x00 ") == " \x00 "
    actives = [{"min_words": 1}, {"languages": ["en"]}, {"scripts": ["Han"]}, {"personal": "mask"}]
    assert all(TextFilter(**options).active for options in actives)
    code = "import sys, mmfm_prep.filters.text as t; t.TextFilter(min_chars=1).apply('a')"
    code += "; print([m for m in ('py3langid', 'phonenumbers', 'stdnum') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_it_travels_between_processes() -> None:
    one = TextFilter(languages=["en"], scripts=["Latin"], personal="drop", phone_region="DE")
    assert pickle.loads(pickle.dumps(one)) == one


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_chars": 0}, "min_chars = 0 must be at least 1"),
        ({"min_words": 3, "max_words": 2}, "min_words = 3 is more than max_words = 2"),
        ({"languages": ["eng"]}, "'eng' is no code of a known language; did you mean en"),
        ({"languages": ["en", "en"]}, "names something twice"),
        ({"language_confidence": 0}, "language_confidence = 0"),
        ({"language_min_chars": -1}, "language_min_chars = -1"),
        ({"scripts": ["latine"]}, "'latine' is no script of Unicode; did you mean Latin"),
        ({"scripts": ["Latin}"]}, r"'Latin}' is no script of Unicode"),
        ({"scripts": [""]}, "'' is no script of Unicode; such as Arabic"),
        ({"personal": "hide"}, "personal"),
        ({"phone_region": "DE"}, "phone_region: is of use only with"),
        ({"phone_region": "Germany", "personal": "drop"}, "'Germany' is no country"),
    ],
)
def test_refusals(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(TextFilter, options)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    language._detector.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(PrepError, match=r"py3langid: pip install 'mmfm\[filters\]'"):
        TextFilter(languages=["en"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PrepError, match=r"phonenumbers.*: pip install 'mmfm\[filters\]'"):
        TextFilter(personal="drop")
