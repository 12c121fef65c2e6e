"""A recurrent language model of words: how likely each next one is, from all words before it.

One LSTM layer whose output is held against the same vectors that words come in as (Press and Wolf,
"Using the output embedding to improve language models", 2017). It is asked about whole texts that
an n-gram model found, never inside the search. It is made from text by
`recipes/language_model/train_recurrent.py`, in such a way that the exponentials of its logits sum
to nearly one: a text costs a few dot products and no softmax over all words.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from asr.language_model import LanguageModelError
from asr.quantize import dequantize, quantize

END, UNKNOWN = 0, 1  # ids of what is no word: a text's beginning and end, and any other word
SPECIAL = 2  # ids below those of words
# Texts of a list that agree in as many words go on as if they had agreed from the beginning.
HISTORY_WORDS = 6
_FORMAT = "recurrent words 2"  # the first needed a softmax
_WORDS = "words"
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # of hashes
_CELL = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


class RecurrentWordLM(nn.Module):
    """Probabilities of words behind all that came before them in a text.

    Args:
        words: Word i has id i + 2, behind the end and <unk>.
        width: Of words' vectors.
        cells: Of the recurrent layer.
        draw: Words' vectors by chance; else they are zero.
    """

    def __init__(self, words: Sequence[str], width: int, cells: int, *, draw: bool = True) -> None:
        super().__init__()
        self.words = tuple(words)
        self.ids = {word: index for index, word in enumerate(self.words, start=SPECIAL)}
        vectors = torch.zeros(len(self.words) + SPECIAL, width)
        self.embedding = nn.Embedding.from_pretrained(vectors, freeze=False)
        self.rnn = nn.LSTM(width, cells, batch_first=True)
        self.projection = nn.Linear(cells, width)
        self.bias = nn.Parameter(torch.zeros(len(self.words) + SPECIAL))
        if draw:
            nn.init.normal_(self.embedding.weight, std=width**-0.5)

    def forward(self, ids: Tensor) -> Tensor:
        """Turn ids (B, T) before each word into vectors (B, T, width) of what is expected."""
        expected: Tensor = self.projection(self.rnn(self.embedding(ids))[0])
        return expected

    def logits(self, expected: Tensor) -> Tensor:
        """Return logits (N, ids) from vectors (N, width)."""
        return F.linear(expected, self.embedding.weight, self.bias)

    def encode(self, words: Sequence[str]) -> list[int]:
        """Return the ids of words."""
        return [self.ids.get(word, UNKNOWN) for word in words]

    @torch.inference_mode()
    def score_texts(self, texts: Sequence[Sequence[str]]) -> list[Tensor]:
        """Return natural-log probabilities of texts, (W + 1,) each: of the words and the end.

        They are the logits: what all words sum to is not looked at. Any word outside the
        vocabulary has the probability of all of these. What texts have in common is computed once:
        where the last `HISTORY_WORDS` words are the same, and as many came before, the first of
        the texts speaks for all (Liu et al., "Efficient lattice rescoring using recurrent neural
        network language models", 2014).
        """
        rows, lengths = _pad([[END, *self.encode(text)] for text in texts])
        alike = _hash_last(rows, HISTORY_WORDS)
        weights = [getattr(self.rnn, name) for name in _CELL]
        hidden = cell = self.bias.new_zeros(1, self.rnn.hidden_size)
        state_of = np.zeros(len(rows), np.int64)  # which of the last states each text has
        places = np.zeros_like(rows)  # of each text's states among all
        states: list[Tensor] = []
        size = 0
        for position in range(rows.shape[1]):
            (here,) = np.nonzero(position < lengths)
            _, first, number = np.unique(
                alike[here, position], return_index=True, return_inverse=True
            )
            before = torch.from_numpy(state_of[here[first]])
            given = self.embedding(torch.from_numpy(rows[here[first], position]))
            hidden, cell = torch.lstm_cell(given, (hidden[before], cell[before]), *weights)
            state_of[here], places[here, position] = number, size + number
            states.append(hidden)
            size += len(first)
        if not states:
            return []
        real = np.arange(rows.shape[1]) < lengths[:, None]
        wanted = torch.from_numpy(np.pad(rows[:, 1:], ((0, 0), (0, 1)))[real])  # END is 0
        expected = self.projection(torch.cat(states))[torch.from_numpy(places[real])]
        scores = (expected * self.embedding(wanted)).sum(1) + self.bias[wanted]
        return list(scores.split(lengths.tolist()))

    def save(self, path: str | Path) -> None:
        """Write the model as one safetensors file, its matrices in eight bits."""
        tensors = {name: t.contiguous() for name, t in quantize(self.state_dict()).items()}
        packed = zlib.compress("\n".join(self.words).encode(), 9)
        tensors[_WORDS] = torch.from_numpy(np.frombuffer(packed, np.uint8).copy())
        temporary = Path(f"{path}.tmp")
        save_file(tensors, temporary, {"format": _FORMAT})
        temporary.chmod(0o644)  # safetensors lets nobody else read
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> RecurrentWordLM:
        """Read a model.

        Raises:
            LanguageModelError: The file is missing, damaged or no recurrent language model.
        """
        try:
            with safe_open(path, "pt") as file:
                found = (file.metadata() or {}).get("format")
                if found != _FORMAT:
                    raise ValueError(f"found format {found!r}, wanted {_FORMAT!r}")
                stored = {name: file.get_tensor(name) for name in list(file.keys())}
            words = zlib.decompress(stored.pop(_WORDS).numpy().tobytes()).decode().split("\n")
            weights = dequantize(stored)
            cells, width = weights["projection.weight"].shape[::-1]
            # Not on the device "meta": drawing nothing there imports PyTorch's compiler, for 0.9 s.
            model = cls(words, width, cells, draw=False)
            model.load_state_dict(weights, assign=True)
            if not all(tensor.isfinite().all() for tensor in weights.values()):
                raise ValueError("found NaN or infinite weights")
        except (
            OSError, SafetensorError, zlib.error, KeyError, RuntimeError, ValueError
        ) as error:  # fmt: skip
            reason = str(error).splitlines()[0]
            raise LanguageModelError(f"{path}: not a recurrent language model: {reason}") from error
        return model.eval()


def _pad(rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return ids (N, T), behind each row's end those of `END`, and lengths (N,)."""
    columns = list(zip_longest(*rows, fillvalue=END))
    padded = np.array(columns, np.int64).reshape(len(columns), len(rows)).T
    return np.ascontiguousarray(padded), np.array([len(row) for row in rows], np.int64)


def _hash_last(rows: NDArray[np.int64], count: int) -> NDArray[np.uint64]:
    """Return a hash for each place of rows (N, T): of its id and the `count - 1` before it."""
    hashed = np.zeros(rows.shape, np.uint64)
    for back in range(min(count, rows.shape[1])):
        hashed[:, back:] ^= rows[:, : rows.shape[1] - back].astype(np.uint64)
        hashed *= _MULTIPLIER
        hashed ^= hashed >> np.uint64(29)
    return hashed
