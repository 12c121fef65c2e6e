"""The pronunciation lexicon: phones of words, listed or, for any other word, from its letters.

It gives a network's phone head its targets and a word search the tree of what can be said.
`recipes/lexicon` makes one. Two files hold the same: text as in Kaldi's ``lexicon.txt``, a word
and its phones a line, and a compact one for a model's directory, which knows letter-to-sound too.
"""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from asr.g2p import LetterToSound, letter_ids
from asr.texts import READ_ERRORS, open_text

FORMAT = "lexicon 1"
INITIAL = "_B"  # behind the name of a phone that begins a word, as in Kaldi
_LONGEST = 255  # letters of a word, phones of a pronunciation, and phones of an inventory
_WORD = re.compile("[a-z']+")
_VOWELS = frozenset("aeiouy")
_MALFORMED = (KeyError, TypeError, AttributeError, ValueError)  # raised by a header that is
_PACKED = 12  # letters of five bits that fit into an integer

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]


class LexiconError(ValueError):
    """A lexicon's file is missing, damaged or none."""


class Lexicon:
    """Phones of words. Phone i of `phones` has id i + 1; 0 is left to CTC's blank.

    With `word_initial`, a word's first phone has an id of its own, that of the phone plus their
    number: a network then hears where words begin.

    Args:
        phones: Names, at most 255, or 127 with `word_initial`.
        words: Of a-z and apostrophes in ASCII, sorted, none twice, a 0 behind each.
        pronunciations: Phones of these words, at least one each, a 0 behind each.
        letter_to_sound: Says what is not listed.
        word_initial: See above.

    Raises:
        ValueError: Words or pronunciations are not as said, or phones are too many.
    """

    def __init__(
        self,
        phones: Sequence[str],
        words: bytes,
        pronunciations: bytes,
        letter_to_sound: LetterToSound,
        word_initial: bool = False,
    ) -> None:
        self.phones = tuple(phones)
        self.letter_to_sound = letter_to_sound
        self.word_initial = word_initial
        self._words, self._pronunciations = words, pronunciations
        self._flat = np.frombuffer(pronunciations, np.uint8)
        self._starts, self._lengths = _rows_of(pronunciations)
        # No dictionary: 200,000 strings take longer to make, and to find, than sorted integers.
        starts, lengths = _rows_of(words)
        letters = np.frombuffer(words, np.uint8)
        short = lengths <= _PACKED
        keys = _pack(letters[letters > 0], lengths)
        # Behind the last key stands one that no word has.
        self._keys = np.append(keys[short], np.iinfo(np.int64).max)
        self._short = np.append(np.flatnonzero(short), -1)
        self._long = {
            words[starts[row] : starts[row] + lengths[row]].decode(): row
            for row in np.flatnonzero(~short).tolist()
        }
        if (
            len(lengths) != len(self._lengths)
            or (np.diff(keys) < 0).any()
            or (np.diff(self._keys) <= 0).any()
            or not (self._lengths > 0).all()
            or self._flat.max(initial=0) > len(phones)
        ):
            raise ValueError("found words and pronunciations that do not match")
        if self.num_labels - 1 > _LONGEST:  # a byte each
            raise ValueError(
                f"found {self.num_labels - 1} phones, wanted at most {_LONGEST}, those that begin "
                "words included"
            )
        self._cache: dict[str, tuple[int, ...]] = {}

    @classmethod
    def fit(cls, phones: Sequence[str], listed: Mapping[str, Sequence[int]]) -> Lexicon:
        """Make a lexicon, and learn letter-to-sound from its words.

        Args:
            phones: Names of phones, at most 255.
            listed: Phone ids of words of a-z and apostrophes.
        """
        words = sorted(listed)
        letter_to_sound = LetterToSound.fit(words, [listed[word] for word in words])
        text = "".join(f"{word}\0" for word in words).encode("ascii")
        pronunciations = b"".join(bytes([*listed[word], 0]) for word in words)
        return cls(phones, text, pronunciations, letter_to_sound)

    def mark_initials(self) -> Lexicon:
        """Return the same with ids of their own for the first phones of words.

        Raises:
            ValueError: There are too many phones.
        """
        sound = self.letter_to_sound
        return Lexicon(self.phones, self._words, self._pronunciations, sound, word_initial=True)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Of the blank, which has none, and of all phone ids."""
        initial = [phone + INITIAL for phone in self.phones if self.word_initial]
        return ("", *self.phones, *initial)

    @property
    def num_labels(self) -> int:
        """Phone ids and the blank."""
        return len(self.label_names)

    @property
    def words(self) -> list[str]:
        """All that is listed, sorted."""
        return self._words.decode("ascii").split("\0")[:-1]

    def __contains__(self, word: str) -> bool:
        return bool(self._find([word])[0] >= 0)

    def __len__(self) -> int:
        return len(self._lengths)

    def pronounce(self, word: str) -> tuple[int, ...]:
        """Return the phone ids of a word of a-z and apostrophes, none if nothing can be said.

        A word that is not listed is said by its letters, or spelled if it lacks a vowel.
        """
        phones = self._cache.get(word)
        if phones is None:
            padded, _ = self.pronunciations([word])
            phones = self._cache[word] = tuple(padded[0].tolist())
        return phones

    def encode(self, text: str) -> list[int]:
        """Return the phone ids of a normalised text, its words joined."""
        return [phone for word in text.split() for phone in self.pronounce(word)]

    def pronunciations(self, words: Sequence[str]) -> tuple[Bytes, Ints]:
        """Return the phone ids of words, (N, L) with 0 behind their ends, and lengths (N,)."""
        rows = self._find(words)
        unlisted = np.flatnonzero(rows < 0)
        starts, lengths, flat = self._starts[rows], self._lengths[rows], self._flat
        if len(unlisted):
            guesses = self._guess([words[index] for index in unlisted.tolist()])
            lengths[unlisted] = [len(guess) for guess in guesses]
            starts[unlisted] = len(flat) + lengths[unlisted].cumsum() - lengths[unlisted]
            flat = np.concatenate([flat, np.frombuffer(b"".join(guesses), np.uint8)])
        padded = np.zeros((len(rows), int(lengths.max(initial=0))), np.uint8)
        index = np.repeat(starts, lengths) + _columns(lengths)
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = flat[index]
        if self.word_initial:
            padded[lengths > 0, :1] += np.uint8(len(self.phones))
        return padded, lengths

    def _find(self, words: Sequence[str]) -> Ints:
        """Return the row (N,) of each word, -1 for those that are not listed."""
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        letters = "".join(words).encode("ascii", "replace")  # one byte a character
        keys = _pack(np.frombuffer(letters, np.uint8), lengths)
        order = keys.argsort()  # neighbours are found faster one after the other
        place = np.empty(len(keys), np.int64)
        place[order] = self._keys.searchsorted(keys[order])
        found = (self._keys[place] == keys) & (lengths <= _PACKED)
        rows = np.where(found, self._short[place], -1)
        for index in np.flatnonzero(lengths > _PACKED).tolist():
            rows[index] = self._long.get(words[index], -1)
        return rows

    def _guess(self, words: Sequence[str]) -> list[bytes]:
        said = self.letter_to_sound.pronounce(words)
        for index, word in enumerate(words):
            letters = word.replace("'", "")
            if not _VOWELS.intersection(letters) and (self._find(letters) >= 0).all():
                spelled = [phone for letter in letters for phone in self.pronounce(letter)]
                said[index] = [(phone - 1) % len(self.phones) + 1 for phone in spelled]
        return [bytes(phones) for phones in said]

    @classmethod
    def read(cls, path: str | Path) -> Lexicon:
        """Read text: a word and its phones a line; .gz and .xz are unpacked.

        Phones are numbered in the order of their names. Words are read in lower case; those with
        other characters than a-z and apostrophes, such as ``<unk>``, are passed over, and so are
        second pronunciations.

        Raises:
            LexiconError: The file is missing, damaged or no lexicon.
        """
        listed: dict[str, list[str]] = {}
        for where, word, phones in _read_lines(Path(path)):
            if not phones or max(len(word), len(phones)) > _LONGEST:
                raise LexiconError(
                    f"{where}: found {word[:40]!r} with {len(phones)} phones, wanted a word and "
                    f"1 to {_LONGEST} phones"
                )
            if _WORD.fullmatch(word):
                listed.setdefault(word, phones)
        names = sorted({phone for phones in listed.values() for phone in phones})
        if not 0 < len(names) <= _LONGEST:
            raise LexiconError(
                f"{path}: found {len(listed):,} words with {len(names):,} different phones, "
                f"wanted 1 to {_LONGEST}"
            )
        ids = {name: index + 1 for index, name in enumerate(names)}
        return cls.fit(names, {w: [ids[phone] for phone in listed[w]] for w in listed})

    @classmethod
    def open(cls, path: str | Path) -> Lexicon:
        """Read a file of either kind: compact if its name ends in .safetensors, else text.

        Raises:
            LexiconError: The file is missing, damaged or no lexicon.
        """
        return cls.load(path) if Path(path).suffix == ".safetensors" else cls.read(path)

    def save(self, path: str | Path) -> None:
        """Write the compact file."""
        sound = self.letter_to_sound
        # Small steps from one window to the next: their high bytes, side by side, are mostly 0.
        steps = np.diff(sound.windows, prepend=0).astype("<i8").view(np.uint8).reshape(-1, 8)
        tables = {
            "words": self._words,
            "pronunciations": self._pronunciations,
            "chunks": sound.chunks.tobytes(),
            "windows": steps.T.tobytes(),
            "decisions": sound.decisions.tobytes(),
        }
        packed = {
            name: np.frombuffer(lzma.compress(table, preset=9), np.uint8)
            for name, table in tables.items()
        }
        # One entry: safetensors writes several in any order.
        marks = {"word_initial": True} if self.word_initial else {}
        header = json.dumps({"format": FORMAT, "phones": self.phones, **marks}, ensure_ascii=False)
        temporary = Path(f"{path}.tmp")
        save_file(packed, temporary, {"lexicon": header})
        temporary.chmod(0o644)  # safetensors lets nobody else read
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Lexicon:
        """Read the compact file.

        Raises:
            LexiconError: The file is missing, damaged or no lexicon.
        """
        try:
            with safe_open(path, "np") as file:
                header = json.loads((file.metadata() or {}).get("lexicon", "{}"))
                if header.get("format") != FORMAT:
                    found = header.get("format")
                    raise ValueError(f"found format {found!r}, wanted {FORMAT!r}")
                words, pronunciations, chunks, windows, decisions = (
                    lzma.decompress(file.get_tensor(name))
                    for name in ("words", "pronunciations", "chunks", "windows", "decisions")
                )
            steps = np.frombuffer(windows, np.uint8).reshape(8, -1).T.copy().view("<i8")[:, 0]
            sound = LetterToSound(
                np.frombuffer(chunks, np.uint8).reshape(-1, 2),
                steps.astype(np.int64).cumsum(),
                np.frombuffer(decisions, np.uint8),
            )
            marked = bool(header.get("word_initial"))
            return cls(header["phones"], words, pronunciations, sound, marked)
        except (OSError, SafetensorError, lzma.LZMAError, *_MALFORMED) as error:
            raise LexiconError(f"{path}: not a lexicon: {error}") from error


def _read_lines(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Yield where each line stands, its word and its phones, without empty lines."""
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                if fields := line.split():
                    yield f"{path}:{number}", fields[0].lower(), fields[1:]
    except READ_ERRORS as error:
        reason = getattr(error, "strerror", None) or error
        raise LexiconError(f"{path}: cannot be read as a lexicon: {reason}") from error


def _rows_of(table: bytes) -> tuple[Ints, Ints]:
    """Return where the rows of a table with a 0 behind each start, and their lengths."""
    ends = np.flatnonzero(np.frombuffer(table, np.uint8) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    return starts, ends - starts


def _columns(lengths: Ints) -> Ints:
    """Return 0, 1, 2, … for each row of some lengths (N,), one after the other."""
    return np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)


def _pack(letters: Bytes, lengths: Ints) -> Ints:
    """Return the first letters of each word as one integer (N,), in the order of the words.

    Args:
        letters: (X,) ASCII of all words, one after the other.
        lengths: (N,) letters of each.
    """
    one = np.zeros(len(letters) + _PACKED, np.int64)
    one[: len(letters)] = letter_ids(letters)
    two = (one[:-1] << 5) | one[1:]  # the two letters from each place on
    four = (two[:-2] << 10) | two[2:]
    starts = lengths.cumsum() - lengths
    keys: Ints = (four[starts] << 40) | (four[starts + 4] << 20) | four[starts + 8]
    behind = 5 * np.maximum(_PACKED - lengths, 0)  # bits of the next words' letters
    keys = (keys >> behind) << behind
    return keys
