"""A recurrent language model of words: how likely each next one is, from all words before it.

One LSTM layer whose output is held against the same vectors that words come in as (Press and Wolf,
"Using the output embedding to improve language models", 2017). It is asked about whole texts that
an n-gram model found, never inside the search. It is made from text by
`recipes/language_model/train_recurrent.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from asr.language_model import LanguageModelError
from asr.quantize import dequantize, quantize

END, UNKNOWN = 0, 1  # ids of what is no word: a text's beginning and end, and any other word
SPECIAL = 2  # ids below those of words
_FORMAT = "recurrent words 1"
_WORDS = "words"
_PART = 1024  # words whose logits are computed at once: they stay in the processor's cache


class RecurrentWordLM(nn.Module):
    """Probabilities of words behind all that came before them in a text.

    Args:
        words: Word i has id i + 2, behind the end and <unk>.
        width: Of words' vectors.
        cells: Of the recurrent layer.
    """

    def __init__(self, words: Sequence[str], width: int, cells: int) -> None:
        super().__init__()
        self.words = tuple(words)
        self.ids = {word: index for index, word in enumerate(self.words, start=SPECIAL)}
        self.embedding = nn.Embedding(len(self.words) + SPECIAL, width)
        self.rnn = nn.LSTM(width, cells, batch_first=True)
        self.projection = nn.Linear(cells, width)
        self.bias = nn.Parameter(torch.zeros(len(self.words) + SPECIAL))
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

        Any word outside the vocabulary has the probability of all of these. What texts have in
        common at their beginning is computed once.
        """
        rows = [torch.tensor(self.encode(text), dtype=torch.long) for text in texts]
        given = F.pad(pad_sequence(rows, batch_first=True), (1, 0), value=END)  # (B, W + 1)
        places: dict[tuple[int, int], int] = {}  # of a beginning: the one before, and a word
        firsts: list[int] = []  # where in `given`, flattened, each beginning stands first
        beginnings, wanted = [], []
        for number, row in enumerate(rows):
            ids, place = [*row.tolist(), END], -1
            for position, token in enumerate([END, *ids[:-1]]):
                place = places.setdefault((place, token), len(places))
                if place == len(firsts):
                    firsts.append(number * given.shape[1] + position)
                beginnings.append(place)
            wanted += ids
        expected = self(given).flatten(0, 1)[firsts]
        parts = zip(self.embedding.weight.split(_PART), self.bias.split(_PART), strict=True)
        totals = torch.stack([F.linear(expected, *part).logsumexp(1) for part in parts])
        right = (expected[beginnings] * self.embedding.weight[wanted]).sum(1) + self.bias[wanted]
        return list((right - totals.logsumexp(0)[beginnings]).split([len(row) + 1 for row in rows]))

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
            with torch.device("meta"):  # nothing is drawn that the file replaces
                model = cls(words, width, cells)
            model.load_state_dict(weights, assign=True)
            if not all(tensor.isfinite().all() for tensor in weights.values()):
                raise ValueError("found NaN or infinite weights")
        except (
            OSError, SafetensorError, zlib.error, KeyError, RuntimeError, ValueError
        ) as error:  # fmt: skip
            reason = str(error).splitlines()[0]
            raise LanguageModelError(f"{path}: not a recurrent language model: {reason}") from error
        return model.eval()
