"""Make a word n-gram language model from text.

    python recipes/language_model/train_words.py books.txt.xz \\
        --transcripts transcripts.txt.xz --word-counts vocabulary.txt.xz \\
        --vocabulary 100000 --max-mb 14 --output runs/lm/words.safetensors
    python recipes/language_model/train_words.py small.txt --output words.safetensors

Text files hold one paragraph a line and may be compressed (.xz, .gz). Lines of `--transcripts`
begin with an utterance id, as LibriSpeech's do: they are of the kind that is to be recognised, and
every 100th of them is held out (of all texts where there are none): the program prints their
perplexity. `--word-counts` has lines of a word and how often it was seen elsewhere: it helps to
choose the vocabulary and to tell rare words apart.

The n-grams that cost most to lose are kept, as many as fit into `--max-mb`. With 23 million words,
four words in 14 MB have a perplexity of 232 on held-out transcripts, three words 241; 100 s of one
core. Part of what is held out also stands in the books: figures compare models, and no more.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asr.arguments import Parser
from asr.normalize import normalize_text
from asr.texts import READ_ERRORS
from asr.word_lm import MAX_HISTORY, WordNgramLM, append_word

sys.path.insert(0, str(Path(__file__).parent))  # where a test imports this file

from kneser_ney import HELD_OUT_EVERY, Floats, read_raw_lines
from word_ngrams import Order, compile_model, estimate, prune

# Where a reader pauses: a transcript is what was said between pauses, so each part of a sentence
# is one. Not after titles and initials.
PAUSE = re.compile(
    r"""(?:(?<![.\s][A-Z]\.)(?<!^[A-Z]\.)(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)(?<!\bSt\.)"""
    r"""(?<=[.?!;:])|(?<=[.?!;:]["')\]]))\s+"""
)
# Stands for a pause while a paragraph is normalised: only whole ones show where quotations end.
PAUSE_WORD = "pausehere"
BYTES_PER_NGRAM = 2.2  # for a first guess
UNSEEN_SHARE = 0.003  # of <unk> below all that was counted
END_SHARE = 0.04  # of </s>
# Of counts elsewhere in single words' probabilities; 0.15 and 0 were worse on held-out text.
ELSEWHERE_SHARE = 0.4


@dataclass
class Text:
    """Sentences as numbers, one word after another, each sentence ended by a 0."""

    places: dict[str, int]  # shared by all texts
    tokens: array[int] = field(default_factory=lambda: array("i"))

    def append(self, words: Iterable[str]) -> None:
        """Add a sentence."""
        places = self.places
        before = len(self.tokens)
        self.tokens.extend([places.setdefault(word, len(places) + 1) for word in words])
        if len(self.tokens) > before:
            self.tokens.append(0)

    def numbers(self) -> NDArray[np.int32]:
        """Return the tokens as an array."""
        return np.array(self.tokens, dtype=np.int32)


def sentences(line: str) -> Iterator[list[str]]:
    """Yield the normalised sentences of a paragraph."""
    words = normalize_text(PAUSE.sub(f" {PAUSE_WORD} ", line.strip())).split()
    sentence: list[str] = []
    for word in words:
        if word == PAUSE_WORD:
            yield sentence
            sentence = []
        else:
            sentence.append(word)
    yield sentence


def read_texts(texts: list[Path], transcripts: list[Path]) -> tuple[Text, Text, Text]:
    """Return the sentences of texts and of transcripts, and those that are held out."""
    places: dict[str, int] = {}
    read, said, held_out = Text(places), Text(places), Text(places)
    for path in texts:
        for number, line in enumerate(read_raw_lines(path)):
            is_held_out = not transcripts and number % HELD_OUT_EVERY == 0
            for sentence in sentences(line):
                (held_out if is_held_out else read).append(sentence)
    for path in transcripts:
        for number, line in enumerate(read_raw_lines(path, transcripts=True)):
            (said if number % HELD_OUT_EVERY else held_out).append(normalize_text(line).split())
    return read, said, held_out


def read_word_counts(path: Path | None) -> dict[str, int]:
    """Return how often words were seen elsewhere.

    Raises:
        ValueError: A line is not a word and a number.
    """
    counts: dict[str, int] = {}
    for number, line in enumerate(read_raw_lines(path) if path else [], start=1):
        parts = line.split()
        if len(parts) != 2 or not parts[1].isdecimal():
            raise ValueError(f"{path}, line {number}: found {line.strip()!r}, wanted WORD COUNT")
        words = normalize_text(parts[0]).split()
        if len(words) == 1:
            counts[words[0]] = counts.get(words[0], 0) + int(parts[1])
    return counts


def without_held_out(elsewhere: dict[str, int], held_out: Text) -> dict[str, int]:
    """Return counts from elsewhere less those of held-out text, which may be among them.

    Or its rare words would count as known, and it would be no text that was never seen.
    """
    counts = np.bincount(held_out.numbers(), minlength=len(held_out.places) + 1)
    counts[0] = 0  # ends of sentences; no word has this place
    places = held_out.places
    return {
        word: max(count - int(counts[places.get(word, 0)]), 0) for word, count in elsewhere.items()
    }


def choose_words(
    places: dict[str, int], counts: NDArray[np.int64], elsewhere: dict[str, int], size: int
) -> list[str]:
    """Return the most frequent words, the first one first; equal ones by their letters."""
    totals = {word: int(counts[place]) for word, place in places.items()}
    for word, more in elsewhere.items():
        totals[word] = totals.get(word, 0) + more
    known = sorted((word for word in totals if totals[word]), key=lambda w: (-totals[w], w))
    return known[:size]


def with_marks(text: Text, ids: NDArray[np.int32], num_words: int) -> NDArray[np.int32]:
    """Return the ids of a text's words and of <s> and </s> around its sentences."""
    tokens = text.numbers()
    ends = np.flatnonzero(tokens == 0)
    tokens = ids[tokens]
    starts = np.r_[0, ends[:-1] + 1] if len(ends) else ends
    return np.insert(tokens, starts, np.int32(num_words + 2))


def base_distribution(words: list[str], elsewhere: dict[str, int]) -> Floats:
    """Return the distribution of all ids below the single words: what was seen elsewhere."""
    base = np.zeros(len(words) + 4)
    base[1:-3] = [elsewhere.get(word, 0) + 1 for word in words]
    total = base.sum()
    base[-3], base[-1] = UNSEEN_SHARE * total, END_SHARE * total
    scaled: Floats = base / base.sum()
    return scaled


def fit(words: list[str], orders: list[Order], max_mb: float) -> WordNgramLM:
    """Return the largest model, within a hundredth, whose file is not larger than that."""
    most = sum(len(order.words) for order in orders)
    wanted = min(most, int(max_mb * 1e6 / BYTES_PER_NGRAM))
    fitting: WordNgramLM | None = None
    for _ in range(6):
        model = compile_model(words, orders, prune(orders, wanted))
        size = sum(column.nbytes for column in model.columns().values()) / 1e6 + 0.001
        if size <= max_mb:
            fitting = model
            if size >= 0.99 * max_mb or wanted == most:
                break
        wanted = min(most, int(wanted * 0.997 * max_mb / size))
    if fitting is None:
        raise ValueError(
            f"--max-mb: found {max_mb:g}, wanted more than the {len(words)} words alone need, "
            f"about {len(words) * 6e-6:.1f}; or a smaller --vocabulary"
        )
    return fitting


def report(model: WordNgramLM, tokens: NDArray[np.int32]) -> str:
    """Return a line on how well the model knows a text with marks."""
    log_probs = []
    for sentence in np.split(tokens, np.flatnonzero(tokens == model.start_id))[1:]:
        history = model.start_history
        for token in map(int, sentence[1:]):
            log_probs.append(model.log_prob(history, token))
            history = append_word(history, token)
    found = np.array(log_probs)
    predicted = tokens[tokens != model.start_id]
    unknown = predicted == model.unknown_id
    words = int((predicted != model.end_id).sum())
    return (
        f"held out: {words:,} words, {unknown.sum() / max(words, 1):.2%} unknown; perplexity "
        f"{np.exp(-found[~unknown].mean()):.1f} without these, {np.exp(-found.mean()):.1f} with"
    )


def train(
    read: Text, said: Text, held_out: Text, elsewhere: dict[str, int], options: argparse.Namespace
) -> tuple[WordNgramLM, NDArray[np.int32]]:
    """Return a model of the texts read and said, and what is held out as ids with marks.

    Raises:
        ValueError: There is no text, or the vocabulary does not fit into the size.
    """
    tokens = np.r_[read.numbers(), said.numbers()]
    if not len(tokens):
        raise ValueError("found no text, wanted at least two lines")
    counts = np.bincount(tokens, minlength=len(read.places) + 1)
    words = choose_words(read.places, counts, elsewhere, options.vocabulary)
    ids = np.full(len(read.places) + 1, len(words) + 1, np.int32)  # <unk>
    ids[0] = len(words) + 3  # </s>
    for index, word in enumerate(words, start=1):
        if word in read.places:
            ids[read.places[word]] = index
    parts = [with_marks(text, ids, len(words)) for text in (read, said)]
    print(f"{len(tokens) / 1e6:.1f} M words and ends of sentences, {len(words):,} different words")
    base = base_distribution(words, elsewhere)
    share = ELSEWHERE_SHARE if elsewhere else 0.0
    orders = estimate(np.concatenate(parts), options.order, base, share)
    print("n-grams:", ", ".join(f"{len(order.words):,}" for order in orders))
    return fit(words, orders, options.max_mb), with_marks(held_out, ids, len(words))


def make_parser() -> Parser:
    """Return the program's options."""
    parser = Parser(description=__doc__)
    parser.add_argument("texts", nargs="*", type=Path, help="text files, one paragraph a line")
    parser.add_argument("--transcripts", nargs="*", type=Path, default=[], metavar="FILE")
    parser.add_argument("--word-counts", type=Path, metavar="FILE")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--vocabulary", type=int, default=100_000, metavar="WORDS", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--order", type=int, default=4, help="longest n-gram (default: %(default)s)"
    )
    parser.add_argument("--max-mb", type=float, default=14.0, help="(default: %(default)s)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the program; return 2 after an error of the user's."""
    parser = make_parser()
    options = parser.parse_args(argv)
    for name, low, high in (("order", 2, MAX_HISTORY + 1), ("vocabulary", 1, 1_000_000)):
        if not low <= getattr(options, name) <= high:
            parser.error(f"--{name}: found {getattr(options, name)}, wanted {low} to {high}")
    started = time.monotonic()
    try:
        read, said, held_out = read_texts(options.texts, options.transcripts)
        elsewhere = without_held_out(read_word_counts(options.word_counts), held_out)
        model, test = train(read, said, held_out, elsewhere, options)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        model.save(options.output)
    except (*READ_ERRORS, ValueError) as error:
        print(f"train_words: {error}", file=sys.stderr)
        return 2
    print(f"{model.num_ngrams:,} n-grams, {options.output.stat().st_size / 1e6:.2f} MB")
    print(report(model, test))
    print(f"{options.output} written after {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
