"""Text as if it had been heard: phones with durations and mistakes, for a decoder that reads them.

A few hours of speech hold few words, and English spelling has to be learned from many. So the
decoder also learns from text alone: a lexicon says the phones, chance says how long each lasts in
CTC's labels, where the recogniser errs and how sure it is, and the decoder spells what it sees.
In the literature this is text injection (Thomas et al., "Integrating text inputs for training and
adapting RNN transducer ASR models", 2022).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from asr.lexicon import Lexicon
from asr.normalize import normalize_text
from asr.texts import READ_ERRORS, open_text
from asr.tokenizer import CharTokenizer

# As measured where the network errs as on speech that it does not know.
# Of a phone: that it is heard as another, is missed, or that another is heard behind it.
_MISHEARD, _MISSED, _ADDED = 0.12, 0.02, 0.06
_LASTS = (0.65, 0.29, 0.06)  # 1, 2, 3 labels
_BLANKS = (0.55, 0.36, 0.04, 0.05)  # 0, 1, 2, 3 blanks behind a phone
_PAUSE, _LONGEST_PAUSE = 0.08, 15  # between words; labels
_EDGE = 12  # labels of silence at most before and behind a text
_SHARPNESS = 4.0  # by which phones whose weights look alike are confused
_MISSES = 100  # unusable pieces of text, behind which shorter ones are drawn

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Imagined:
    """Texts as if heard.

    Attributes:
        phones: (B, S, labels a frame · P) probabilities, zero on padding.
        lengths: (B,) frames.
        tokens: (B, U) character ids, padded with 0.
        token_lengths: (B,).
    """

    phones: Tensor
    lengths: Tensor
    tokens: Tensor
    token_lengths: Tensor

    def to(self, device: torch.device) -> Imagined:
        """Return the same on a device."""
        return Imagined(*(tensor.to(device) for tensor in vars(self).values()))


class TextReader:
    """Pieces of texts, a few words each, drawn by chance.

    Args:
        paths: Text files, plain, .gz or .xz, one paragraph a line.
        tokenizer: Pieces that hold other characters, as digits, are passed over.

    Raises:
        ValueError: A file cannot be read, or no line holds a usable piece.
    """

    def __init__(self, paths: Sequence[str], tokenizer: CharTokenizer) -> None:
        self.tokenizer = tokenizer
        self.lines: list[str] = []
        for path in paths:
            try:
                with open_text(Path(path)) as file:
                    self.lines += [line.strip() for line in file if not line.isspace()]
            except READ_ERRORS as error:
                raise ValueError(f"data.spoken_texts: {path}: {error}") from error
        lengths = np.array([len(line) for line in self.lines], dtype=np.int64)
        self.ends = lengths.cumsum()
        if not any(self._piece(random.Random(seed), 1) for seed in range(1000)):
            raise ValueError(f"data.spoken_texts: found no usable text in {', '.join(paths)}")

    def draw(self, characters: int, chance: random.Random) -> list[str]:
        """Return normalised pieces of at least `characters` letters and spaces together.

        All have as many words, as far as their lines reach: little is padded.
        """
        pieces: list[str] = []
        words, missed = chance.randint(2, 35), 0
        while characters > 0:
            if piece := self._piece(chance, words):
                pieces.append(piece)
                characters -= len(piece)
            else:
                missed += 1
                if missed % _MISSES == 0:  # so long a piece may nowhere be without a digit
                    words = max(1, words // 2)
        return pieces

    def _piece(self, chance: random.Random, words: int) -> str:
        if not self.lines:
            return ""
        place = chance.randrange(int(self.ends[-1]))  # long lines are drawn more often
        line = self.lines[int(self.ends.searchsorted(place, "right"))].split()
        start = chance.randrange(max(1, len(line) - words + 1))
        text = normalize_text(" ".join(line[start : start + words]))
        return text if all(c in self.tokenizer.alphabet for c in text) else ""


def confusions(phone_weights: Tensor, labels_per_frame: int) -> Tensor:
    """Return how likely each phone is taken for each other, (P, P), from how alike they look.

    Args:
        phone_weights: (labels_per_frame · P, D) of the layer that tells phones apart.
        labels_per_frame: CTC labels in a frame.
    """
    rows = phone_weights.detach().float().unflatten(0, (labels_per_frame, -1))
    rows = F.normalize(rows - rows[:, 1:].mean(1, keepdim=True), dim=2)
    alike = (rows @ rows.transpose(1, 2)).mean(0) * _SHARPNESS
    alike.fill_diagonal_(-torch.inf)
    alike[:, 0] = -torch.inf  # nothing is taken for the blank
    return alike.softmax(1)


def imagine(
    texts: Sequence[str],
    lexicon: Lexicon,
    tokenizer: CharTokenizer,
    confused: Tensor,
    labels_per_frame: int,
    seed: int,
) -> Imagined:
    """Return texts as of recordings in which they were read, on the CPU.

    Args:
        texts: Normalised.
        lexicon: Says their phones.
        tokenizer: Spells them.
        confused: (P, P) of `confusions`.
        labels_per_frame: CTC labels in a frame.
        seed: Of durations and mistakes.
    """
    chance = np.random.default_rng(seed)
    table = confused.cpu().numpy().cumsum(1)
    rows = []
    for text in texts:
        labels = _labels(text, lexicon, table, chance)
        labels = np.append(labels, np.zeros(-len(labels) % labels_per_frame, np.int64))
        rows.append(torch.from_numpy(_probabilities(labels, table, chance)))
    lengths = torch.tensor([len(row) // labels_per_frame for row in rows])
    padded = pad_sequence(rows, batch_first=True)  # (B, S', P)
    tokens = [torch.tensor(tokenizer.encode(text)) for text in texts]
    return Imagined(
        padded.unflatten(1, (-1, labels_per_frame)).flatten(2),
        lengths,
        pad_sequence(tokens, batch_first=True),
        torch.tensor([len(row) for row in tokens]),
    )


def _labels(
    text: str, lexicon: Lexicon, table: NDArray[np.float32], chance: np.random.Generator
) -> Ints:
    """Return a text's CTC labels, blanks between them."""
    words = [lexicon.pronounce(word) for word in text.split()]
    phones = np.array([phone for word in words for phone in word], np.int64)
    last = np.zeros(len(phones), bool)
    last[np.cumsum([len(word) for word in words if word], dtype=np.int64) - 1] = True
    luck = chance.random(len(phones))
    misheard = luck < _MISHEARD
    phones[misheard] = _draw(table[phones[misheard]], chance)
    blanks = chance.choice(len(_BLANKS), len(phones), p=_BLANKS)
    pauses = last & (chance.random(len(phones)) < _PAUSE)
    blanks[pauses] += chance.integers(3, _LONGEST_PAUSE + 1, int(pauses.sum()))
    kept = ~((luck >= _MISHEARD) & (luck < _MISHEARD + _MISSED))
    added = luck > 1 - _ADDED
    found: list[int] = [0] * int(chance.integers(0, _EDGE + 1))
    lasts = 1 + chance.choice(len(_LASTS), len(phones), p=_LASTS)
    extra = _draw(table[phones], chance)
    for index, phone in enumerate(phones.tolist()):
        for label, wanted in ((phone, kept[index]), (int(extra[index]), added[index])):
            if wanted:
                if found and found[-1] == label:
                    found.append(0)
                found += [label] * int(lasts[index])
        found += [0] * int(blanks[index])
    return np.array(found + [0] * int(chance.integers(1, _EDGE + 1)), np.int64)


def _probabilities(
    labels: Ints, table: NDArray[np.float32], chance: np.random.Generator
) -> NDArray[np.float32]:
    """Return how sure a recogniser might be of labels: (S', P)."""
    found = np.zeros((len(labels), len(table)), np.float32)
    rows = np.arange(len(labels))
    doubt = (0.75 * chance.random(len(labels)) ** 2).astype(np.float32)
    rival = _draw(table[labels], chance)
    rival[chance.random(len(labels)) < 0.5] = 0  # whether there was anything is the commonest doubt
    found[rows, labels] = 1 - doubt
    found[rows, rival] += doubt
    return found


def _draw(cumulative: NDArray[np.float32], chance: np.random.Generator) -> Ints:
    """Return one column for each row (N, P) of cumulative probabilities."""
    luck = chance.random((len(cumulative), 1))
    found: Ints = (cumulative < luck).sum(1).clip(max=cumulative.shape[1] - 1)
    return found
