"""Which language, and which script, a text is in.

    in_languages("ein roter Stuhl im Garten", ["de"], 0.05)     # py3langid, 100 languages and more
    in_scripts("красный стул", ["Cyrillic"])                   # Unicode's names of scripts

How sure the detector is of short texts stands in docs/text-preparation.md.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cache
from typing import Any

import regex  # type: ignore[import-untyped]

from mmfm_prep.errors import PrepError

SCRIPT_SHARE = 0.9
"""The share of its letters that must be of the wanted scripts: a foreign name may stand in it."""

_SCRIPTS = (
    *("Arabic", "Armenian", "Bengali", "Cyrillic", "Devanagari", "Ethiopic", "Georgian", "Greek"),
    *("Gujarati", "Gurmukhi", "Han", "Hangul", "Hebrew", "Hiragana", "Kannada", "Katakana"),
    *("Khmer", "Lao", "Latin", "Malayalam", "Myanmar", "Sinhala", "Tamil", "Telugu", "Thai"),
)


def check_languages(languages: Sequence[str]) -> None:
    """ValueError where one of `languages` is none that is detected, or py3langid is missing."""
    known = _detector().labels
    for name in languages:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"languages: {name!r} is no code of a known language; {hint}")


def check_scripts(scripts: Sequence[str]) -> None:
    """ValueError where one of `scripts` is no script of Unicode."""
    for name in scripts:
        try:
            if not name.replace("_", "").isalpha():
                raise regex.error("not a name")
            _of((name,))
        except regex.error:
            near = difflib.get_close_matches(name.capitalize(), _SCRIPTS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"such as {', '.join(_SCRIPTS)}"
            raise ValueError(f"scripts: {name!r} is no script of Unicode; {hint}") from None


def in_languages(text: str, languages: Sequence[str], confidence: float) -> bool:
    """Whether `languages` together have at least this probability, among all that are known."""
    ranked = dict(_detector().rank(text))
    return bool(sum(ranked[name] for name in languages) >= confidence)


def in_scripts(text: str, scripts: Sequence[str]) -> bool:
    """Whether nearly all letters are of `scripts`; so are those of a text without any."""
    letters = len(_letters().findall(text))
    return len(_of(tuple(scripts)).findall(text)) >= SCRIPT_SHARE * letters


@cache
def _detector() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ModuleNotFoundError:
        raise PrepError(
            "detecting languages needs py3langid: pip install 'mmfm[filters]'"
        ) from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@cache
def _letters() -> Any:
    return regex.compile(r"(?V1)[\p{L}--[\p{Script=Common}\p{Script=Inherited}]]")


@cache
def _of(scripts: tuple[str, ...]) -> Any:
    # Letters that several scripts share (the length mark of kana) are of all of them.
    wanted = "".join(rf"\p{{Script_Extensions={name}}}" for name in scripts)
    return regex.compile(rf"(?V1)[\p{{L}}&&[{wanted}]]")
