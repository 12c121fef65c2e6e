"""Normalised text: a table of what people write and what readers say, and what always holds."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asr.normalize import normalize_text

TABLE = [
    ("", ""),
    (" \t\n", ""),
    ("HE HOPED THERE WOULD BE STEW FOR DINNER", "he hoped there would be stew for dinner"),
    ("Hello, world! -- Yes... (no?)", "hello world yes no"),
    ("well-known semi_open a/b", "well known semi open a b"),
    ("Café naïve Ångström œuvre Straße Łódź Æsop", "cafe naive angstrom oeuvre strasse lodz aesop"),
    ("ﬁne ＦＵＬＬ co\u00adoperate", "fine full cooperate"),
    ("mr. Brown, Mrs. Smith and Dr. Who", "mister brown missus smith and doctor who"),
    # apostrophes
    ("Don’t, it‘s O'Neil´s", "don't it's o'neil's"),
    ("'Tis the boys' dog goin' home", "'tis the boys' dog goin' home"),
    ("'Who is this' he said", "who is this he said"),
    ("“Yes,” she said. ''No''", "yes she said no"),
    ("get 'em", "get 'em"),
    ("'' ' '", ""),
    ("rock 'n' roll", "rock n roll"),
    # numbers
    ("0 7 13 21 100", "zero seven thirteen twenty one one hundred"),
    ("1,234 men", "one thousand two hundred and thirty four men"),
    ("1,234,567", "one million two hundred and thirty four thousand five hundred and sixty seven"),
    ("007", "zero zero seven"),
    ("-5 and −6, 3-4", "minus five and minus six three four"),
    ("3.14 or .5 or 1.2.3", "three point one four or point five or one two three"),
    ("mp3 3d", "mp three three d"),
    ("2½ or ¾", "two and a half or three quarters"),
    ("٣ cats", "three cats"),
    ("x²", "x two"),
    ("9" * 40, " ".join(["nine"] * 40)),
    # ordinals
    ("1st 2nd 3rd 21st 100th", "first second third twenty first one hundredth"),
    ("the 1,000th", "the one thousandth"),
    # years and decades
    ("in 1999.", "in nineteen ninety nine"),
    ("1066, 1805, 1900", "one thousand and sixty six eighteen oh five nineteen hundred"),
    ("2005 2024", "two thousand and five twenty twenty four"),
    ("the 1920s, '80s and 1890's", "the nineteen twenties eighties and eighteen nineties"),
    ("1,999", "one thousand nine hundred and ninety nine"),
    # times
    ("10:30 9:05 12:00", "ten thirty nine oh five twelve o'clock"),
    # money and signs
    ("$20", "twenty dollars"),
    ("$1", "one dollar"),
    ("£3.50", "three pounds and fifty pence"),
    ("$0.01", "one cent"),
    ("$1.5 million", "one point five million dollars"),
    ("€5 million", "five million euros"),
    ("$1,000.00", "one thousand dollars"),
    ("20 €", "twenty euros"),
    ("50% & 20°", "fifty percent and twenty degrees"),
    ("me@home", "me at home"),
    ("Война и мир", ""),
]


@pytest.mark.parametrize(("text", "expected"), TABLE)
def test_table(text, expected):
    assert normalize_text(text) == expected


def test_docstring_example():
    assert normalize_text("Mr. O'Neil's café made $20.50 on May 3rd, 1999!") == (
        "mister o'neil's cafe made twenty dollars and fifty cents on may third nineteen ninety nine"
    )


PIECES = st.sampled_from([*"0123456789.,:-'$€% ’½", "st", "th", "s", "million", "a", "in", "'"])


@settings(deadline=None)
@given(st.one_of(st.text(), st.lists(PIECES, max_size=30).map("".join)))
@example("\ud800")
@example("1" * 5000)
@example("$" + "1" * 5000 + ".55")
@example("1" * 5000 + "th")
def test_every_text_comes_out_normal_and_stays_so(text):
    once = normalize_text(text)
    assert re.fullmatch(r"(?:'?[a-z](?:[a-z']*[a-z])?'?(?: |$))*", once) and "''" not in once
    assert once == once.strip() and "  " not in once
    assert normalize_text(once) == once


@settings(deadline=None)
@given(st.integers(0, 10**9))
def test_integers_are_the_words_of_the_library(number):
    from num2words import num2words

    if not 1100 <= number < 2100:  # those are years
        expected = num2words(number).replace(",", "").replace("-", " ")
        assert normalize_text(f"{number:,}") == normalize_text(str(number)) == expected
