"""Make a recurrent language model of words from text, for the best texts of a search.

    python recipes/language_model/train_recurrent.py books.txt.xz \\
        --transcripts transcripts.txt.xz --word-lm runs/lm/words.safetensors \\
        --output runs/lm/recurrent.safetensors
    python recipes/language_model/train_recurrent.py small.txt --word-lm words.safetensors \\
        --cells 64 --width 32 --output recurrent.safetensors
    python recipes/language_model/train_recurrent.py books.txt.xz --word-lm words.safetensors \\
        --init-from old.safetensors --learning-rate 0.0015 --output recurrent.safetensors

Text files are those of `train_words.py`, whose model says which words there are: the most frequent
`--vocabulary` of them are known, the others are one word. Sentences of books are joined as a
reader says several in one breath; transcripts count twice. Every 100th of them is held out (of all
texts where there are none): the program prints their perplexity. The words that each is held
against are a sample (Bengio and Senécal, "Adaptive importance sampling to accelerate training of a
neural probabilistic language model", 2008), and what all words sum to is held near one, so that the
search need not sum (Devlin et al., "Fast and robust neural network joint models for statistical
machine translation", 2014). The state is saved every few minutes; the same command
goes on where it stopped.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from asr.arguments import Parser, complain, number, positive
from asr.checkpoint import load_state, save_state
from asr.precision import has_bfloat16
from asr.recurrent_lm import END, SPECIAL, UNKNOWN, RecurrentWordLM
from asr.texts import READ_ERRORS
from asr.word_lm import WordNgramLM

sys.path.insert(0, str(Path(__file__).parent))  # where a test imports this file

from train_words import Text, read_texts

Ints = NDArray[np.int32]

BATCH_WORDS = 2500  # an update
JOINED_WORDS = (4, 40)  # of neighbouring sentences of books, about
MOST_WORDS = 60  # of a sequence; the rest of a longer one is left out
SAMPLES = 3000  # words that each update is held against
UNKNOWN_SHARE = 0.3  # how much less often than it comes <unk> is sampled
NORMALISED = 0.1  # weight of the squared log of what all words sum to, which should be one
WARMUP = 200  # updates
SAVE_SECONDS = 180.0
PAD = -1


def to_ids(text: Text, words: tuple[str, ...]) -> Ints:
    """Return a text's words as the model's ids, each sentence with its end."""
    ids = np.full(len(text.places) + 1, UNKNOWN, np.int32)
    ids[0] = END
    for index, word in enumerate(words, start=SPECIAL):
        if word in text.places:
            ids[text.places[word]] = index
    return ids[text.numbers()]


def split_sentences(ids: Ints) -> list[Ints]:
    """Return the sentences without their ends."""
    return [part[part != END] for part in np.split(ids, np.flatnonzero(ids == END) + 1)[:-1]]


def join_sentences(sentences: list[Ints], chance: np.random.Generator) -> Iterator[Ints]:
    """Yield neighbouring sentences together, as many as a length drawn by chance holds."""
    low, high = JOINED_WORDS
    together: list[Ints] = []
    wanted = size = 0
    for sentence in sentences:
        if together and size + len(sentence) > max(wanted, low):
            yield np.concatenate(together)
            together, size = [], 0
        if not together:
            wanted = int(chance.integers(low, high))
        together.append(sentence)
        size += len(sentence)
    if together:
        yield np.concatenate(together)


def make_batches(sequences: list[Ints], chance: np.random.Generator) -> list[list[int]]:
    """Return the numbers of sequences of like length, batch by batch, in any order."""
    lengths = np.array([len(sequence) for sequence in sequences])
    order = np.argsort(lengths + chance.random(len(lengths)), kind="stable")
    sizes = (lengths[order] + 1).cumsum() // BATCH_WORDS
    batches = np.split(order, np.flatnonzero(np.diff(sizes)) + 1)
    return [batches[index].tolist() for index in chance.permutation(len(batches))]


@dataclass(frozen=True)
class Sampler:
    """Words against which the right ones are held, frequent ones more often.

    Attributes:
        cumulative: (ids,) of their probabilities.
        log_expected: (ids,) log of how often an update draws each.
    """

    cumulative: NDArray[np.float64]
    log_expected: Tensor

    @classmethod
    def of_counts(cls, counts: NDArray[np.float64]) -> Sampler:
        """Return one that draws with the counts to the power of 3/4."""
        shares = (counts + 1) ** 0.75
        shares[UNKNOWN] *= UNKNOWN_SHARE
        shares /= shares.sum()
        return cls(shares.cumsum(), torch.from_numpy(np.log(shares * SAMPLES)).float())

    def draw(self, chance: np.random.Generator) -> Tensor:
        """Return ids (SAMPLES,)."""
        drawn = self.cumulative.searchsorted(chance.random(SAMPLES) * self.cumulative[-1])
        return torch.from_numpy(drawn.clip(max=len(self.cumulative) - 1))


def sampled_loss(
    model: RecurrentWordLM, rows: list[Tensor], samples: Tensor, log_expected: Tensor
) -> Tensor:
    """Return the mean loss of all words and ends of sequences, in nats, and its penalty.

    Args:
        model: In training.
        rows: Ids of the sequences.
        samples: (S,) ids to hold them against.
        log_expected: (ids,) log of how often each is expected among these.
    """
    given = F.pad(pad_sequence(rows, batch_first=True, padding_value=END), (1, 0), value=END)
    wanted = F.pad(pad_sequence(rows, batch_first=True, padding_value=PAD), (0, 1), value=PAD)
    lengths = torch.tensor([len(row) for row in rows])
    wanted = wanted.scatter(1, lengths[:, None], END)
    real = wanted != PAD
    cpu = torch.device("cpu")
    with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16(cpu)):
        expected = model(given)[real]  # (N, width)
        others = expected @ model.embedding(samples).T  # (N, S)
    wanted = wanted[real]
    others = others.float() + (model.bias - log_expected)[samples]
    others = others.masked_fill(samples == wanted[:, None], -torch.inf)
    right = (expected.float() * model.embedding(wanted)).sum(1)
    right = right + model.bias[wanted]
    total = torch.logaddexp(right, others.logsumexp(1))
    return (total - right).mean() + NORMALISED * total.square().mean()


def judge(model: RecurrentWordLM, sequences: list[Ints]) -> tuple[float, float]:
    """Return two figures of sequences and their ends.

    Their perplexity, words that are not known left out, and how far from one all words together
    are: the root of the mean square of the logarithm, in nats.
    """
    loss = square = 0.0
    known = places = 0
    with torch.inference_mode():
        for sequence in sequences:
            row = torch.from_numpy(sequence.astype(np.int64))
            logits = model.logits(model(F.pad(row, (1, 0), value=END)[None])[0])
            totals, wanted = logits.logsumexp(1), F.pad(row, (0, 1), value=END)
            losses = (totals - logits.gather(1, wanted[:, None])[:, 0])[wanted != UNKNOWN]
            loss, known = loss + float(losses.sum()), known + len(losses)
            square, places = square + float(totals.square().sum()), places + len(totals)
    return math.exp(loss / max(known, 1)), math.sqrt(square / max(places, 1))


def train(options: argparse.Namespace) -> RecurrentWordLM:
    """Train a model.

    Raises:
        LanguageModelError: The model to go on from cannot be read.
        ValueError: There is no text, the model to go on from has other words, or the state is that
            of another model.
    """
    words = WordNgramLM.load(options.word_lm).words[: options.vocabulary]
    read, said, held_out = (
        to_ids(text, words) for text in read_texts(options.texts, options.transcripts)
    )
    chance = np.random.default_rng(1)
    spoken = split_sentences(said)
    sequences = [*join_sentences(split_sentences(read), chance), *spoken, *spoken]
    sequences = [sequence[:MOST_WORDS] for sequence in sequences if len(sequence)]
    if not sequences:
        raise ValueError("found no text, wanted at least two lines")
    batches = make_batches(sequences, chance)
    counts = np.bincount(np.r_[read, said], minlength=len(words) + SPECIAL).astype(np.float64)
    sampler = Sampler.of_counts(counts)
    model = start(words, counts, options)
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98))
    state_path = state_of(options.output)
    size = [len(words), model.embedding.embedding_dim, model.rnn.hidden_size]
    updates, first = options.updates or options.passes * len(batches), 0
    if state_path.exists():
        state, _ = load_state(state_path)
        if state["updates"] != updates or state["size"] != size:
            raise ValueError(f"{state_path}: is of other settings; delete it to begin anew")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["update"]
    print(f"{sum(map(len, sequences)) / 1e6:.1f} M words, updates {first} to {updates}", flush=True)
    saved = time.monotonic()
    for update in range(first, updates):
        luck = np.random.default_rng([1, update])
        rate = options.learning_rate * min((update + 1) / WARMUP, max(0.01, 1 - update / updates))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = batches[update % len(batches)]
        rows = [torch.from_numpy(sequences[number].astype(np.int64)) for number in batch]
        loss = sampled_loss(model, rows, sampler.draw(luck), sampler.log_expected)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if update % 500 == 499:
            print(f"update {update + 1}/{updates}: {float(loss.detach()):.2f} nats", flush=True)
        if time.monotonic() - saved > SAVE_SECONDS:
            save_state(state_path, {
                "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                "update": update + 1, "updates": updates,
                "size": size,
            })  # fmt: skip
            saved = time.monotonic()
    test = [sequence for sequence in split_sentences(held_out) if len(sequence)]
    perplexity, away = judge(model.eval(), test)
    print(
        f"held out: {sum(map(len, test)):,} words, perplexity {perplexity:.1f}; "
        f"all words together are one but for {away:.2f} nats"
    )
    return model


def start(
    words: tuple[str, ...], counts: NDArray[np.float64], options: argparse.Namespace
) -> RecurrentWordLM:
    """Return the model before its first update.

    Args:
        words: That it shall know.
        counts: (ids,) how often each comes in the texts.
        options: Of the program.

    Raises:
        LanguageModelError: The model to go on from cannot be read.
        ValueError: It knows other words.
    """
    if options.init_from:
        model = RecurrentWordLM.load(options.init_from)
        if model.words != words:
            raise ValueError(
                f"{options.init_from}: found {len(model.words)} other words, wanted the "
                f"{len(words)} most frequent ones of {options.word_lm}"
            )
        return widen(model, options.width, options.cells).train()
    torch.manual_seed(1)
    model = RecurrentWordLM(words, options.width, options.cells)
    with torch.no_grad():
        model.bias.copy_(torch.from_numpy(np.log((counts + 1) / counts.sum())))
    return model


def widen(model: RecurrentWordLM, width: int, cells: int) -> RecurrentWordLM:
    """Return a model with as long vectors and as many cells, if it has fewer, that says the same.

    What is new counts nothing at first, but is learned from (Chen, Goodfellow and Shlens, "Net2Net:
    accelerating learning via knowledge transfer", 2016).
    """
    width, cells = max(width, model.embedding.embedding_dim), max(cells, model.rnn.hidden_size)
    if (width, cells) == (model.embedding.embedding_dim, model.rnn.hidden_size):
        return model
    torch.manual_seed(1)
    wide = RecurrentWordLM(model.words, width, cells)
    small = model.state_dict()
    for name, weights in wide.state_dict().items():
        old = small[name]
        if name.startswith("rnn."):  # four gates, one above the other
            weights, old = (t.unflatten(0, (4, -1)) for t in (weights, old))
            rows = slice(old.shape[1])
            if weights.dim() == 3:  # new cells and numbers are not heard by those of before
                weights[:, rows, old.shape[2] :] = 0.0
                weights[:, rows, : old.shape[2]] = old
            else:
                weights[:, rows] = old
            continue
        if name.startswith("projection."):  # new numbers of words are not held against anything
            weights.zero_()
        weights[tuple(map(slice, old.shape))] = old
    return wide


def state_of(output: Path) -> Path:
    """Return where the state of a run is kept until its model is written."""
    return Path(f"{output}.state")


def make_parser() -> Parser:
    """Return the program's options."""
    parser = Parser(description=__doc__)
    parser.add_argument("texts", nargs="*", type=Path, help="text files, one paragraph a line")
    parser.add_argument("--transcripts", nargs="*", type=Path, default=[], metavar="FILE")
    parser.add_argument(
        "--word-lm", type=Path, required=True, metavar="FILE", help="n-gram model of these words"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--init-from", type=Path, metavar="FILE", help="model to go on from; it may grow"
    )
    parser.add_argument(
        "--learning-rate",
        type=number("a number from 0 to 0.1", 0, 0.1),
        default=3e-3,
        metavar="R",
        help="of the first updates; it falls to a hundredth (default: 0.003)",
    )
    parser.add_argument(
        "--updates", type=positive, metavar="N", help="in all, however many passes that is"
    )
    sizes = (
        ("--vocabulary", 30_000, "known words"), ("--width", 128, "numbers for each of them"),
        ("--cells", 320, "of the recurrent layer"), ("--passes", 1, "over the text"),
        ("--threads", 1, "of the CPU"),
    )  # fmt: skip
    for name, value, text in sizes:
        parser.add_argument(
            name, type=positive, default=value, metavar="N", help=f"{text} (default: {value})"
        )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the program; return 2 after an error of the user's."""
    options = make_parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    started = time.monotonic()
    try:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        train(options).save(options.output)
        state_of(options.output).unlink(missing_ok=True)
    except (*READ_ERRORS, ValueError) as error:
        complain(error)
        return 2
    size = options.output.stat().st_size / 1e6
    print(f"{options.output}: {size:.2f} MB after {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
