"""N-grams of words: counted, smoothed, pruned, and turned into a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from kneser_ney import Codes, Floats, choose, smooth, three_discounts
from numpy.typing import NDArray

from asr.word_lm import (
    MAX_LOG_BACKOFF,
    NATS_PER_STEP,
    NO_BACKOFF,
    WORD_BITS,
    WordNgramLM,
    WordTables,
)


@dataclass
class Order:
    """All n-grams of one length, sorted by context and then by last word.

    Attributes:
        contexts: (N,) places, in the order below, of the n-grams without their last word.
        suffixes: (N,) places, in the order below, of the n-grams without their first word.
        words: (N,) last words.
        counts: (N,) how often they occur in the text.
        log_probs: (N,) natural log.
    """

    contexts: Codes
    suffixes: Codes
    words: Codes
    counts: NDArray[np.int64]
    log_probs: Floats


def estimate(
    tokens: NDArray[np.int32], order: int, base: Floats, base_share: float = 0.0
) -> list[Order]:
    """Return interpolated Kneser-Ney models of 1, 2, …, `order` words.

    Args:
        tokens: (T,) ids of sentences, each between <s> and </s>.
        order: Words in the longest n-grams.
        base: (U,) the distribution, over all ids, below the single words.
        base_share: Of it in the single words, beside what smoothing leaves for it.
    """
    levels = count(tokens, order, len(base))
    orders: list[Order] = []
    for length, (level, begins) in enumerate(levels, start=1):
        counts = level.counts
        if length < order:
            # How many different words stand before it; nothing can stand before a sentence.
            before = np.bincount(levels[length][0].suffixes, minlength=len(counts))
            counts = np.where(begins, counts, before)
        if length == 1:
            counts[len(base) - 2] = 0  # <s> is never predicted
        lower = np.exp(orders[-1].log_probs)[level.suffixes] if orders else base
        probabilities = smooth(level.contexts, counts, lower, three_discounts(counts))
        if length == 1:
            probabilities = (1 - base_share) * probabilities + base_share * base
        with np.errstate(divide="ignore"):
            level.log_probs = np.log(probabilities)
        orders.append(level)
    return orders


def count(
    tokens: NDArray[np.int32], order: int, num_ids: int
) -> list[tuple[Order, NDArray[np.bool_]]]:
    """Return the n-grams of each length without probabilities, and which begin with <s>."""
    start_id = num_ids - 2
    ids = np.arange(num_ids)
    none = np.zeros(num_ids, np.int64)
    counts = np.bincount(tokens, minlength=num_ids)
    levels = [(Order(none, none, ids, counts, np.empty(0)), ids == start_id)]
    # For each token, the place of the n-gram that ends there, or -1 if that crosses a sentence.
    places = tokens.astype(np.int64)
    for _ in range(1, order):
        inside = (places[:-1] >= 0) & (tokens[1:] != start_id)
        ends = np.flatnonzero(inside) + 1
        codes = (places[ends - 1] << WORD_BITS) | tokens[ends]
        distinct, first, inverse, counts = np.unique(codes, True, True, True)
        contexts = distinct >> WORD_BITS
        words = distinct & ((1 << WORD_BITS) - 1)
        level = Order(contexts, places[ends[first]], words, counts, np.empty(0))
        levels.append((level, levels[-1][1][contexts]))
        places = np.full(len(tokens), -1)
        places[ends] = inverse
    return levels


def prune(orders: list[Order], max_ngrams: int) -> list[NDArray[np.bool_]]:
    """Choose at most so many n-grams (all single words stay), see `kneser_ney.choose`."""
    costs = [np.full(len(orders[0].words), np.inf)]
    for order, lower in zip(orders[1:], orders, strict=False):
        costs.append(order.counts * (order.log_probs - lower.log_probs[order.suffixes]))
    return choose(costs, lambda length, kept: orders[length].contexts[kept], max_ngrams)


def compile_model(
    words: list[str], orders: list[Order], keep: list[NDArray[np.bool_]]
) -> WordNgramLM:
    """Turn the chosen n-grams into a tree with back-off weights that make all sum to one."""
    size = len(orders[0].words)
    below = orders[0].log_probs  # of all n-grams of the order below, under the pruned model
    columns: dict[str, list[NDArray[np.int64]]] = {
        "words": [orders[0].words],
        "steps": [np.zeros(size, np.int64)],
        "children": [],
        "backoffs": [],
    }
    for order, mine, contexts_kept in zip(orders[1:], keep[1:], keep, strict=False):
        lower = below[order.suffixes]
        weights = backoff_weights(order, mine, lower, len(contexts_kept))
        steps = np.round(-order.log_probs[mine] / NATS_PER_STEP)
        columns["steps"].append(np.clip(steps, 0, 255))
        columns["words"].append(order.words[mine])
        children = np.bincount(order.contexts[mine], minlength=len(contexts_kept))
        columns["children"].append(children[contexts_kept])
        steps = np.clip(np.round((MAX_LOG_BACKOFF - weights) / NATS_PER_STEP), 0, 255)
        columns["backoffs"].append(np.where(children > 0, steps, NO_BACKOFF)[contexts_kept])
        below = np.where(mine, order.log_probs, weights[order.contexts] + lower)
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return WordNgramLM(
        words,
        WordTables(
            orders[0].log_probs.astype(np.float32),
            joined["words"].astype(np.int32),
            joined["steps"].astype(np.uint8),
            (size + np.r_[0, joined["children"].cumsum()]).astype(np.int32),
            joined["backoffs"].astype(np.uint8),
        ),
    )


def backoff_weights(
    order: Order, kept: NDArray[np.bool_], lower: Floats, num_contexts: int
) -> Floats:
    """Return the log-weight (num_contexts,) of the order below, 0 where all are pruned."""
    contexts = order.contexts[kept]
    known = np.bincount(contexts, np.exp(order.log_probs[kept]), num_contexts)
    known_below = np.bincount(contexts, np.exp(lower[kept]), num_contexts)
    # Nothing may be left; a tiny weight keeps every word possible.
    left: Floats = np.log(np.maximum(1 - known, 1e-4) / np.maximum(1 - known_below, 1e-4))
    return left
