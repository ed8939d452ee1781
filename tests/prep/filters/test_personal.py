"""Personal data in texts: what is found, to the character, and what is left alone.

Numbers are those that card schemes, registries and regulators publish for examples.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfm_prep.filters.personal import KINDS, check_region, find, mask, without_masks

# Between « and » is what is to be found.
EMAILS = [
    "write to «jo@example.org»",
    "«Jane.Doe+news@mail.example.co.uk»!",
    "<«a_b-c@sub-domain.example.com»>",
    "mailto:«info@example.com»",
    "«o'brien@example.ie», and others",
    "«jürgen@müller.de»",
    "«иван@пример.рф»",
    "«JOHN@EXAMPLE.COM».",
    "contact: «x@y.io»; thanks",
    '"«john99@gmail.com»"',
    "«me@web.de»/«you@web.de»",
    "邮箱：«wang@example.cn»。",
    "«jo [at] example [dot] com»",
    "«jo(at)example.com»",
]
PHONES = [
    "«+49 30 901820»",
    "call «+1 (415) 555-2671» now",
    "«+44 20 7946 0958»",
    "«+14155552671»",
    "«+33 1 42 68 53 00»",
    "«+86 138 0013 8000»",
    "«+7 495 123-45-67»",
    "tel:«+39 06 6982»",
    "«+91-98765-43210»",
    "«＋49 30 901820»",
    "«+81 3-1234-5678»",
    "«+49 (0)30 901820»",
    "WhatsApp:«+5511987654321»",
    "«+49 30 901820» or «+44 20 7946 0958»",
]
NATIONAL_PHONES = [
    ("US", "«(415) 555-2671»"),
    ("US", "«415-555-2671»"),
    ("US", "«415.555.2671»"),
    ("US", "«(415) 555.2671»"),
    ("US", "the office («800-292-9263»)"),
    ("US", "fax «415-555-2671 x12»"),
    ("US", "call «4155552671»"),
    ("US", "text me: «4155552671»"),
    ("DE", "«030 901820»"),
    ("DE", "Tel. «030/901820»"),
    ("DE", "«0171 1234567»"),
    ("DE", "Handy: «01711234567»"),
    ("GB", "«020 7946 0958»"),
    ("GB", "«07911 123456»"),
    ("FR", "«01 42 68 53 00»"),
    ("ES", "«612 34 56 78»"),
    ("IN", "«98765 43210»"),
    ("JP", "«03-1234-5678»"),
]
CARDS = [
    "«4111 1111 1111 1111»",
    "«4111-1111-1111-1111»",
    "«4242424242424242»",
    "card «5555555555554444».",
    "«5105 1051 0510 5100»",
    "«3782 822463 10005»",
    "«378282246310005»",
    "«6011111111111117»",
    "«3530111333300000»",
    "«30569309025904»",
    "«2223003122003222»",
    "pay with «6304000000000000» ok",
    "«4111 1111 1111 1111» 12/25 123",
    "«4111 1111 1111 1111» 123",
    "«4111 1111 1111 1111», exp 12/25",
]
IBANS = [
    "«DE89 3704 0044 0532 0130 00»",
    "«DE89370400440532013000»",
    "IBAN: «GB82 WEST 1234 5698 7654 32».",
    "«FR14 2004 1010 0505 0001 3M02 606»",
    "«NL91ABNA0417164300»",
    "«CH93 0076 2011 6238 5295 7»",
    "«de89370400440532013000»",
    "«DE89 3704 0044 0532 0130 00» BANK OF X",
    "«BE68 5390 0754 7034»",
    "AB12 «DE89 3704 0044 0532 0130 00» and more words",
]
NOTHING = [
    "$1,299.00", "1.234.567,89 €", "€ 12 345 678", "1,000,000,000", "10 000 000 people",
    "in 1984 and 2023", "1994-2004, 2005-2015", "2021-12-25", "25.12.2021 14:30", "12/25/2021",
    "2021-12-25T14:30:00", "20211225143000", "1700000000000",
    "ISBN 978-3-16-148410-0", "9783161484100", "ISBN 0-306-40615-2", "ISBN 0-8247-7487-6",
    "EAN 4006381333931",
    "4006381333931", "UPC 036000291452", "DOI 10.1038/s41586-020-2649-2", "arXiv:2103.00020",
    "order 1234567890", "order #4155552671", "order no. 302-1234567-8901234", "4155552671",
    "SKU 12-3456-789", "Model 5510-2200-33", "№ 12345678", "M8x1.25 1234567",
    "IMEI 356938035643809", "1Z 999 AA1 01 2345 6784", "CAS 7732-18-5",
    "v1.2.3.4567", "192.168.100.200", "2001:db8::8a2e:370:7334", "react@18.2.0",
    "550e8400-e29b-41d4-a716-446655440000", "http://example.com/a/1234567890123456",
    "48.8566, 2.3522", "48.856614, 2.352222", "40.712776,-74.005974",
    "#100daysofcode2021", "@user_name", "image@2x.png", "user@localhost", "3 @ 5.00 each",
    "meet me at home.", "cat(at)home", "1600x1200", "1920 x 1080 px", "A4 paper 210 x 297 mm",
    "3.14159265358979", "2.718281828459045", "pi = 3.1415926535 8979323846", "0.1234567890",
    "3.636 947 5516 e-4", "0.761 786 1313", "[0.39110955, 0.33281393]", "0.61 +/- 0.544475",
    "x + 13478400000*I", "6.332362889 + 45.92828268*I", "arange(6) + 98172488",
    "clause 252.227-7013", "939.565 4133", "pp. 239-251. 1945", "default_rng(8143215468)",
    "4111 1111 1111 1112", "1234 5678 9012 3456", "0000 0000 0000 0000",
    "4111 1111 1111 1111 1111", "9111 1111 1111 1111", "lot 4000000000000002123",
    "DE89 3704 0044 0532 0130 01", "100 200 300 400 500", "1 2 3 4 5 6 7 8 9 10",
    "1800 1900 2000 2100", "60 80 100 120 140 160", "1/2/3/4/5/6/7/8", "100-200-3000",
    "score 21-15 21-18", "+1000000000", "+100 %", "room 101, floor 12, seat 34567",
    "7 days, 24 hours, 365 days 2024", "(1990) 12 (3): 345-367", "", "a red chair", "12",
]  # fmt: skip


def marked(text: str, region: str | None = None) -> tuple[str, set[str]]:
    """`text` with « » around the finds, and their kinds."""
    found = find(text, region)
    for one in reversed(found):
        text = f"{text[: one.start]}«{text[one.start : one.end]}»{text[one.end :]}"
    return text, {one.kind for one in found}


POSITIVE = [
    (kind, text)
    for kind, texts in zip(KINDS, (EMAILS, IBANS, CARDS, PHONES), strict=True)
    for text in texts
]


@pytest.mark.parametrize("region", [None, "US", "DE", "GB"])
@pytest.mark.parametrize(("kind", "text"), POSITIVE)
def test_found(kind: str, text: str, region: str | None) -> None:
    plain = text.replace("«", "").replace("»", "")
    assert marked(plain, region) == (text, {kind})


@pytest.mark.parametrize(("region", "text"), NATIONAL_PHONES)
def test_national_phone_numbers(region: str, text: str) -> None:
    plain = text.replace("«", "").replace("»", "")
    assert marked(plain, region) == (text, {"phone"})
    assert find(plain) == []


@pytest.mark.parametrize("region", [None, "US", "DE", "GB", "FR", "ES"])
@pytest.mark.parametrize("text", NOTHING)
def test_left_alone(text: str, region: str | None) -> None:
    assert marked(text, region) == (text, set())


def test_mask() -> None:
    text = "call +49 30 901820, write to jo@example.org, pay 4242424242424242 or NL91ABNA0417164300"
    masked = "call [phone], write to [e-mail], pay [card] or [iban]"
    assert mask(text) == masked
    assert mask(masked) == masked
    assert without_masks(masked).split() == ["call", ",", "write", "to", ",", "pay", "or"]
    assert mask("nothing [here]") == "nothing [here]"


def test_one_text_counts_once() -> None:
    # A local part of digits is no phone number besides.
    assert [one.kind for one in find("4155552671@example.com", "US")] == ["e-mail"]
    assert [one.kind for one in find("+4915112345678@example.com")] == ["e-mail"]


@given(st.text("0123456789 +-().@/a[t]e.xDE", max_size=60))
def test_any_text(text: str) -> None:
    found = find(text, "DE")
    assert all(0 <= one.start < one.end <= len(text) for one in found)
    assert all(a.end <= b.start for a, b in pairwise(found))


def test_regions() -> None:
    check_region(None)
    check_region("DE")
    with pytest.raises(ValueError, match=r"phone_region: 'de' is no country .*did you mean DE"):
        check_region("de")
