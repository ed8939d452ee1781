"""Personal data in texts: e-mail addresses, phone numbers, payment cards, bank accounts (IBAN).

    mask("call +49 30 901820 or write to jo@example.org")    # "call [phone] or write to [e-mail]"

Written to leave prices, dates, ISBNs, versions and coordinates alone. Numbers are checked: cards
by issuer, length and Luhn digit, accounts by country and check digits, phone numbers by the
numbering plan of their country. Names, addresses of houses and the like are not looked for.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

Kind = Literal["e-mail", "iban", "card", "phone"]
KINDS: tuple[Kind, ...] = ("e-mail", "iban", "card", "phone")
MASK = re.compile(rf"\[(?:{'|'.join(KINDS)})\]")

_HOST = r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}"
_EMAIL = re.compile(rf"(?<!\w)[\w+](?:[\w.%+'-]{{0,62}}[\w+-])?@({_HOST})(?![\w@]|-\w)")
_AT = re.compile(r"[\[({]at[\])}]", re.IGNORECASE)
_SPELT = re.compile(
    r"(?<![\w.])\w[\w.+-]{0,62} ?[\[({]at[\])}] ?"
    r"(?:[\w-]{1,63} ?(?:[\[({]dot[\])}]|\.) ?){1,4}[^\W\d_]{2,24}\b",
    re.IGNORECASE,
)
_FILES = ("png", "jpg", "jpeg", "gif", "svg", "webp", "avif", "bmp", "pdf", "css", "js", "json")

# A look-ahead, so that what begins like one doesn't hide the one behind it.
_IBAN = re.compile(
    r"(?<![^\W_])(?=([A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,34}(?![A-Z0-9])))", re.I | re.A
)

# Alone, or in the groups that are printed on cards.
_CARD = re.compile(
    r"(?<![\w.,+/#&=-])(?<!\d )(?:\d{14,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?"
    r"|\d{4}([ -])\d{6}\2\d{4,5})(?![\w/-]| \d{4}(?![\d/])|[.,]\d)",
    re.ASCII,
)
_ISSUERS = (
    (re.compile(r"4"), (16, 19)),  # Visa
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),  # Mastercard
    (re.compile(r"3[47]"), (15,)),  # American Express
    (re.compile(r"30[0-5]|3[689]"), (14, 16)),  # Diners Club
    (re.compile(r"6011|64[4-9]|65"), (16, 19)),  # Discover
    (re.compile(r"35(?:2[89]|[3-8])"), (16,)),  # JCB
    (re.compile(r"62"), (16, 17, 18, 19)),  # UnionPay
    (re.compile(r"5018|5020|5038|5893|6304|6759|676[123]"), (16, 18, 19)),  # Maestro
)

_CUE = re.compile(
    r"(?:\b(?:tel|fon|phone|telephone|telefon|tél|téléphone|teléfono|telefono|telefone|mobile?"
    r"|móvil|portable|cell|handy|fax|call|text|dial|ring|sms|whatsapp|signal)\b\.?|тел\.?|телефон"
    r"|电话|電話|手机)(?: (?:number|no|nr|me|us|at|on))*[.:]?\s*$",
    re.IGNORECASE,
)
_SUM = re.compile(r"[+＋]\s")  # "x + 13478400000"
_LEAST_DIGITS = 7  # no phone number of a person is shorter


class Found(NamedTuple):
    """Where in a text something personal stands: ``text[start:end]``."""

    kind: Kind
    start: int
    end: int


def find(text: str, region: str | None = None) -> list[Found]:
    """All that is found, in the order of the text, without overlaps.

    `region`: the country (ISO 3166) whose phone numbers are found in their national form too:
    those in groups, and those without that follow a word such as "phone".
    """
    found = list(_emails(text))
    if sum(map(str.isdigit, text)) >= _LEAST_DIGITS:
        for new in (*_ibans(text), *_cards(text), *_phones(text, region)):
            if not any(_overlap(new, old) for old in found):
                found.append(new)
    return sorted(found, key=lambda one: one.start)


def mask(text: str, region: str | None = None) -> str:
    """`text` with each find replaced by its kind: ``[e-mail]``."""
    for one in reversed(find(text, region)):
        text = f"{text[: one.start]}[{one.kind}]{text[one.end :]}"
    return text


def without_masks(text: str) -> str:
    """`text` without what `mask` put into it."""
    return MASK.sub(" ", text)


def check_region(region: str | None) -> None:
    """ValueError where `region` is no country whose phone numbers are known."""
    from phonenumbers import SUPPORTED_REGIONS

    if region is not None and region not in SUPPORTED_REGIONS:
        near = difflib.get_close_matches(region.upper(), sorted(SUPPORTED_REGIONS), cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "such as DE, FR, GB, US"
        raise ValueError(f"phone_region: {region!r} is no country (ISO 3166); {hint}")


def _overlap(one: Found, other: Found) -> bool:
    return one.start < other.end and other.start < one.end


def _emails(text: str) -> Iterator[Found]:
    for match in _EMAIL.finditer(text) if "@" in text else ():
        # image@2x.png is a file, for screens of twice the resolution.
        if match[1].rsplit(".", 1)[1].lower() not in _FILES and ".." not in match[0]:
            yield Found("e-mail", *match.span())
    for match in _SPELT.finditer(text) if _AT.search(text) else ():
        yield Found("e-mail", *match.span())


def _ibans(text: str) -> Iterator[Found]:
    from stdnum import iban

    for match in _IBAN.finditer(text):
        # What follows the number may look like more of it: the longest valid start is taken.
        ends = [m.start() for m in re.finditer(r"[ -]", match[1])]
        for end in (len(match[1]), *reversed(ends)):
            if iban.is_valid(match[1][:end], check_country=False):
                yield Found("iban", match.start(), match.start() + end)
                break


def _cards(text: str) -> Iterator[Found]:
    from stdnum import luhn

    for match in _CARD.finditer(text):
        # Three digits behind four groups of four may be more of the number, or its check value.
        for number in (match[0], match[0][: len("1234 1234 1234 1234")]):
            digits = re.sub(r"[ -]", "", number)
            known = any(of.match(digits) and len(digits) in lengths for of, lengths in _ISSUERS)
            if known and luhn.is_valid(digits):
                yield Found("card", match.start(), match.start() + len(number))
                break


def _phones(text: str, region: str | None) -> Iterator[Found]:
    from phonenumbers import Leniency, PhoneNumberMatcher

    for match in PhoneNumberMatcher(text, None, leniency=Leniency.VALID):
        if not _SUM.match(match.raw_string):
            yield Found("phone", match.start, match.end)
    if region is None:
        return
    for match in PhoneNumberMatcher(text, region, leniency=Leniency.STRICT_GROUPING):
        if _is_phone(match.raw_string, text[max(0, match.start - 40) : match.start]):
            opened = match.raw_string.startswith("(") and ")" not in match.raw_string
            yield Found("phone", match.start + opened, match.end)


def _is_phone(number: str, before: str) -> bool:
    """Whether a national number is one: it could be the digits of a decimal, or of an order."""
    main = re.split(r"\s*(?:x|ext|#)", number, maxsplit=1, flags=re.IGNORECASE)[0].strip("[(- ")
    dots, others = main.count("."), re.findall(r"[^\d.]", main)
    if (
        _SUM.match(number)
        or re.search(r"(?:\d[.,]|ISBN(?:-10)?:? ?)$", before)
        or (dots and ")" not in main and (dots == 1 or others))
    ):
        return False
    return bool(dots or others or _CUE.search(before))
