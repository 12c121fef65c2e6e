"""A language model of words: how likely each next one is, from the few before it.

An n-gram model with back-off (Katz, 1987) as a tree: a node is an n-gram, its children are the
words that are known to follow it, found by binary search among them alone. The look-ups are
compiled (Numba), for a search whose inner loop is compiled asks millions of times. Histories are
integers that hold the ids of the last words. It is made from text by
`recipes/language_model/train_words.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from asr.language_model import LanguageModelError

WORD_BITS = 20  # a packed word; 0 means none
MAX_HISTORY = 3  # words that a packed history keeps
NATS_PER_STEP = 1 / 8  # of stored log-probabilities
MAX_LOG_BACKOFF = 8.0  # back-off weights are stored below it: pruning can lift them over 1
NO_BACKOFF = round(MAX_LOG_BACKOFF / NATS_PER_STEP)  # stored weight of 1
_WORD_MASK = (1 << WORD_BITS) - 1
_HISTORY_MASK = (1 << (WORD_BITS * MAX_HISTORY)) - 1
_SPECIAL = 4  # ids that are no word of the vocabulary: 0, <unk>, <s>, </s>
_FORMAT = "word n-grams 1"

Array = np.ndarray[Any, Any]


class WordTables(NamedTuple):
    """The tree, level by level: first a node for every id, then the bigrams, the trigrams, …

    Nodes are sorted by their context's node and then by their last word, so that the children of
    node n are the nodes ``starts[n]`` to ``starts[n + 1]``.

    Attributes:
        unigrams: (U,) float32, natural-log probabilities by id.
        words: (N,) int32, each node's last word.
        steps: (N,) uint8, log-probabilities of nodes from U on in steps below 0.
        starts: (M + 1,) int32, the first child of each node that may have any.
        backoffs: (M,) uint8, steps below `MAX_LOG_BACKOFF`: the weight of the shorter context.
    """

    unigrams: NDArray[np.float32]
    words: NDArray[np.int32]
    steps: NDArray[np.uint8]
    starts: NDArray[np.int32]
    backoffs: NDArray[np.uint8]


@njit(cache=True, nogil=True)
def find_child(tables: WordTables, node: int, word: int) -> int:
    """Return the node of an n-gram and one more word, or -1."""
    if node >= len(tables.backoffs):
        return -1
    low, high = tables.starts[node], tables.starts[node + 1]
    end = high
    while low < high:
        middle = (low + high) >> 1
        if tables.words[middle] < word:
            low = middle + 1
        else:
            high = middle
    return low if low < end and tables.words[low] == word else -1


@njit(cache=True, nogil=True)
def find_history(tables: WordTables, history: int, length: int) -> int:
    """Return the node of the last words of a packed history, or -1."""
    node = (history >> (WORD_BITS * (length - 1))) & _WORD_MASK
    if node == 0:  # the history is shorter
        return -1
    for place in range(length - 2, -1, -1):
        node = find_child(tables, node, (history >> (WORD_BITS * place)) & _WORD_MASK)
        if node < 0:
            return -1
    return node


@njit(cache=True, nogil=True)
def history_nodes(tables: WordTables, history: int, nodes: Array) -> None:
    """Look up where a packed history stands in the tree.

    Args:
        tables: The tree.
        history: Of `append_word`.
        nodes: (MAX_HISTORY,) int32; gets the node of the last word, of the last two and so on, -1
            for those that are not stored.
    """
    for length in range(1, MAX_HISTORY + 1):
        nodes[length - 1] = find_history(tables, history, length)


@njit(cache=True, nogil=True)
def log_prob_behind(tables: WordTables, nodes: Array, word: int) -> float:
    """Return the natural-log probability of a word; nodes (MAX_HISTORY,) are `history_nodes`."""
    total = 0.0
    for place in range(MAX_HISTORY - 1, -1, -1):
        node = nodes[place]
        if node < 0:
            continue
        child = find_child(tables, node, word)
        if child >= 0:
            return float(total - tables.steps[child] * NATS_PER_STEP)
        if node < len(tables.backoffs):
            total += MAX_LOG_BACKOFF - tables.backoffs[node] * NATS_PER_STEP
    return float(total + tables.unigrams[word])


@njit(cache=True, nogil=True)
def word_log_prob(tables: WordTables, history: int, word: int) -> float:
    """Return the natural-log probability of a word after a history of `append_word`."""
    nodes = np.empty(MAX_HISTORY, np.int32)
    history_nodes(tables, history, nodes)
    return log_prob_behind(tables, nodes, word)


@njit(cache=True, nogil=True)
def append_word(history: int, word: int) -> int:
    """Return a packed history after one more word."""
    return ((history << WORD_BITS) | word) & _HISTORY_MASK


@njit(cache=True, nogil=True)
def shorten_history(tables: WordTables, history: int) -> int:
    """Return a packed history without the oldest words, as far as no probability needs them.

    Hypotheses whose shortened histories are equal will get the same probabilities for ever.
    """
    for length in range(MAX_HISTORY, 0, -1):
        node = find_history(tables, history, length)
        if 0 <= node < len(tables.backoffs) and tables.starts[node] < tables.starts[node + 1]:
            break
        history &= (1 << (WORD_BITS * (length - 1))) - 1
    return history


@njit(cache=True, nogil=True)
def _score_ids(tables: WordTables, start: int, end: int, words: Array) -> Array:
    found, history = np.empty(len(words)), start
    for place, word in enumerate(words):
        found[place] = word_log_prob(tables, history, word)
        history = start if word == end else append_word(history, word)
    return found


class WordNgramLM:
    """Probabilities of the next word given any number of words before.

    Args:
        words: Word i has id i + 1; the ids behind them are <unk>, <s> and </s>.
        tables: Nodes of these ids.

    Raises:
        LanguageModelError: Words and tables do not fit together.
    """

    def __init__(self, words: Sequence[str], tables: WordTables) -> None:
        _check(len(words), tables)
        self.words = tuple(words)
        self.tables = tables
        self.unigrams = tables.unigrams

    @property
    def unknown_id(self) -> int:
        """<unk>: any word outside the vocabulary."""
        return len(self.words) + 1

    @property
    def start_id(self) -> int:
        """<s>: before the first word; it is never predicted."""
        return len(self.words) + 2

    @property
    def end_id(self) -> int:
        """</s>: after the last word."""
        return len(self.words) + 3

    @property
    def start_history(self) -> int:
        """The packed history before the first word."""
        return self.start_id

    @property
    def num_ngrams(self) -> int:
        """Stored probabilities."""
        return len(self.tables.words) - 1

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self.words, start=1)}

    def word_id(self, word: str) -> int:
        """Return a word's id, `unknown_id` outside the vocabulary."""
        return self._ids.get(word, self.unknown_id)

    def log_prob(self, history: int, word: int) -> float:
        """Return the natural-log probability of a word id after a packed history."""
        if not 0 < word <= self.end_id:
            raise ValueError(f"word: found id {word}, wanted 1 to {self.end_id}")
        return float(word_log_prob(self.tables, history, word))

    def score_words(self, words: Sequence[str]) -> NDArray[np.float64]:
        """Return natural-log probabilities (W + 1,) of a sentence's words and of its end."""
        return self.score_ids(np.array([*map(self.word_id, words), self.end_id], np.int64))

    def score_ids(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return natural-log probabilities (W,) of the words of sentences, each up to its end."""
        found: NDArray[np.float64] = _score_ids(self.tables, self.start_history, self.end_id, ids)
        return found

    def columns(self) -> dict[str, NDArray[np.uint8]]:
        """Return the compressed columns of the file: nearly all of its size."""
        tables, size = self.tables, len(self.unigrams)
        children = np.diff(tables.starts)
        # Followers as distances from the one before: small numbers, as frequent words come first.
        distances = np.diff(tables.words[size:], prepend=np.int32(0))
        firsts = tables.starts[:-1][children > 0] - size
        distances[firsts] = tables.words[size:][firsts]
        few, many = _split(children)
        middle, high = _split(distances >> 8)
        return {
            "words": _compress(np.frombuffer("\n".join(self.words).encode(), np.uint8)),
            "unigrams": _compress(self.unigrams.view(np.uint8)),
            "children": _compress(few),
            "children.large": _compress(many),
            "distances": _compress((distances & 255).astype(np.uint8)),
            "distances.high": _compress(middle),
            "distances.large": _compress(high),
            "steps": _compress(tables.steps[size:], zlib.Z_HUFFMAN_ONLY),
            "backoffs": _compress(tables.backoffs[children > 0], zlib.Z_HUFFMAN_ONLY),
        }

    def save(self, path: str | Path) -> None:
        """Write the model as one safetensors file."""
        temporary = Path(f"{path}.tmp")
        save_file(self.columns(), temporary, {"format": _FORMAT})
        temporary.chmod(0o644)  # safetensors lets nobody else read
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> WordNgramLM:
        """Read a model.

        Raises:
            LanguageModelError: The file is missing, damaged or no language model of words.
        """
        try:
            with safe_open(path, "np") as file:
                found = (file.metadata() or {}).get("format")
                if found != _FORMAT:
                    raise ValueError(f"found format {found!r}, wanted {_FORMAT!r}")
                column = {name: _decompress(file.get_tensor(name)) for name in list(file.keys())}
            words = column["words"].tobytes().decode().split("\n")
            return cls(words, _build_tables(column))
        except (
            OSError, SafetensorError, zlib.error, KeyError, IndexError, ValueError
        ) as error:  # fmt: skip
            raise LanguageModelError(f"{path}: not a language model of words: {error}") from error


def _build_tables(column: dict[str, Array]) -> WordTables:
    """Return the tree from what is stored of it."""
    # A copy can be written to, as all the other arrays: else functions were compiled twice.
    unigrams = column["unigrams"].view(np.float32).copy()
    children = _join(column["children"], column["children.large"])
    distances = _join(column["distances.high"], column["distances.large"]) << 8
    distances |= column["distances"]
    size, total = len(unigrams), int(children.sum(dtype=np.int64))
    if len(children) < size or total != len(distances) or int(children.min()) < 0:
        raise ValueError(f"found {len(distances)} n-grams for {len(children)} contexts")
    backoffs = np.full(len(children), NO_BACKOFF, np.uint8)
    inner = np.flatnonzero(children)
    backoffs[inner] = column["backoffs"]
    starts = np.empty(len(children) + 1, np.int32)
    starts[0] = size
    np.cumsum(children, dtype=np.int32, out=starts[1:])
    starts[1:] += np.int32(size)
    words = _add_up(distances, starts[inner] - size, size)
    steps = np.concatenate([np.zeros(size, np.uint8), column["steps"]])
    return WordTables(unigrams, words, steps, starts, backoffs)


def _add_up(
    distances: NDArray[np.int32], firsts: NDArray[np.int32], size: int
) -> NDArray[np.int32]:
    """Return the words of all nodes: of the unigrams, and of followers from their distances.

    Args:
        distances: (N,) from each follower to the next.
        firsts: Places in it where the followers of a context begin.
        size: Unigrams.
    """
    words = np.arange(size + len(distances), dtype=np.int32)
    followers = words[size:]
    # A sum over everything, less what it was before each context; should it be too large for 32
    # bits, the difference is right all the same. Compiled code would have to be fetched first.
    np.cumsum(distances, dtype=np.int32, out=followers)
    before = np.where(firsts > 0, followers[firsts - 1], np.int32(0))
    followers -= np.repeat(before, np.diff(firsts, append=np.int32(len(distances))))
    return words


def _check(num_words: int, tables: WordTables) -> None:
    """Raise an error where a look-up could leave the tables: compiled code would not notice."""
    size = num_words + _SPECIAL
    total = len(tables.words)
    fits = (
        len(tables.unigrams) == size < 2**WORD_BITS
        and total == len(tables.steps) >= size
        and len(tables.starts) == len(tables.backoffs) + 1 > size
        and tables.starts[0] == size
        and tables.starts[-1] == total
        and bool((np.diff(tables.starts) >= 0).all())
        and 0 <= int(tables.words.min()) <= int(tables.words.max()) < size
    )
    if not fits:
        raise LanguageModelError(
            f"language model: found {num_words} words and {total} n-grams that do not fit together"
        )


def _split(values: Array) -> tuple[Array, Array]:
    """Return numbers as bytes, and in full those that are too large, for which 255 stands."""
    values = values.astype(np.int32)
    return np.minimum(values, 255).astype(np.uint8), values[values >= 255].view(np.uint8)


def _join(low: Array, large: Array) -> NDArray[np.int32]:
    """Undo `_split`."""
    values = low.astype(np.int32)
    values[low == 255] = large.view(np.int32)
    return values


def _compress(values: Array, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> NDArray[np.uint8]:
    packer = zlib.compressobj(9, zlib.DEFLATED, 15, 9, strategy)
    return np.frombuffer(packer.compress(values.tobytes()) + packer.flush(), np.uint8)


def _decompress(values: Array) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.decompress(values.tobytes()), np.uint8)
