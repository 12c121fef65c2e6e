"""Text as if it had been heard, for a decoder that reads phones.

A few hours of speech hold few words, and English spelling has to be learned from many. So the
decoder also learns from text alone: what a recogniser heard elsewhere, where the same words and
phones were said, is put together, and the decoder spells what it sees. In the literature this is
text injection (Thomas et al., "Integrating text inputs for training and adapting RNN transducer
ASR models", 2022).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.config import Config
from asr.heard import HeardPhones
from asr.lexicon import Lexicon
from asr.normalize import normalize_text
from asr.texts import READ_ERRORS, open_text
from asr.tokenizer import CharTokenizer

_MISSES = 100  # unusable pieces of text, behind which shorter ones are drawn


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


@dataclass(frozen=True, eq=False)
class SpokenTexts:
    """Texts from which a decoder learns, and all that it takes to imagine how they sound.

    Attributes:
        texts: They themselves.
        heard: What they are put together from.
        lexicon: Says their phones.
        labels_per_frame: CTC labels in a frame.
    """

    texts: TextReader
    heard: HeardPhones
    lexicon: Lexicon
    labels_per_frame: int

    @classmethod
    def open(
        cls, config: Config, lexicon: Lexicon | None, tokenizer: CharTokenizer
    ) -> SpokenTexts | None:
        """Return those that a configuration names, None if it names none.

        Raises:
            ValueError: A file cannot be used, or the decoder reads no phones.
        """
        data, model = config.data, config.model
        if not data.spoken_texts:
            return None
        if lexicon is None or not model.phone_reader_width or model.attention == "none":
            raise ValueError(
                "data.spoken_texts: found texts for a decoder that sees no phones, wanted "
                "model.phone_reader_width=128 or so, data.lexicon and attention"
            )
        if not data.heard_phones:
            raise ValueError(
                "data.spoken_texts: found texts without data.heard_phones, wanted a file of "
                "scripts/collect_heard.py"
            )
        heard = HeardPhones.load(data.heard_phones, lexicon.num_labels)
        texts = TextReader(data.spoken_texts, tokenizer)
        return cls(texts, heard, lexicon, model.ctc_labels_per_frame)

    def draw(self, characters: int, chance: random.Random) -> Imagined:
        """Return texts of about so many characters together."""
        pieces = self.texts.draw(characters, chance)
        return imagine(
            pieces, self.lexicon, self.texts.tokenizer, self.heard, self.labels_per_frame,
            chance.getrandbits(60),
        )  # fmt: skip


def imagine(
    texts: Sequence[str],
    lexicon: Lexicon,
    tokenizer: CharTokenizer,
    heard: HeardPhones,
    labels_per_frame: int,
    seed: int,
) -> Imagined:
    """Return texts as of recordings in which they were read, on the CPU.

    Args:
        texts: Normalised.
        lexicon: Says their phones.
        tokenizer: Spells them.
        heard: What they are put together from.
        labels_per_frame: CTC labels in a frame.
        seed: Of what is taken from where.
    """
    chance = np.random.default_rng(seed)
    rows = []
    for text in texts:
        labels = heard.read(text, lexicon, chance)
        labels = np.append(labels, labels[-1:].repeat(-len(labels) % labels_per_frame))
        rows.append(torch.from_numpy(heard.probabilities[labels]).float())
    lengths = torch.tensor([len(row) // labels_per_frame for row in rows])
    padded = pad_sequence(rows, batch_first=True)  # (B, S', P)
    tokens = [torch.tensor(tokenizer.encode(text)) for text in texts]
    return Imagined(
        padded.unflatten(1, (-1, labels_per_frame)).flatten(2),
        lengths,
        pad_sequence(tokens, batch_first=True),
        torch.tensor([len(row) for row in tokens]),
    )
