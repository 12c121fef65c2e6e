"""Bring any text into the one form that the recogniser knows: a-z, apostrophes, single spaces.

>>> normalize_text("Mr. O'Neil's café made $20.50 on May 3rd, 1999!")
"mister o'neil's cafe made twenty dollars and fifty cents on may third nineteen ninety nine"
"""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

_CURRENCIES = {  # sign: words for one and many, and for one and many hundredths
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "sen", "sen"),
}
_SIGNS = {
    "&": "and",
    "%": "percent",
    "+": "plus",
    "=": "equals",
    "@": "at",
    "°": "degrees",
    "×": "times",
    "÷": "divided by",
} | {sign: words[1] for sign, words in _CURRENCIES.items()}
_FRACTIONS = {
    "½": ("one half", "a half"),
    "¼": ("one quarter", "a quarter"),
    "¾": ("three quarters", "three quarters"),
}
# Letters that Unicode does not take apart into a letter and an accent, and kinds of signs.
_LETTERS = str.maketrans(
    {"æ": "ae", "œ": "oe", "ø": "o", "ð": "d", "þ": "th", "ł": "l", "đ": "d", "ı": "i"}
)
_MARKS = str.maketrans(dict.fromkeys("’‘ʼʹ′`´＇‛", "'") | {"−": "-"})
_TITLES = {"mr": "mister", "mrs": "missus", "dr": "doctor"}  # as the readers of LibriSpeech say
_ELISIONS = frozenset(
    "tis twas twere twill twould em cause til till bout round neath gainst".split()
)
_MOST_DIGITS = 36  # beyond, nobody has names for them: such numbers are read digit by digit

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_FRACTION = re.compile(rf"(\d)?\s?([{''.join(_FRACTIONS)}])")
_CURRENCY = re.compile(
    rf"([{re.escape(''.join(_CURRENCIES))}])\s?({_NUMBER})(?:\.(\d+))?"
    r"(?:\s(hundred|thousand|million|billion|trillion)\b)?"
)
_DECADE = re.compile(r"(?<![\w.,])(1[1-9]\d0|20\d0)'?s\b")
_SHORT_DECADE = re.compile(r"(?<![\w.,])'?([2-9]0)'?s\b")
_ORDINAL = re.compile(rf"(?<![\d.])({_NUMBER})(?:st|nd|rd|th)\b")
_TIME = re.compile(r"(?<![\d:.,])([01]?\d|2[0-4]):([0-5]\d)(?![\d:])")
_MINUS = re.compile(r"(?<![\w)])-(?=\.?\d)")
_DECIMAL = re.compile(rf"(?<![\d.])(?:({_NUMBER})|(?<!\w))\.(\d+)(?!\.?\d)")
_YEAR = re.compile(r"(?<![\d.,])(1[1-9]\d\d|20[1-9]\d)(?![\d,]*\d|\.\d)")
_INTEGER = re.compile(_NUMBER)


def normalize_text(text: str) -> str:
    """Spell a text with a-z, apostrophes and single spaces only.

    Case and accents go; numbers, ordinals, years, times, money, common signs and titles become
    words; other punctuation, and letters that are not Latin, become space. An apostrophe stays
    inside a word (don't), before a shortened one ('tis) and after s or in (the boys', goin'),
    unless a quotation opened before. Normalising again changes nothing.
    """
    text = _fold(text)
    if not text.isascii() or re.search(r"\d", text):  # most sentences of books have neither
        text = _spell_numbers(text)
    for sign, word in _SIGNS.items():
        text = text.replace(sign, f" {word} ")
    text = re.sub(r"[^a-z']+|''+", " ", text)
    words = text.split()
    if "'" in text:
        words = _settle_apostrophes(words)
    return " ".join(_TITLES.get(word, word) for word in words)


def _fold(text: str) -> str:
    """Lower the case, take accents off, and write ligatures and wide forms in plain letters."""
    if text.isascii():
        return text.lower()
    text = _FRACTION.sub(_fraction, text.translate(_MARKS))
    text = unicodedata.normalize("NFKD", text.casefold()).casefold()
    # Accents stand alone now; format characters (soft hyphens, joiners) have no sound.
    text = "".join(char for char in text if unicodedata.category(char) not in ("Mn", "Cf"))
    return text.translate(_LETTERS)


def _settle_apostrophes(words: list[str]) -> list[str]:
    """Keep the apostrophes that belong to words, and drop those that quote."""
    settled = []
    quoting = False
    for word in words:
        bare = word.strip("'")
        if not bare:
            continue
        before, after = word.startswith("'"), word.endswith("'")
        elided = before and bare in _ELISIONS
        quoting = quoting or (before and not elided)
        dropped = after and bare.endswith(("s", "in")) and not quoting
        if after:
            quoting = False
        settled.append("'" * elided + bare + "'" * dropped)
    return settled


def _spell_numbers(text: str) -> str:
    """Replace everything with digits by words, the more special forms first."""
    steps: list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = [
        (_CURRENCY, _money),
        (_DECADE, lambda match: _plural(_words(match[1], "year"))),
        (_SHORT_DECADE, lambda match: _plural(_words(match[1]))),
        (_ORDINAL, lambda match: _words(match[1], "ordinal")),
        (_TIME, _time),
        (_MINUS, lambda _: "minus"),
        (_DECIMAL, lambda match: _decimal(match[1], match[2])),
        (_YEAR, lambda match: _words(match[1], "year")),
        (_INTEGER, lambda match: _words(match[0])),
    ]
    for pattern, spell in steps:
        text = pattern.sub(lambda match, spell=spell: f" {spell(match)} ", text)  # type: ignore[misc]
    return text


@lru_cache(maxsize=4096)
def _words(digits: str, kind: str = "cardinal") -> str:
    """Spell digits, with or without commas, as a cardinal, ordinal or year."""
    from num2words import num2words

    digits = digits.replace(",", "")
    leading_zero = len(digits) > 1 and int(digits[0]) == 0
    if leading_zero or len(digits) > _MOST_DIGITS:
        return _one_by_one(digits)
    return str(num2words(int(digits), to=kind))


def _one_by_one(digits: str) -> str:
    return " ".join(_words(digit) for digit in digits)


def _decimal(whole: str | None, digits: str) -> str:
    return f"{_words(whole) if whole else ''} point {_one_by_one(digits)}"


def _money(match: re.Match[str]) -> str:
    sign, whole, digits, magnitude = match.groups()
    one, many, hundredth, hundredths = _CURRENCIES[sign]
    if magnitude or (digits and len(digits) != 2):
        number = _decimal(whole, digits) if digits else _words(whole)
        return f"{number} {magnitude or ''} {many}"
    value, rest = int(whole.replace(",", "")[:20]), int(digits or 0)
    units = f"{_words(whole)} {one if value == 1 else many}"
    if rest == 0:
        return units
    parts = f"{_words(str(rest))} {hundredth if rest == 1 else hundredths}"
    return parts if value == 0 else f"{units} and {parts}"


def _time(match: re.Match[str]) -> str:
    hour, minute = _words(str(int(match[1]))), int(match[2])
    if minute == 0:
        return f"{hour} o'clock"
    return f"{hour} {'oh ' if minute < 10 else ''}{_words(str(minute))}"


def _fraction(match: re.Match[str]) -> str:
    digit, sign = match.groups()
    alone, behind = _FRACTIONS[sign]
    return f"{digit} and {behind} " if digit else f" {alone} "


def _plural(words: str) -> str:
    return words[:-1] + "ies" if words.endswith("y") else words + "s"
