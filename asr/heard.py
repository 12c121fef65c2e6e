"""What a recogniser heard where known words were said, to be put together to other texts.

A decoder that reads phones has to know how they look when they come from sound: how long they
last, what they are taken for, and how sure the recogniser is. All that is in the probabilities of
recordings whose texts are known. Cut where the alignment says that a phone begins, they can be
joined to any text: words as they were said, and other words of phones between the same neighbours
(as speech is made in Hunt and Black, "Unit selection in a concatenative speech synthesis system",
1996). `scripts/collect_heard.py` makes such a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from asr.lexicon import Lexicon

Ints = NDArray[np.int64]
Floats = NDArray[np.float16]

_WHOLE_WORDS = 0.8  # share of the words that are taken as they were said, where they were
_FORMAT = "heard phones 1"


class HeardError(ValueError):
    """A file of heard phones is missing or damaged, or nothing was heard."""


@dataclass(frozen=True)
class HeardRecording:
    """A recording as a recogniser heard it.

    Attributes:
        probabilities: (L, P) of the blank (0) and of phones in each CTC label.
        path: (L,) the alignment: which of them each label says.
        words: (phones, text) of each word.
    """

    probabilities: Floats
    path: Ints
    words: Sequence[tuple[tuple[int, ...], str]]


@dataclass(frozen=True, eq=False)
class HeardPhones:
    """Recordings, one behind the other: N CTC labels with M phones.

    Attributes:
        probabilities: (N, P) float16, of the blank (0) and of phones.
        phones: (M,) what was said; 0 for what lies before the first phone of a recording.
        starts: (M,) labels where they begin, rising.
        word_starts: (M,) bool, True where a word begins.
        words: All that were said, in the same order.
    """

    probabilities: Floats
    phones: Ints
    starts: Ints
    word_starts: NDArray[np.bool_]
    words: tuple[str, ...]

    @classmethod
    def collect(cls, recordings: Sequence[HeardRecording]) -> HeardPhones:
        """Join recordings; those whose alignment says other phones than their words are left out.

        Raises:
            HeardError: None is left.
        """
        kept, phones, starts, word_starts, words = [], [], [], [], []
        size = 0
        for one in recordings:
            begins = np.flatnonzero((one.path != 0) & (one.path != np.append(0, one.path[:-1])))
            said = [phone for spoken, _ in one.words for phone in spoken]
            silent = not said or not all(spoken for spoken, _ in one.words)
            if silent or one.path[begins].tolist() != said or begins[0] == 0:
                continue
            first = np.zeros(len(said) + 1, bool)
            first[np.cumsum([1, *(len(spoken) for spoken, _ in one.words)])[:-1]] = True
            kept.append(one.probabilities)
            phones.append(np.append(0, said))
            starts.append(np.append(0, begins) + size)
            word_starts.append(first)
            words += [text for _, text in one.words]
            size += len(one.path)
        if not kept:
            raise HeardError("heard phones: found no recording with words that can be aligned")
        joined = np.concatenate
        return cls(joined(kept), joined(phones), joined(starts), joined(word_starts), tuple(words))

    def read(self, text: str, lexicon: Lexicon, chance: np.random.Generator) -> Ints:
        """Return the labels (L,) that, one behind the other, sound like a text.

        A phone that nobody ever said is left out.
        """
        words = text.split()
        spoken = [lexicon.pronounce(word) for word in words]
        phones = np.array(list(chain.from_iterable(spoken)), np.int64)
        ends = np.cumsum([len(one) for one in spoken], dtype=np.int64)
        finals = np.zeros(len(phones), bool)
        finals[[end - 1 for end, one in zip(ends.tolist(), spoken, strict=True) if one]] = True
        places = self._choose(phones, finals, chance)
        for word, one, end in zip(words, spoken, ends.tolist(), strict=True):
            said = self._word_places.get(word)
            if said is None or chance.random() >= _WHOLE_WORDS:
                continue
            first = int(said[chance.integers(len(said))])
            if self.phones[first : first + len(one)].tolist() == list(one):
                places[end - len(one) : end] = np.arange(first, first + len(one))
        silence = self._silences[chance.integers(len(self._silences))]
        return self._labels_of(np.append(silence, places[places >= 0]))

    @cached_property
    def _finals(self) -> NDArray[np.bool_]:
        """Where a word ends."""
        return np.append(self.word_starts[1:] | (self.phones[1:] == 0), True)

    @cached_property
    def _silences(self) -> Ints:
        return np.flatnonzero(self.phones == 0)

    @cached_property
    def _word_places(self) -> dict[str, Ints]:
        """The phones with which each word begins."""
        found, which = np.unique(np.array(self.words), return_inverse=True)
        borders = np.bincount(which).cumsum()[:-1]
        places = np.flatnonzero(self.word_starts)[which.argsort(kind="stable")]
        return dict(zip(found.tolist(), np.split(places, borders), strict=True))

    @cached_property
    def _contexts(self) -> list[tuple[Ints, Ints]]:
        """Keys of all phones, sorted, and their places, from narrow to wide contexts."""
        found = []
        for keys in _context_keys(self.phones, self._finals):
            order = keys.argsort(kind="stable")
            found.append((keys[order], order))
        return found

    def _choose(self, phones: Ints, finals: NDArray[np.bool_], chance: np.random.Generator) -> Ints:
        """Return places of phones (n,) between the same neighbours, as far as there are such."""
        places = np.full(len(phones), -1, np.int64)
        wanted = _context_keys(phones, finals)
        for keys, (known, order) in zip(wanted, self._contexts, strict=True):
            low, high = known.searchsorted(keys), known.searchsorted(keys, "right")
            luck = low + (chance.random(len(keys)) * (high - low)).astype(np.int64)
            usable = (places < 0) & (high > low)
            places[usable] = order[luck[usable]]
        return places

    @cached_property
    def _lengths(self) -> Ints:
        """How many labels each phone has (M,), those of silence behind it included."""
        return np.diff(self.starts, append=len(self.probabilities))

    def _labels_of(self, places: Ints) -> Ints:
        lengths = self._lengths[places]
        offsets = self.starts[places] - (lengths.cumsum() - lengths)
        labels = np.repeat(offsets, lengths) + np.arange(lengths.sum())
        return labels.astype(np.int64)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        tensors: dict[str, NDArray[Any]] = {
            "probabilities": self.probabilities,
            "phones": self.phones.astype(np.uint8),
            "starts": self.starts.astype(np.int32),
            "word_starts": self.word_starts.view(np.uint8),
            "words": np.frombuffer(" ".join(self.words).encode(), np.uint8),
        }
        temporary = Path(f"{path}.tmp")
        save_file(tensors, temporary, {"format": _FORMAT})
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path, num_labels: int) -> HeardPhones:
        """Read a file.

        Args:
            path: Of `save`.
            num_labels: P, the blank and the phones of the lexicon.

        Raises:
            HeardError: It is missing or damaged, or of other phones.
        """
        try:
            with safe_open(path, "np") as file:
                found = (file.metadata() or {}).get("format")
                if found != _FORMAT:
                    raise ValueError(f"found format {found!r}, wanted {_FORMAT!r}")
                stored = {name: file.get_tensor(name) for name in list(file.keys())}
            heard = cls(
                stored["probabilities"],
                stored["phones"].astype(np.int64),
                stored["starts"].astype(np.int64),
                stored["word_starts"].astype(bool),
                tuple(stored["words"].tobytes().decode().split(" ")),
            )
            heard._check(num_labels)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise HeardError(f"{path}: not a file of heard phones: {error}") from error
        return heard

    def _check(self, num_labels: int) -> None:
        if self.probabilities.shape[1:] != (num_labels,):
            raise ValueError(
                f"found probabilities of shape {self.probabilities.shape}, wanted those of "
                f"{num_labels - 1} phones and the blank"
            )
        fits = (
            0 < len(self.phones) == len(self.starts) == len(self.word_starts)
            and self.phones[0] == self.starts[0] == 0
            and bool((np.diff(self.starts) > 0).all())
            and int(self.starts[-1]) < len(self.probabilities)
            and int(self.phones.max()) < num_labels
            and int(self.word_starts.sum()) == len(self.words)
        )
        if not fits:
            raise ValueError("its phones, words and labels do not fit together")


def _context_keys(phones: Ints, finals: NDArray[np.bool_]) -> list[Ints]:
    """Return numbers that are alike where phones are, and more: from narrow to wide contexts.

    Both neighbours, the next one, and whether a word ends, behind which there may be a pause.
    """
    alone = phones * 2 + finals
    behind = np.append(phones[1:], 0) << 10
    before = np.append(0, phones[:-1]) << 20
    return [before + behind + alone, behind + alone, alone, phones]
