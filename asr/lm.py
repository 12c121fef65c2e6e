"""A language model of characters: how likely each next one is, from the few before it.

An n-gram model with back-off (Katz, 1987) whose contexts are packed into integers, five bits a
character, and looked up by binary search: all hypotheses of a search and all next characters
at once. Probabilities are stored in steps of a sixteenth of a nat. It is made from text by
`recipes/language_model/train.py`; any word can be spelled, none is out of its vocabulary.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.language_model import LanguageModelError as LanguageModelError
from asr.tokenizer import SPECIAL_TOKENS, CharTokenizer

BITS = 5  # a packed character; 0 means none
_LENGTH_SHIFT = 59  # of a context's length, above its at most 11 characters
NATS_PER_STEP = 1 / 16  # of stored log-probabilities
MAX_LOG_BACKOFF = 4.0  # back-off weights are stored below it: pruning can lift them over 1


Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Contexts:
    """All contexts of one length, sorted, and what is known to follow them.

    Attributes:
        codes: (C,) int64, packed characters, the last one in the lowest bits.
        followers: (C,) int32, bit i is set if the probability of character i is stored.
        backoff: (C,) uint8, steps below `MAX_LOG_BACKOFF`: the weight of the shorter context.
        log_probs: (G,) uint8, steps below 0, in the order of contexts and then of characters.
    """

    codes: Tensor
    followers: Tensor
    backoff: Tensor
    log_probs: Tensor


class CharNgramLM:
    """Next-character log-probabilities given any number of characters before.

    Args:
        alphabet: At most 31 characters, with a space among them.
        tables: Contexts of 0, 1, 2, … characters, at most 11; not empty.
    """

    def __init__(self, alphabet: str, tables: list[Contexts]) -> None:
        if len(alphabet) >= 2**BITS or " " not in alphabet:
            raise LanguageModelError(
                f"language model: found alphabet {alphabet!r}, wanted at most {2**BITS - 1} "
                "characters with a space among them"
            )
        self.alphabet = alphabet
        # All tables as one, sorted by length and code, so that a look-up is a single search. In
        # NumPy: a step of a search looks up a handful, where calls are what costs.
        keys = [self._key(n, table.codes) for n, table in enumerate(tables)]
        self._sizes = [len(table.codes) for table in tables]
        self._keys = torch.cat(keys).numpy()
        self._followers = torch.cat([table.followers for table in tables]).numpy()
        self._backoff = torch.cat([table.backoff for table in tables]).numpy()
        self._log_probs = torch.cat([table.log_probs for table in tables]).numpy()
        counts = np.bitwise_count(self._followers)
        self._offsets = counts.cumsum(dtype=np.int32) - counts
        self._lengths = np.arange(len(tables), dtype=np.int64)
        self._masks = (1 << (BITS * self._lengths)) - 1
        self._uniform = np.float32(-math.log(len(alphabet)))
        self._step = np.float32(-NATS_PER_STEP)
        self._letter_bits = np.int32(1) << np.arange(len(alphabet), dtype=np.int32)

    @staticmethod
    def _key(length: Any, codes: Any) -> Any:
        return codes + (length << _LENGTH_SHIFT)

    @property
    def tables(self) -> list[Contexts]:
        """Contexts of 0, 1, 2, … characters; made anew, lest they be in memory twice."""
        tables = []
        ends = np.cumsum(self._sizes)
        for length, (size, end) in enumerate(zip(self._sizes, ends, strict=True)):
            rows = slice(end - size, end)
            stop = self._offsets[end] if end < ends[-1] else self.num_ngrams
            columns = (
                self._keys[rows] - (length << _LENGTH_SHIFT),
                self._followers[rows],
                self._backoff[rows],
                self._log_probs[self._offsets[end - size] : stop],
            )
            tables.append(Contexts(*map(torch.from_numpy, columns)))
        return tables

    @property
    def max_context(self) -> int:
        """Number of characters before that can matter."""
        return len(self._sizes) - 1

    @property
    def num_ngrams(self) -> int:
        """Stored probabilities."""
        return len(self._log_probs)

    def _bits(self, followers: Tensor) -> Tensor:
        """Return (C, A) integers, 1 where a character's probability is stored."""
        return (followers[:, None].long() >> torch.arange(len(self.alphabet))) & 1

    def append(self, codes: Any, characters: Any) -> Any:
        """Return packed contexts (N,) after one more character each, (N,) indices from 0 on."""
        mask = (1 << (BITS * self.max_context)) - 1
        return ((codes << BITS) | (characters + 1)) & mask

    def log_probs(self, codes: Tensor) -> Tensor:
        """Return natural-log probabilities (N, A) of every next character.

        Args:
            codes: (N,) int64 contexts, as `append` makes them from 0.
        """
        return torch.from_numpy(self.look_up(codes.numpy()))

    def look_up(self, codes: Array) -> Array:
        """Do what `log_probs` does, with arrays."""
        levels = len(self._sizes)
        keys = self._key(self._lengths, codes[:, None] & self._masks)  # (N, levels)
        place = np.minimum(self._keys.searchsorted(keys), len(self._keys) - 1)
        found = self._keys[place] == keys
        followers = self._followers[place] * found
        weights = (MAX_LOG_BACKOFF + self._backoff[place] * self._step) * found
        known = (followers[:, ::-1, None] & self._letter_bits) != 0  # (N, levels, A)
        # For each character, the longest context that knows it.
        longest = levels - 1 - known.argmax(1)  # (N, A)
        rows = np.arange(len(keys))[:, None]
        at = levels * rows + longest
        followers, place = followers.ravel()[at], place.ravel()[at]  # (N, A)
        is_known = (followers & self._letter_bits) != 0
        before = np.bitwise_count(followers & (self._letter_bits - 1))
        index = np.where(is_known, self._offsets[place] + before, 0)
        log_probs = np.where(is_known, self._log_probs[index] * self._step, self._uniform)
        # The weight of every context that is longer than that one, or of all.
        sums = np.zeros((len(keys), levels + 1), np.float32)
        np.cumsum(weights[:, ::-1], 1, out=sums[:, 1:])
        log_probs += sums.ravel()[(levels + 1) * rows + levels - np.where(is_known, longest + 1, 0)]
        return log_probs

    def score_texts(self, texts: Sequence[str]) -> Tensor:
        """Return natural-log probabilities of each text's characters and of the space behind it.

        Args:
            texts: B texts in the alphabet; each begins behind a space.

        Returns:
            (B, U + 1) for a longest text of U characters; 0 on padding.
        """
        places = {character: place for place, character in enumerate(self.alphabet)}
        space = places[" "]
        rows = [torch.tensor([*(places[c] for c in text), space]) for text in texts]
        characters = pad_sequence(rows, batch_first=True, padding_value=-1)  # (B, U + 1)
        code = self.append(torch.zeros(len(rows), dtype=torch.int64), torch.tensor(space))
        contexts = [code]
        for column in characters.T[:-1]:
            code = self.append(code, column.clamp(min=0))
            contexts.append(code)
        real = characters >= 0
        log_probs = self.log_probs(torch.stack(contexts, 1)[real])  # (characters, A)
        scores = torch.zeros(characters.shape)
        scores[real] = log_probs.gather(1, characters[real][:, None])[:, 0]
        return scores

    def save(self, path: str | Path) -> None:
        """Write the model as one safetensors file: a tree of n-grams, three bytes each.

        Every context of n characters must itself be a stored n-gram; the longest n-grams are no
        contexts, and take two bytes.
        """
        tensors: dict[str, Tensor] = {}
        tables = self.tables
        for length, table in enumerate(tables):
            row, letters = self._bits(table.followers).nonzero(as_tuple=True)
            ngrams = (table.codes[row] << BITS) | (letters + 1)
            if length < self.max_context:
                children = torch.zeros(len(ngrams), dtype=torch.uint8)
                longer = tables[length + 1]
                place = torch.searchsorted(ngrams, longer.codes).clamp(max=len(ngrams) - 1)
                assert torch.equal(ngrams[place], longer.codes), "a context is not an n-gram"
                children[place] = self._bits(longer.followers).sum(dim=1).to(torch.uint8)
                tensors[f"{length}.children"] = children
            tensors[f"{length}.letters"] = letters.to(torch.uint8)
            tensors[f"{length}.log_probs"] = table.log_probs
            tensors[f"{length}.backoff"] = table.backoff
        temporary = Path(f"{path}.tmp")
        save_file(tensors, temporary, {"alphabet": json.dumps(self.alphabet)})
        temporary.chmod(0o644)  # safetensors lets nobody else read
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> CharNgramLM:
        """Read a model.

        Raises:
            LanguageModelError: The file is missing, damaged or no language model's.
        """
        names = ("letters", "log_probs", "backoff")
        try:
            with safe_open(path, "pt") as file:
                alphabet, stored = json.loads(file.metadata()["alphabet"]), set(file.keys())
                count = sum(name.endswith(".letters") for name in stored)
                levels = [[file.get_tensor(f"{n}.{name}") for name in names] for n in range(count)]
                contexts = [file.get_tensor(f"{n}.children") for n in range(count - 1)]
            contexts.append(torch.zeros(len(levels[-1][0]), dtype=torch.uint8))
            tables: list[Contexts] = []
            codes, sizes = torch.zeros(1, dtype=torch.int64), torch.tensor([len(levels[0][0])])
            for (letters, log_probs, backoff), children in zip(levels, contexts, strict=True):
                row = torch.repeat_interleave(sizes)  # the context of each n-gram
                followers = torch.zeros(len(codes), dtype=torch.int64)
                followers.scatter_add_(0, row, 1 << letters.long())
                tables.append(Contexts(codes, followers.int(), backoff, log_probs))
                inner = children > 0
                codes = ((codes[row] << BITS) | (letters.long() + 1))[inner]
                sizes = children[inner].long()
        except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise LanguageModelError(f"{path}: not a language model: {error}") from error
        return cls(alphabet, tables)


class LanguageModelScorer:
    """The language model as a scorer of the search (see `asr.search.Scorer`).

    A transcript begins behind a space, and ends where a space could come.

    Args:
        model: Over the tokenizer's alphabet.
        tokenizer: Ids of the search.
        num_utterances: B.
        device: Where the search runs.

    Raises:
        LanguageModelError: The alphabets differ.
    """

    def __init__(
        self,
        model: CharNgramLM,
        tokenizer: CharTokenizer,
        num_utterances: int,
        device: torch.device,
    ) -> None:
        if model.alphabet != tokenizer.alphabet:
            raise LanguageModelError(
                f"language model: found alphabet {model.alphabet!r}, wanted {tokenizer.alphabet!r}"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.num_utterances = num_utterances
        self.device = device
        self.first = len(SPECIAL_TOKENS)
        self.space = model.alphabet.index(" ")
        # What each token adds to a packed context: marks count as a space.
        characters = np.arange(tokenizer.size, dtype=np.int64) - self.first
        self.packed = np.where(characters < 0, self.space, characters)

    def initial_state(self, beam_size: int) -> Array:
        """Return the packed contexts (B·beam_size,) before the start mark."""
        return np.zeros(self.num_utterances * beam_size, dtype=np.int64)

    def score(self, tokens: Tensor, state: Array) -> tuple[Tensor, Array]:
        """Return log-probs (N, V) of the characters after ``tokens`` (N,)."""
        state = self.model.append(state, self.packed[tokens.cpu().numpy()])
        log_probs = self.model.look_up(state)
        scores = np.full((len(state), self.tokenizer.size), -np.inf, np.float32)
        scores[:, self.first :] = log_probs
        scores[:, self.tokenizer.eos_id] = log_probs[:, self.space]
        return torch.from_numpy(scores).to(self.device), state

    def reorder(self, state: Array, index: Tensor) -> Array:
        """Let row n continue row ``index[n]``."""
        reordered: Array = state[index.cpu().numpy()]
        return reordered
