"""Training utterances put together anew from words, against learning their texts by heart.

A network that hears the same few thousand sentences in every pass learns what follows what, which
says nothing about other sentences. Here utterances are cut between words, and the pieces of a
batch are dealt out again, within each utterance or among all of them (after Lam et al.,
"On-the-fly aligned data augmentation for sequence-to-sequence ASR", 2021). Where the words lie is
read from a CTM file, which `scripts/align_manifests.py` writes; so do other aligners.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.batch import Batch
from asr.config import AugmentConfig
from asr.tokenizer import CharTokenizer

Piece = tuple[Tensor, str]  # sound (N,) and what is said in it

_FADE_SECONDS = 0.005  # at both ends of a piece, against clicks
_STRANGERS = 1000  # utterances without word times, of which one at least should have some


@dataclass(frozen=True)
class WordTimes:
    """The words of an utterance and where they lie.

    Attributes:
        text: All words, with single spaces.
        borders: (W - 1,) seconds, the middle between the end of a word and the start of the next.
    """

    text: str
    borders: npt.NDArray[np.float32]


def ctm_name(name: str) -> str:
    """Return the id of an utterance as a CTM file holds it, without spaces."""
    return "_".join(name.split())


def read_word_times(paths: Sequence[str]) -> dict[str, WordTimes]:
    """Read CTM files: lines of ``id channel start duration word``, and more that is ignored.

    Args:
        paths: Files; of several with the same utterance, the last one counts.

    Returns:
        The words by the ids of their utterances, as of `ctm_name`.

    Raises:
        ValueError: A file cannot be read, or a line is no CTM; it begins with file and line.
    """
    words: dict[str, list[tuple[float, float, str]]] = {}
    for path in paths:
        words |= _read_ctm(path)
    times = {}
    for name, said in words.items():
        said.sort(key=lambda word: word[0])
        borders = [(a[1] + b[0]) / 2 for a, b in pairwise(said)]
        text = " ".join(word for _, _, word in said)
        times[name] = WordTimes(text, np.array(borders, dtype=np.float32))
    return times


def _read_ctm(path: str) -> dict[str, list[tuple[float, float, str]]]:
    words: dict[str, list[tuple[float, float, str]]] = {}
    number = 0
    try:
        with Path(path).open(encoding="utf-8") as file:
            for line in file:
                number += 1
                fields = line.split()
                if fields and not line.startswith(";;"):
                    start, seconds = float(fields[2]), float(fields[3])
                    words.setdefault(fields[0], []).append((start, start + seconds, fields[4]))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"{path}, line {number}: found no CTM, wanted: id channel start duration word"
        ) from error
    return words


class Splicer:
    """Cuts and deals the utterances of batches.

    Args:
        times: Of the words, from `read_word_times`. Utterances that are not among them, or
            with another text, stay whole.
        config: How many utterances are cut, and into what.
        tokenizer: Of the batches.
        sample_rate: Hz of the batches.
    """

    def __init__(
        self,
        times: Mapping[str, WordTimes],
        config: AugmentConfig,
        tokenizer: CharTokenizer,
        sample_rate: int,
    ) -> None:
        self.times = times
        self.config = config
        self.tokenizer = tokenizer
        self.sample_rate = sample_rate
        self.strangers = 0

    def __call__(self, batch: Batch, chance: random.Random) -> Batch:
        """Return a batch of the same words, on the CPU.

        Of two utterances that are cut, one gets its own pieces in another order, and one those
        of any that are cut so; there are as many utterances as before. With ``splice_seconds``
        a whole batch is cut or none of it, into more and shorter utterances (`_shortened`), which
        those of ``indices`` and ``ids`` became together.

        Raises:
            ValueError: None of the first utterances has word times.
        """
        rows = [self._row(batch, number) for number in range(len(batch.counts))]
        counts = batch.counts.tolist()
        if not self.config.splice_seconds:
            rows = self._dealt(rows, batch, chance)
        elif chance.random() < self.config.splice_probability:
            rows, counts = self._shortened(rows, batch, chance)
        sounds = [sound for sound, _ in rows]
        tokens = [torch.tensor(self.tokenizer.encode(text)) for _, text in rows]
        return replace(
            batch,
            waveform=pad_sequence(sounds, batch_first=True),
            num_samples=torch.tensor([len(sound) for sound in sounds]),
            tokens=pad_sequence(tokens, batch_first=True, padding_value=self.tokenizer.pad_id),
            token_lengths=torch.tensor([len(ids) for ids in tokens]),
            counts=torch.tensor(counts),
        )

    def _dealt(self, rows: list[Piece], batch: Batch, chance: random.Random) -> list[Piece]:
        """Return as many utterances, each about as long as before."""
        rows, shared = list(rows), []
        for number, (sound, text) in enumerate(rows):
            if not batch.counts[number] or chance.random() >= self.config.splice_probability:
                continue
            times = self._times_of(batch.ids[number], text)
            if times is None:
                continue
            if chance.random() < 0.5:
                pieces = self._cut(sound, times, chance)
                chance.shuffle(pieces)
                rows[number] = _join(pieces)
            else:
                shared.append(number)
        pool = []
        for number in shared:
            pool += self._cut(rows[number][0], self.times[ctm_name(batch.ids[number])], chance)
        chance.shuffle(pool)
        for place, number in enumerate(shared, start=1):
            rows[number] = _join(_deal(pool, len(rows[number][0]), len(shared) - place))
        return rows

    def _shortened(
        self, rows: list[Piece], batch: Batch, chance: random.Random
    ) -> tuple[list[Piece], list[bool]]:
        """Return more utterances, and which of them count.

        Recurrent layers go through many short utterances faster than through few long ones. Half
        of the utterances are only cut into shorter ones, the others' pieces are put together anew.
        """
        short, whole, pool = [], [], []
        for number, (sound, text) in enumerate(rows):
            times = self._times_of(batch.ids[number], text) if batch.counts[number] else None
            if times is None:
                whole.append(number)
            elif chance.random() < 0.5:
                short += self._divide(sound, times)
            else:
                pool += self._cut(sound, times, chance)
        chance.shuffle(pool)
        parts = min(self._parts(sum(len(sound) for sound, _ in pool)), len(pool))
        for others in reversed(range(parts)):
            left = sum(len(sound) for sound, _ in pool)
            short.append(_join(_deal(pool, left // (others + 1), others)))
        counts = [bool(batch.counts[number]) for number in whole] + [True] * len(short)
        return [rows[number] for number in whole] + short, counts

    def _parts(self, samples: int) -> int:
        return max(1, round(samples / (self.config.splice_seconds * self.sample_rate)))

    def _divide(self, sound: Tensor, times: WordTimes) -> list[Piece]:
        """Cut an utterance between words into parts of about ``splice_seconds``."""
        count = min(self._parts(len(sound)), len(times.borders) + 1)
        goals = np.arange(1, count) * len(sound) / count / self.sample_rate
        nearest = {int(np.abs(times.borders - goal).argmin()) + 1 for goal in goals}
        return self._pieces(sound, times, sorted(nearest))

    def _times_of(self, name: str, text: str) -> WordTimes | None:
        times = self.times.get(ctm_name(name))
        if times is not None and times.text == text:
            self.strangers = -1
            return times
        if self.strangers >= 0:
            self.strangers += 1
        if self.strangers == _STRANGERS:
            raise ValueError(
                f"data.word_times: found none of {_STRANGERS} utterances with their text, such as "
                f"{name}, wanted CTM files of the same manifests"
            )
        return None

    def _row(self, batch: Batch, number: int) -> Piece:
        sound = batch.waveform[number, : int(batch.num_samples[number])]
        ids = batch.tokens[number, : int(batch.token_lengths[number])]
        return sound, self.tokenizer.decode(ids.tolist())

    def _cut(self, sound: Tensor, times: WordTimes, chance: random.Random) -> list[Piece]:
        """Return pieces of an utterance, each of some words."""
        places: list[int] = []
        place = chance.randint(1, self.config.splice_words)
        while place <= len(times.borders):
            places.append(place)
            place += chance.randint(1, self.config.splice_words)
        return self._pieces(sound, times, places)

    def _pieces(self, sound: Tensor, times: WordTimes, places: Sequence[int]) -> list[Piece]:
        """Cut an utterance before the words at some places."""
        words = times.text.split(" ")
        ends = [round(float(times.borders[place - 1]) * self.sample_rate) for place in places]
        samples = [0, *(min(end, len(sound)) for end in ends), len(sound)]
        return [
            (_faded(sound[start:end], self.sample_rate), " ".join(words[first:behind]))
            for (start, end), (first, behind) in zip(
                pairwise(samples), pairwise([0, *places, len(words)]), strict=True
            )
        ]


def _faded(sound: Tensor, sample_rate: int) -> Tensor:
    size = min(round(_FADE_SECONDS * sample_rate), len(sound) // 2)
    ramp = torch.linspace(0, 1, size)
    faded = sound.clone()
    faded[:size] *= ramp
    faded[len(sound) - size :] *= ramp.flip(0)
    return faded


def _join(pieces: Sequence[Piece]) -> Piece:
    return torch.cat([sound for sound, _ in pieces]), " ".join(text for _, text in pieces)


def _deal(pool: list[Piece], wanted: int, others: int) -> list[Piece]:
    """Take about as many samples as wanted from a pool; without others that wait, all of it."""
    taken = [pool.pop()]
    length = len(taken[0][0])
    while len(pool) > others and (not others or length + len(pool[-1][0]) // 2 < wanted):
        taken.append(pool.pop())
        length += len(taken[-1][0])
    return taken
