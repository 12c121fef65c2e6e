"""The word language model: against a dictionary of counts, compiled, and on disk."""

from __future__ import annotations

import lzma
import math
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from numba import njit
from safetensors.numpy import save_file

from asr.lm import LanguageModelError
from asr.word_lm import (
    MAX_HISTORY,
    NATS_PER_STEP,
    WORD_BITS,
    WordNgramLM,
    WordTables,
    append_word,
    shorten_history,
    word_log_prob,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes" / "language_model"))

import kneser_ney
import train_words as recipe
import word_ngrams

SENTENCES = [
    sentence.split()
    for sentence in (
        "the old man said that the old house was his,and he told them so,it is not the house,"
        "that makes the man,said the old woman,but the man makes the house,and so they said,"
        "that the old man said so,he had the cake,the cake that she had made,and it is eaten,"
        "the old man had the cake,she said so,said the old man,it is the old house"
    ).split(",")
]
ORDER = 3


def make_orders(sentences: list[list[str]]) -> tuple[list[str], list[word_ngrams.Order]]:
    """Return a vocabulary without the rarest words, and all n-grams."""
    counts = Counter(word for sentence in sentences for word in sentence)
    words = [*sorted(word for word in counts if counts[word] > 1), "neverseen"]
    unknown = len(words) + 1
    tokens = [
        token
        for sentence in sentences
        for token in (
            unknown + 1,
            *(words.index(word) + 1 if word in words else unknown for word in sentence),
            unknown + 2,
        )
    ]
    base = recipe.base_distribution(words, {})
    return words, word_ngrams.estimate(np.array(tokens, np.int32), ORDER, base)


def make_model(max_ngrams: int = 10**9) -> WordNgramLM:
    words, orders = make_orders(SENTENCES)
    return word_ngrams.compile_model(words, orders, word_ngrams.prune(orders, max_ngrams))


@pytest.fixture(scope="module")
def model() -> WordNgramLM:
    return make_model()


def packed(model: WordNgramLM, text: str) -> int:
    """Return the history of a text in which <s> may stand."""
    history = 0
    for word in text.split():
        history = append_word(history, model.start_id if word == "<s>" else model.word_id(word))
    return history


def slow_probability(model: WordNgramLM, history: list[int], word: int) -> float:
    """Interpolated Kneser-Ney from dictionaries, after its textbook formula."""
    ids = [[model.start_id, *map(model.word_id, sentence), model.end_id] for sentence in SENTENCES]

    def table(length: int) -> dict[tuple[int, ...], int]:
        grams = [tuple(s[i : i + length]) for s in ids for i in range(len(s) - length + 1)]
        raw = Counter(grams)
        if length == ORDER:
            return raw
        before = defaultdict(set)
        for sentence in ids:
            for i in range(len(sentence) - length):
                before[tuple(sentence[i + 1 : i + 1 + length])].add(sentence[i])
        return {g: n if g[0] == model.start_id else len(before[g]) for g, n in raw.items()}

    probability = recipe.base_distribution(list(model.words), {})[word]
    for length in range(1, ORDER + 1):
        counts = table(length)
        if length == 1:
            counts = {gram: n for gram, n in counts.items() if gram[0] != model.start_id}
        context = tuple(history[len(history) - length + 1 :]) if length > 1 else ()
        here = {gram[-1]: n for gram, n in counts.items() if gram[:-1] == context}
        if len(context) < length - 1 or not here:
            break
        discounts = kneser_ney.three_discounts(np.array(list(counts.values())))
        kept = {w: n - discounts[min(n, len(discounts)) - 1] for w, n in here.items()}
        total = sum(here.values())
        mass = (total - sum(kept.values())) / total
        probability = kept.get(word, 0) / total + mass * probability
    return float(probability)


HISTORIES = ["", "<s>", "the old", "old", "<s> the", "<s> said", "cake the", "zebra zebra", "is"]


@pytest.mark.parametrize("text", HISTORIES)
def test_equals_kneser_ney_from_dictionaries(model: WordNgramLM, text: str) -> None:
    history = packed(model, text)
    ids = [model.start_id if word == "<s>" else model.word_id(word) for word in text.split()]
    for word in range(1, model.end_id + 1):
        if word == model.start_id:
            assert model.log_prob(history, word) == -math.inf
            continue
        expected = math.log(slow_probability(model, ids, word))
        # A probability and up to two weights, each rounded to a step.
        tolerance = 1.5 * NATS_PER_STEP + 1e-5
        assert model.log_prob(history, word) == pytest.approx(expected, abs=tolerance), word


def test_counts_from_elsewhere_have_their_share_in_single_words() -> None:
    tokens = np.array([6, 1, 2, 1, 7, 6, 1, 7], np.int32)  # words 1 to 4, <unk>, <s>, </s>
    base = recipe.base_distribution(["a", "b", "c", "d"], {"c": 90, "d": 10})
    assert base.sum() == pytest.approx(1) and base[0] == base[6] == 0
    assert base[3] / base[4] == pytest.approx(91 / 11)
    without, half = (word_ngrams.estimate(tokens, 2, base, share)[0] for share in (0.0, 0.5))
    expected = (np.exp(without.log_probs) + base) / 2
    np.testing.assert_allclose(np.exp(half.log_probs), expected)


@pytest.mark.parametrize("max_ngrams", [10**9, 60, 30])
@pytest.mark.parametrize("text", HISTORIES)
def test_probabilities_sum_to_one(max_ngrams: int, text: str, tmp_path: Path) -> None:
    model = make_model(max_ngrams)
    model.save(tmp_path / "words.safetensors")
    for each in (model, WordNgramLM.load(tmp_path / "words.safetensors")):
        history = packed(each, text)
        total = sum(math.exp(each.log_prob(history, w)) for w in range(1, each.end_id + 1))
        assert total == pytest.approx(1, abs=0.06)


def test_pruning_keeps_what_it_may_and_every_context() -> None:
    _, orders = make_orders(SENTENCES)
    everything = sum(len(order.words) for order in orders)
    for most in (everything, 60, 30):
        keep = word_ngrams.prune(orders, most)
        assert sum(int(kept.sum()) for kept in keep) <= most
        assert keep[0].all()
        for order, kept, below in zip(orders[1:], keep[1:], keep, strict=False):
            assert below[order.contexts[kept]].all()
    scores = [
        sum(make_model(most).score_words(sentence).sum() for sentence in SENTENCES)
        for most in (everything, 60, 30)
    ]
    assert scores[0] > scores[1] > scores[2]


def test_compiled_functions_equal_the_method(model: WordNgramLM) -> None:
    @njit
    def walk(tables: WordTables, history: int, words: np.ndarray) -> float:  # type: ignore[type-arg]
        total = 0.0
        for word in words:
            total += word_log_prob(tables, history, word)
            history = append_word(history, word)
        return total

    for sentence in [*SENTENCES, "zebra the old zebra man".split(), []]:
        ids = np.array([*map(model.word_id, sentence), model.end_id])
        found = walk(model.tables, model.start_history, ids)
        assert found == pytest.approx(model.score_words(sentence).sum(), abs=1e-6)
        history = model.start_history
        total = 0.0
        for word in map(int, ids):
            assert append_word(history, word) == append_word.py_func(history, word)
            total += word_log_prob.py_func(model.tables, history, word)
            history = append_word(history, word)
        assert total == pytest.approx(found, abs=1e-5)


def test_a_history_keeps_the_last_words(model: WordNgramLM) -> None:
    history = 0
    for word in range(1, MAX_HISTORY + 3):
        history = append_word(history, word)
    words = [(history >> (WORD_BITS * place)) & (2**WORD_BITS - 1) for place in range(4)]
    last = MAX_HISTORY + 2
    assert words[:MAX_HISTORY] == list(range(last, last - MAX_HISTORY, -1))
    assert not any(words[MAX_HISTORY:])
    assert model.start_history == append_word(0, model.start_id)


@pytest.mark.parametrize("max_ngrams", [10**9, 40])
def test_a_shortened_history_gives_the_same_probabilities(max_ngrams: int) -> None:
    model = make_model(max_ngrams)
    shorter = 0
    for sentence in SENTENCES:
        history = short = model.start_history
        for word in map(model.word_id, sentence):
            history = append_word(history, word)
            short = shorten_history(model.tables, append_word(short, word))
            shorter += short < history
            for following in range(1, model.end_id + 1):
                assert model.log_prob(short, following) == model.log_prob(history, following)
    assert shorter > 0
    unseen = append_word(packed(model, "the old"), model.word_id("neverseen"))
    assert shorten_history(model.tables, unseen) == 0


def test_ids_and_unigrams(model: WordNgramLM) -> None:
    number = len(model.words)
    assert (model.unknown_id, model.start_id, model.end_id) == (number + 1, number + 2, number + 3)
    assert [model.word_id(word) for word in model.words] == list(range(1, number + 1))
    assert model.word_id("zebra") == model.unknown_id
    assert model.unigrams.shape == (number + 4,) and model.unigrams.dtype == np.float32
    assert np.exp(model.unigrams).sum() == pytest.approx(1, abs=1e-5)
    for word in range(1, number + 4):
        assert model.log_prob(0, word) == model.unigrams[word]
    for word in (0, number + 4):
        with pytest.raises(ValueError, match=f"found id {word}, wanted 1 to {number + 3}"):
            model.log_prob(0, word)


def test_file_round_trip(tmp_path: Path) -> None:
    # Enough different words for followers that lie further apart than a byte or two can tell.
    generator = np.random.default_rng(0)
    words = [f"w{number}" for number in range(70_000)]
    picked = (70_000 * generator.random((3000, 6)) ** 4).astype(np.int32) + 1
    start = np.full((3000, 1), len(words) + 2)
    tokens = np.concatenate([start, picked, start + 1], axis=1).ravel().astype(np.int32)
    base = recipe.base_distribution(words, {})
    orders = word_ngrams.estimate(tokens, ORDER, base)
    everything = [np.ones(len(order.words), np.bool_) for order in orders]
    model = word_ngrams.compile_model(words, orders, everything)
    assert np.diff(model.tables.starts).max() > 255  # more followers than a byte can tell, too
    model.save(tmp_path / "words.safetensors")
    loaded = WordNgramLM.load(tmp_path / "words.safetensors")
    assert loaded.words == model.words
    for before, after in zip(model.tables, loaded.tables, strict=True):
        assert before.dtype == after.dtype and after.flags.writeable
        np.testing.assert_array_equal(before, after)


def test_damaged_files(model: WordNgramLM, tmp_path: Path) -> None:
    path = tmp_path / "words.safetensors"
    model.save(path)
    data = path.read_bytes()
    broken = tmp_path / "broken"
    for cut in (0, 1, 50, len(data) // 2, len(data) - 1):
        broken.write_bytes(data[:cut])
        with pytest.raises(LanguageModelError, match="broken: not a language model of words: "):
            WordNgramLM.load(broken)
    with pytest.raises(LanguageModelError, match="missing: not a language model of words: "):
        WordNgramLM.load(tmp_path / "missing")
    columns = model.columns()
    save_file(columns, broken)
    with pytest.raises(LanguageModelError, match="found format None, wanted 'word n-grams 1'"):
        WordNgramLM.load(broken)
    for name in columns:
        for damaged in (columns[name][:-3], np.zeros(20, np.uint8)):
            save_file({**columns, name: damaged}, broken, {"format": "word n-grams 1"})
            with pytest.raises(LanguageModelError):
                WordNgramLM.load(broken)
        rest = {other: column for other, column in columns.items() if other != name}
        save_file(rest, broken, {"format": "word n-grams 1"})
        with pytest.raises(LanguageModelError, match="broken: not a language model of words: "):
            WordNgramLM.load(broken)


def test_tables_that_do_not_fit_are_refused(model: WordNgramLM) -> None:
    """Compiled code would read beyond them without noticing."""
    tables = model.tables
    outside = tables.words.copy()
    outside[-1] = len(tables.unigrams)
    for wrong in (
        tables._replace(words=outside),
        tables._replace(steps=tables.steps[:-1]),
        tables._replace(starts=tables.starts + 1),
        tables._replace(starts=tables.starts[::-1].copy()),
        tables._replace(backoffs=tables.backoffs[:-1]),
    ):
        with pytest.raises(LanguageModelError, match="that do not fit together"):
            WordNgramLM(model.words, wrong)
    with pytest.raises(LanguageModelError, match="found 3 words and"):
        WordNgramLM(model.words[:3], tables)


def test_paragraphs_are_split_where_a_reader_pauses() -> None:
    line = 'Mr. A. Smith said: "I saw the boys\' dog!" He (Mrs. Jones) left; at 3.5 it was over.'
    assert [" ".join(words) for words in recipe.sentences(line)] == [
        "mister a smith said",
        "i saw the boys' dog",
        "he missus jones left",
        "at three point five it was over",
    ]


def test_held_out_words_are_taken_off_the_counts_from_elsewhere() -> None:
    held_out = recipe.Text({"read": 1})
    held_out.append(["rare", "read", "rare"])
    elsewhere = {"rare": 2, "read": 5, "other": 1}
    left = recipe.without_held_out(elsewhere, held_out)
    assert left == {"rare": 0, "read": 4, "other": 1}


def test_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book = tmp_path / "book.txt.xz"
    with lzma.open(book, "wt") as file:
        file.writelines(f"{' '.join(sentence).capitalize()}. It is so!\n" for sentence in SENTENCES)
    transcripts = tmp_path / "said.txt"
    lines = [f"1-2-{n:04} {' '.join(s).upper()}\n" for n, s in enumerate(SENTENCES * 15)]
    transcripts.write_text("".join(lines))
    counts = tmp_path / "counts.txt"
    counts.write_text("zebra\t70\nman\t2\n")
    output = tmp_path / "new" / "words.safetensors"
    command = [str(book), "--transcripts", str(transcripts), "--word-counts", str(counts)]
    command += ["--vocabulary", "20", "--output", str(output)]
    assert recipe.main(command) == 0
    printed = capsys.readouterr().out
    assert "held out: " in printed and "perplexity" in printed and "MB" in printed
    model = WordNgramLM.load(output)
    assert len(model.words) == 20 and "zebra" in model.words
    assert model.score_words("the old man".split()).sum() > (
        model.score_words("man old the".split()).sum()
    )
    first = output.read_bytes()
    assert recipe.main(command) == 0
    assert output.read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.txt"], "No such file"),
        (["empty.txt"], "found no text"),
        (["text.txt", "--word-counts", "text.txt"], "line 1: found 'some text here', wanted WORD"),
        (["text.txt", "--max-mb", "0.0001"], "--max-mb: found 0.0001, wanted more"),
    ],
)
def test_errors_of_the_program(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("")
    Path("text.txt").write_text("some text here\n" * 5)
    assert recipe.main([*arguments, "--output", "words.safetensors"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
    assert not Path("words.safetensors").exists()


@pytest.mark.parametrize("option", ["--order", "--vocabulary"])
def test_options_out_of_range(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        recipe.main(["text.txt", "--output", "words.safetensors", option, "0"])
    assert error.value.code == 2
    assert f"{option}: found 0, wanted " in capsys.readouterr().err
