"""Make a character n-gram language model from text.

    python recipes/language_model/train.py books.txt.xz transcripts.txt.xz \\
        --output runs/lm/lm.safetensors --max-ngrams 2500000
    python recipes/language_model/train.py small.txt --output lm.safetensors --order 6

Text files may be compressed (.xz, .gz); with `--transcripts`, lines of those files begin with an
utterance id, as LibriSpeech's do. Every 100th line is held out: the program prints the bits a
character that the pruned model needs for them.

Smoothing is interpolated Kneser-Ney with one discount an order (Kneser & Ney 1995; Chen &
Goodman 1998); pruning keeps the n-grams whose loss would cost most (Seymore & Rosenfeld 1996).
22 million words, order 12: 514 s on one core that did other work too; memory was not measured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from asr.arguments import Parser
from asr.config import ENGLISH_ALPHABET
from asr.lm import BITS, MAX_LOG_BACKOFF, NATS_PER_STEP, CharNgramLM, Contexts
from asr.normalize import normalize_text
from asr.texts import READ_ERRORS

sys.path.insert(0, str(Path(__file__).parent))  # where a test imports this file

from kneser_ney import (
    HELD_OUT_EVERY,
    Codes,
    Floats,
    choose,
    one_discount,
    read_raw_lines,
    smooth,
)


@dataclass
class Order:
    """All n-grams of one length: packed codes, sorted, and natural-log probabilities."""

    codes: Codes
    log_probs: Floats
    counts: NDArray[np.int64]  # how often they occur in the text

    @property
    def contexts(self) -> Codes:
        """The n-grams without their last character."""
        return self.codes >> BITS


def read_lines(path: Path, transcripts: bool) -> Iterator[str]:
    """Yield the normalised lines of a text file, without empty ones."""
    for line in read_raw_lines(path, transcripts):
        text = normalize_text(line)
        if text:
            yield text


def pack(text: str, alphabet: str, order: int) -> Codes:
    """Return the packed n-gram (N,) that ends at each character of a text from the order-th on."""
    table = np.zeros(128, dtype=np.int64)
    for index, character in enumerate(alphabet):
        table[ord(character)] = index + 1
    ids = table[np.frombuffer(text.encode("ascii"), dtype=np.uint8)]
    codes = np.zeros(len(ids) - order + 1, dtype=np.int64)
    for position in range(order):
        codes = (codes << BITS) | ids[position : position + len(codes)]
    return codes


def merge(codes: Codes, weights: NDArray[np.int64]) -> tuple[Codes, NDArray[np.int64]]:
    """Return the distinct codes, sorted, and the sum of their weights."""
    order = np.argsort(codes, kind="stable")
    codes = codes[order]
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    return codes[starts], np.add.reduceat(weights[order], starts)


def estimate(text: str, alphabet: str, order: int) -> list[Order]:
    """Return interpolated Kneser-Ney models of 1, 2, …, `order` characters."""
    packed = pack(text, alphabet, order)
    packed.sort()
    starts = np.flatnonzero(np.r_[True, packed[1:] != packed[:-1]])
    codes, counts = packed[starts], np.diff(np.r_[starts, len(packed)])
    del packed
    levels = [(codes, counts, counts)]
    for length in range(order - 1, 0, -1):
        longer, raw, _ = levels[-1]
        shorter = longer & ((1 << (BITS * length)) - 1)
        codes, counts = merge(shorter, raw)
        continuations = merge(shorter, np.ones_like(raw))[1]  # different characters before it
        levels.append((codes, counts, continuations))
    orders: list[Order] = []
    lower = np.full(1, 1 / len(alphabet))
    for codes, raw, counts in reversed(levels):
        below = lower_probabilities(codes, orders, lower)
        probabilities = smooth(codes >> BITS, counts, below, one_discount(counts))
        orders.append(Order(codes, np.log(probabilities), raw))
    return orders


def lower_probabilities(codes: Codes, orders: list[Order], uniform: Floats) -> Floats:
    """Return each n-gram's probability under the order below."""
    if not orders:
        return np.broadcast_to(uniform, codes.shape)
    suffix = codes & ((1 << (BITS * len(orders))) - 1)
    below = orders[-1]
    return np.exp(below.log_probs[np.searchsorted(below.codes, suffix)])


def prune(orders: list[Order], max_ngrams: int) -> list[Order]:
    """Keep at most some n-grams: those whose replacement by a shorter context would cost most.

    Single characters stay, and so does every n-gram that is the context of another one.
    """
    costs = [np.full(len(orders[0].codes), np.inf)]
    for length, (order, lower) in enumerate(zip(orders[1:], orders, strict=False), start=1):
        suffix = order.codes & ((1 << (BITS * length)) - 1)
        gain = order.log_probs - lower.log_probs[np.searchsorted(lower.codes, suffix)]
        costs.append(order.counts * gain)

    def places(length: int, kept: NDArray[np.bool_]) -> Codes:
        return np.searchsorted(orders[length - 1].codes, orders[length].contexts[kept])

    keep = choose(costs, places, max_ngrams)
    kept_orders = [
        Order(order.codes[kept], order.log_probs[kept], order.counts[kept])
        for order, kept in zip(orders, keep, strict=True)
    ]
    return [order for order in kept_orders if len(order.codes)]


def compile_model(orders: list[Order], alphabet: str) -> CharNgramLM:
    """Turn n-grams into tables of contexts with back-off weights that make all sum to one."""
    tables: list[Contexts] = []
    for order in orders:
        contexts = order.contexts
        starts = np.flatnonzero(np.r_[True, contexts[1:] != contexts[:-1]])
        letters = (order.codes & (2**BITS - 1)) - 1
        followers = np.bitwise_or.reduceat(np.int64(1) << letters, starts)
        stored = np.minimum(np.round(-order.log_probs / NATS_PER_STEP), 255)
        backoff = backoff_weights(tables, alphabet, order, starts)
        tables.append(
            Contexts(
                torch.from_numpy(contexts[starts]),
                torch.from_numpy(followers.astype(np.int32)),
                torch.from_numpy(backoff),
                torch.from_numpy(stored.astype(np.uint8)),
            )
        )
    return CharNgramLM(alphabet, tables)


def backoff_weights(
    tables: list[Contexts], alphabet: str, order: Order, starts: Codes
) -> NDArray[np.uint8]:
    """Return the weight of the shorter context, in steps below `MAX_LOG_BACKOFF`."""
    below = CharNgramLM(alphabet, tables) if tables else None
    uniform = -np.log(len(alphabet))
    contexts = order.contexts[starts]
    sizes = np.diff(np.r_[starts, len(order.codes)])
    letters = (order.codes & (2**BITS - 1)) - 1
    lower = np.empty(len(order.codes))
    rows = np.repeat(np.arange(len(contexts)), sizes)
    for first in range(0, len(contexts), 2**16):
        codes = torch.from_numpy(contexts[first : first + 2**16])
        block = below.log_probs(codes).numpy() if below else np.full((1, len(alphabet)), uniform)
        inside = slice(*np.searchsorted(rows, [first, first + len(block)]))
        lower[inside] = block[rows[inside] - first, letters[inside]]
    # From exact probabilities: where one character is nearly certain, what is left for the
    # others would be lost in the rounding of that one.
    left = 1 - np.add.reduceat(np.exp(order.log_probs), starts)
    left_below = 1 - np.add.reduceat(np.exp(lower), starts)
    # Nothing may be left; a tiny weight keeps every character possible.
    weight = np.log(np.maximum(left, 1e-4) / np.maximum(left_below, 1e-4))
    steps = np.round((MAX_LOG_BACKOFF - weight) / NATS_PER_STEP)
    return np.clip(steps, 0, 255).astype(np.uint8)


def bits_per_character(model: CharNgramLM, text: str) -> float:
    """Return how many bits the model needs for a character of a text."""
    length = model.max_context
    codes = pack(text, model.alphabet, length + 1)
    total = 0.0
    for first in range(0, len(codes), 2**16):
        block = torch.from_numpy(codes[first : first + 2**16])
        letters = (block & (2**BITS - 1)) - 1
        log_probs = model.log_probs(block >> BITS)
        total -= log_probs.gather(1, letters[:, None]).sum().item()
    return total / len(codes) / float(np.log(2))


def main(argv: list[str] | None = None) -> int:
    """Run the program; return 2 after an error of the user's."""
    parser = Parser(description=__doc__)
    parser.add_argument("texts", nargs="*", type=Path, help="text files, one paragraph a line")
    parser.add_argument("--transcripts", nargs="*", type=Path, default=[], metavar="FILE")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--order", type=int, default=10, help="longest n-gram (default: %(default)s)"
    )
    parser.add_argument("--max-ngrams", type=int, default=2_500_000)
    options = parser.parse_args(argv)
    if not 2 <= options.order <= 12:
        parser.error(f"--order: found {options.order}, wanted 2 to 12")
    started = time.monotonic()
    train: list[str] = []
    held_out: list[str] = []
    try:
        sources = [(p, False) for p in options.texts] + [(p, True) for p in options.transcripts]
        for path, transcripts in sources:
            for number, line in enumerate(read_lines(path, transcripts)):
                (train if number % HELD_OUT_EVERY else held_out).append(line)
    except READ_ERRORS as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    if not train:
        print("train: found no text, wanted at least a hundred lines", file=sys.stderr)
        return 2
    text = " " + " ".join(train) + " "
    print(f"{len(text) / 1e6:.1f} M characters after {time.monotonic() - started:.0f} s")
    orders = estimate(text, ENGLISH_ALPHABET, options.order)
    print("n-grams:", ", ".join(f"{len(order.codes):,}" for order in orders))
    test = " " + " ".join(held_out) + " "
    model = compile_model(prune(orders, options.max_ngrams), ENGLISH_ALPHABET)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    model.save(options.output)
    size = options.output.stat().st_size / 1e6
    bits = bits_per_character(model, test)
    print(f"pruned: {model.num_ngrams:,} n-grams, {size:.1f} MB")
    print(f"held out: {bits:.3f} bits a character on {len(test):,}")
    print(f"{options.output} written after {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
