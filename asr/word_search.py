"""Search over whole words: CTC over phones, a prefix tree of pronunciations, a word n-gram model.

Frame by frame, as in prefix beam search (Hannun et al., 2014, "First-pass large vocabulary
continuous speech recognition using bi-directional recurrent DNNs"): a hypothesis is the words so
far and a node of the tree, with two probabilities, of all paths whose last frame was blank or
the node's phone. Inside a word the likeliest word below the node stands in for the language
model (look-ahead); at its end the model's own score takes that place. Of hypotheses that go on
alike, at one node behind the same last words, the best one lives; how far the others were behind
is remembered, so that lists of the best texts also differ in words long past.

The loop over frames is compiled by Numba, which librosa brings along, and releases the
interpreter: utterances are searched in threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import njit

from asr.prefix_tree import Array, TreeTables
from asr.vocabulary import EntryTables, Vocabulary
from asr.word_lists import Joined, WordHypothesis, best_texts, hash_pair, join, new_joined
from asr.word_lm import (
    MAX_HISTORY,
    WordNgramLM,
    WordTables,
    append_word,
    history_nodes,
    log_prob_behind,
    shorten_history,
)

if TYPE_CHECKING:  # it can be prepared before torch is there
    from torch import Tensor

_NOTHING = -1e9  # a log-probability
_RARE = -6.5  # a phone below this log-probability is not followed
_SURE = -0.05  # a frame whose blank is above this is nothing but blank
_GROWTH = 48  # hypotheses that may come of each in a frame, about; later ones are left out
_TABLE_BITS = 16  # of the hash tables of a frame's hypotheses
_HISTORY_BITS = 18  # of an utterance's sequences of words
_KNOWN_BITS = 12  # of the table of contexts that were looked up
_STEPS = 512  # into which a beam's margin is cut to count its hypotheses


class Weights(NamedTuple):
    """How scores are weighed, and how wide the search is.

    Attributes:
        lm: Of the language model, where CTC has 1.
        word: Added for each word, in nats.
        blank: Taken from the blank in each frame, in nats: CTC's network is surest of it, and
            words that it only half hears would be left out.
        beam_size: Hypotheses kept after a frame.
        margin: How many nats behind the best a hypothesis may be.
        behind: How many nats behind the best of those that go on alike another one is remembered;
            0 remembers none, and makes lists of texts that differ in their last words alone.
    """

    lm: float
    word: float
    blank: float
    beam_size: int
    margin: float
    behind: float


class _Beam(NamedTuple):
    """Hypotheses in arrays of equal length.

    Attributes:
        node: Of the tree; 0 and other roots between words.
        phone: The last one, 0 before the first.
        history: Number of the sequence of words.
        context: The language model's packed history.
        blank: Log-probability of paths that end in blank.
        spoken: Of paths that end in the phone.
        lm: Weighted score of the words, look-ahead included.
    """

    node: Array
    phone: Array
    history: Array
    context: Array
    blank: Array
    spoken: Array
    lm: Array


@njit(cache=True, nogil=True)
def _new_beam(size: int) -> _Beam:
    return _Beam(
        np.zeros(size, np.int32),
        np.zeros(size, np.int32),
        np.zeros(size, np.int32),
        np.zeros(size, np.int64),
        np.full(size, _NOTHING),
        np.full(size, _NOTHING),
        np.zeros(size),
    )


@njit(cache=True, nogil=True, inline="always")
def _add(a: float, b: float) -> float:
    """Return the log of the sum of two probabilities."""
    if a < b:
        a, b = b, a
    return a if b - a < -30.0 else a + np.log1p(np.exp(b - a))


@njit(cache=True, nogil=True)
def _put(
    beam: _Beam, count: int, table: Array, node: int, phone: int, history: int, context: int,
    blank: float, spoken: float, lm: float,
) -> int:  # fmt: skip
    """Add paths to a hypothesis, which is made if it is new; return how many there are now."""
    mask = len(table) - 1
    slot = hash_pair(history, np.int64(node) * 256 + phone, _TABLE_BITS)
    while table[slot] >= 0:
        found = table[slot]
        if (
            beam.history[found] == history
            and beam.node[found] == node
            and beam.phone[found] == phone
        ):
            beam.blank[found] = _add(beam.blank[found], blank)
            beam.spoken[found] = _add(beam.spoken[found], spoken)
            return count
        slot = (slot + 1) & mask
    if count == len(beam.node):
        return count
    table[slot] = count
    beam.node[count], beam.phone[count], beam.history[count] = node, phone, history
    beam.context[count], beam.lm[count] = context, lm
    beam.blank[count], beam.spoken[count] = blank, spoken
    return count + 1


@njit(cache=True, nogil=True)
def _extend_history(parents: Array, entries: Array, history: int, entry: int) -> Any:
    """Return the number of a sequence of words with one more at its end, -1 if all are used."""
    mask = len(parents) - 1
    slot = hash_pair(history, entry, _HISTORY_BITS)
    for _ in range(64):
        if parents[slot] < 0:
            parents[slot], entries[slot] = history, entry
            return slot
        if parents[slot] == history and entries[slot] == entry:
            return slot
        slot = (slot + 1) & mask
    return -1


class _Known(NamedTuple):
    """Contexts that were looked up before, each in the one place where it may be.

    Attributes:
        context: (K,), -1 where nothing is known.
        nodes: (K, MAX_HISTORY), its `history_nodes`.
    """

    context: Array
    nodes: Array


@njit(cache=True, nogil=True)
def _new_known() -> _Known:
    size = 1 << _KNOWN_BITS
    return _Known(np.full(size, -1, np.int64), np.zeros((size, MAX_HISTORY), np.int32))


@njit(cache=True, nogil=True)
def _nodes_of(words: WordTables, context: int, known: _Known) -> Any:
    """Return the nodes (MAX_HISTORY,) of a context, looked up unless they are known."""
    slot = hash_pair(context, 0, _KNOWN_BITS)
    nodes = known.nodes[slot]
    if known.context[slot] != context:
        known.context[slot] = context
        history_nodes(words, context, nodes)
    return nodes


@njit(cache=True, nogil=True)
def _score_entry(
    words: WordTables, entries: EntryTables, context: int, entry: int, weights: Weights,
    known: _Known,
) -> float:  # fmt: skip
    """Return the weighted score of an entry behind a context."""
    score = 0.0
    for place in range(entries.first_word[entry], entries.first_word[entry + 1]):
        word = entries.word[place]
        nodes = _nodes_of(words, context, known)
        score += log_prob_behind(words, nodes, word) * weights.lm + weights.word
        context = append_word(context, word)
    return float(score + entries.bonus[entry])


@njit(cache=True, nogil=True)
def _append_entry(words: WordTables, entries: EntryTables, context: int, entry: int) -> int:
    """Return the context behind an entry."""
    for place in range(entries.first_word[entry], entries.first_word[entry + 1]):
        context = append_word(context, entries.word[place])
    return shorten_history(words, context)


@njit(cache=True, nogil=True)
def _cutoff(scores: Array, margin: float, wanted: int) -> float:
    """Return a score that about so many of the best reach, at most ``margin`` below the best."""
    counts = np.zeros(_STEPS, np.int64)
    best = scores.max()
    for score in scores:
        step = int((best - score) / margin * _STEPS)
        if step < _STEPS:
            counts[step] += 1
    total = 0
    for step in range(_STEPS):
        total += counts[step]
        if total >= wanted:
            return float(best - margin * (step + 1) / _STEPS)
    return float(best - margin)


@njit(cache=True, nogil=True)
def _prune(
    found: _Beam, count: int, beam: _Beam, table: Array, joined: Joined, frame: int,
    weights: Weights,
) -> int:  # fmt: skip
    """Keep the best hypotheses of a frame, best first; return how many."""
    scores = np.empty(count)
    for n in range(count):
        scores[n] = _add(found.blank[n], found.spoken[n]) + found.lm[n]
    # Twice as many as are kept, as it is not known yet which of them go on alike.
    least = _cutoff(scores, weights.margin, weights.beam_size * 2)
    candidates = np.flatnonzero(scores >= least)
    order = candidates[np.argsort(-scores[candidates])]
    table[:] = -1
    kept = 0
    for n in order:
        if kept == weights.beam_size:
            break
        key = np.int64(found.node[n]) * 256 + found.phone[n]
        slot = hash_pair(found.context[n], key, _TABLE_BITS)
        better = -1
        while table[slot] >= 0 and better < 0:
            other = table[slot]
            if (
                beam.context[other] == found.context[n]
                and beam.node[other] == found.node[n]
                and beam.phone[other] == found.phone[n]
            ):
                better = other
            slot = (slot + 1) & (len(table) - 1)
        if better >= 0:
            if weights.behind > 0.0:
                ahead = _add(beam.blank[better], beam.spoken[better]) + beam.lm[better]
                if ahead - scores[n] < weights.behind:
                    behind = ahead - scores[n]
                    join(joined, beam.history[better], found.history[n], behind, frame)
            continue
        table[slot] = kept
        beam.node[kept], beam.phone[kept] = found.node[n], found.phone[n]
        beam.history[kept], beam.context[kept] = found.history[n], found.context[n]
        beam.blank[kept], beam.spoken[kept] = found.blank[n], found.spoken[n]
        beam.lm[kept] = found.lm[n]
        kept += 1
    return kept


@njit(cache=True, nogil=True)
def _search(
    log_probs: Array, tree: TreeTables, roots: Array, entries: EntryTables, words: WordTables,
    start: int, end: int, weights: Weights,
) -> tuple[Array, Array, Array, Array, Joined]:  # fmt: skip
    """Search one utterance: log_probs (T, P).

    Returns:
        For each hypothesis that ends with a word, or for all if none does, its score and the
        number of its sequence of words; for all sequences the number of the one before, and
        the last entry; and those that went on alike.
    """
    capacity = min(weights.beam_size * _GROWTH, 3 << (_TABLE_BITS - 2))  # a table is never full
    beam, found = _new_beam(weights.beam_size), _new_beam(capacity)
    table = np.full(1 << _TABLE_BITS, -1, np.int32)
    parents = np.full(1 << _HISTORY_BITS, -1, np.int32)
    last = np.zeros(1 << _HISTORY_BITS, np.int32)
    joined = new_joined(weights.behind > 0.0)
    known = _new_known()
    parents[0], last[0] = 0, -1
    beam.blank[0], beam.context[0] = 0.0, start
    size = 1
    for t in range(len(log_probs)):
        row = log_probs[t]
        if row[0] > _SURE:
            for n in range(size):
                beam.blank[n] = _add(beam.blank[n], beam.spoken[n]) + row[0]
                beam.spoken[n] = _NOTHING
            continue
        silent = row[0] - weights.blank
        table[:] = -1
        count = 0
        best = _NOTHING  # of what has been found in this frame: first, of all that say nothing new
        for n in range(size):
            stays = _add(beam.blank[n], beam.spoken[n]) + silent
            if beam.phone[n]:
                stays = max(stays, beam.spoken[n] + row[beam.phone[n]])
            best = max(best, stays + beam.lm[n])
        for n in range(size):
            node, phone, context = beam.node[n], beam.phone[n], beam.context[n]
            both = _add(beam.blank[n], beam.spoken[n])
            again = beam.spoken[n] + row[phone] if phone else _NOTHING
            count = _put(
                found, count, table, node, phone, beam.history[n], context, both + silent, again,
                beam.lm[n],
            )  # fmt: skip
            inside = beam.lm[n] - (weights.lm * tree.best[node] if node else 0.0)
            # Between words, on from every root; inside a word, from its node.
            for r in range(len(roots) if node == 0 else 1):
                origin = roots[r] if node == 0 else node
                promised = inside + weights.lm * tree.best[origin]  # of all below it the most
                for c in range(tree.first_child[origin], tree.first_child[origin + 1]):
                    following = tree.child_phone[c]
                    spoken, child = both + row[following], tree.child[c]
                    if row[following] < _RARE or spoken + promised < best - weights.margin:
                        continue
                    if following == phone:
                        spoken = beam.blank[n] + row[following]
                    ahead = inside + weights.lm * tree.best[child]
                    if spoken + ahead < best - weights.margin:
                        continue
                    best = max(best, spoken + ahead)
                    if tree.first_child[child] < tree.first_child[child + 1]:
                        count = _put(
                            found, count, table, child, following, beam.history[n], context,
                            _NOTHING, spoken, ahead,
                        )  # fmt: skip
                    for e in range(tree.first_entry[child], tree.first_entry[child + 1]):
                        entry = tree.entry[e]
                        score = _score_entry(words, entries, context, entry, weights, known)
                        if spoken + inside + score < best - weights.margin:
                            continue
                        history = _extend_history(parents, last, beam.history[n], entry)
                        if history >= 0:
                            later = _append_entry(words, entries, context, entry)
                            count = _put(
                                found, count, table, 0, following, history, later, _NOTHING,
                                spoken, inside + score,
                            )  # fmt: skip
        size = _prune(found, count, beam, table, joined, t, weights)
    ended = np.flatnonzero(beam.node[:size] == 0)
    if len(ended) == 0:  # cut off within a word, which is left out
        ended = np.arange(size)
    scores = np.empty(len(ended))
    for i, last_one in enumerate(ended):
        both = _add(beam.blank[last_one], beam.spoken[last_one])
        scores[i] = both + beam.lm[last_one]
        if beam.history[last_one]:  # that nothing was said is no sentence
            nodes = _nodes_of(words, beam.context[last_one], known)
            scores[i] += weights.lm * log_prob_behind(words, nodes, end)
    return scores, beam.history[ended], parents, last, joined


def prepare_search(vocabulary: Vocabulary, model: WordNgramLM) -> None:
    """Compile the search, or fetch it from Numba's cache, before there is anything to search in.

    Others that want to search meanwhile wait, as Numba does one thing at a time.
    """
    found = _search(
        np.zeros((0, 1)), vocabulary.forest.tables, vocabulary.roots, vocabulary.entries,
        model.tables, model.start_history, model.end_id, Weights(1.0, 0.0, 0.0, 1, 1.0, 0.0),
    )  # fmt: skip
    best_texts(*found, vocabulary, model.unknown_id, 1)


def search_words(
    log_probs: Tensor,
    lengths: Tensor,
    vocabularies: Sequence[Vocabulary],
    model: WordNgramLM,
    weights: Weights,
    nbest: int,
    threads: int = 1,
) -> list[list[WordHypothesis]]:
    """Return the best texts of each utterance, best first and each once: at least one.

    Args:
        log_probs: (B, T, P) of phones and blank (0).
        lengths: (B,) frames.
        vocabularies: What can be said in each utterance.
        model: Its language model.
        weights: See `Weights`.
        nbest: How many at most.
        threads: Utterances searched at once.
    """
    rows = [
        row[:n].double().numpy() for row, n in zip(log_probs.cpu(), lengths.tolist(), strict=True)
    ]

    def search(row: Array, vocabulary: Vocabulary) -> list[WordHypothesis]:
        found = _search(
            row, vocabulary.forest.tables, vocabulary.roots, vocabulary.entries, model.tables,
            model.start_history, model.end_id, weights,
        )  # fmt: skip
        return best_texts(*found, vocabulary, model.unknown_id, nbest)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(search, rows, vocabularies))
