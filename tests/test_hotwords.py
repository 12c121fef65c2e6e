"""Hot words: what a text wins by them, against a count by hand, and in a search."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_search import TableScorer

from asr.hotwords import HotwordError, HotwordScorer, parse_hotwords
from asr.search import beam_search
from asr.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer(" abc")
CPU = torch.device("cpu")


def increments(scorer: HotwordScorer, text: str) -> list[float]:
    """Spell a text and its end; what each step adds, with the bonus that the search gives back."""
    state = scorer.initial_state(1)
    tokens = [TOKENIZER.sos_id, *TOKENIZER.encode(text)]
    found = []
    for token, following in itertools.zip_longest(tokens, tokens[1:]):
        row, state = scorer.score(torch.tensor([token]), state)
        assert row.max() <= 0
        end = following is None
        value = float(row[0, TOKENIZER.eos_id if end else following])
        found.append(value if end else value + scorer.bonus)
    return found


def won(phrases: list[str], text: str, weight: float = 1.0) -> float:
    return sum(increments(HotwordScorer(phrases, weight, TOKENIZER, 1, CPU), text))


def by_hand(phrases: list[str], text: str) -> float:
    """Count the characters of words that lie in a phrase: no phrases that overlap, please."""
    covered = set()
    padded = f" {text} "
    for phrase in phrases:
        start = padded.find(f" {phrase} ")
        while start >= 0:
            covered |= set(range(start + 1, start + 1 + len(phrase)))
            start = padded.find(f" {phrase} ", start + 1)
    return len(covered)


words = st.text("abc", min_size=1, max_size=3)
texts = st.text(" abc", max_size=14)


@given(st.lists(words, min_size=1, max_size=5), texts, st.sampled_from([0.0, 0.5, 2.0]))
@settings(deadline=None, max_examples=300)
def test_only_whole_words_win(phrases: list[str], text: str, weight: float) -> None:
    assert won(phrases, text, weight) == pytest.approx(weight * by_hand(phrases, text))


@given(st.lists(words, min_size=2, max_size=4), texts)
@settings(deadline=None, max_examples=300)
def test_phrases_of_several_words(parts: list[str], text: str) -> None:
    for phrases in ([" ".join(parts)], [" ".join(parts), parts[0]], [" ".join(parts), parts[-1]]):
        # A phrase whose end is its own beginning may overlap itself, and then wins twice.
        if parts[0] != parts[-1] and not (set(parts[1:-1]) & {parts[0], parts[-1]}):
            assert won(phrases, text) == pytest.approx(by_hand(phrases, text))
            whole = f"{text} {' '.join(parts)} {text}"
            assert won(phrases, whole) == pytest.approx(by_hand(phrases, whole))


def test_the_bonus_comes_early_and_is_taken_back() -> None:
    scorer = HotwordScorer(["abc", "abc ba"], 2.0, TOKENIZER, 1, CPU)
    assert scorer.bonus == 2.0
    assert increments(scorer, "abc") == [2, 2, 2, 0]
    assert increments(scorer, "abb a") == [2, 2, -4, 0, 2, -2]
    assert increments(scorer, "aabc") == [2, -2, 0, 0, 0]  # not inside a word
    assert increments(scorer, "abca") == [2, 2, 2, -6, 0]
    assert increments(scorer, "abc b") == [2, 2, 2, 2, 2, -4]  # the space and "b"
    assert increments(scorer, "abc ba") == [2, 2, 2, 2, 2, 2, 0]
    assert increments(scorer, "abc abc") == [2, 2, 2, 2, 0, 2, 2, 0]


def test_suffixes_are_seen() -> None:
    assert won(["a b c", "b a"], "a b a") == 3
    assert won(["a b c c", "b c"], "a b c b") == 3
    assert won(["a b", "b c"], "a b c") == 6  # overlapping phrases each win their own
    assert won(["a a"], "a a a") == 6


def test_rows_do_not_influence_each_other() -> None:
    scorer = HotwordScorer(["ab"], 1.0, TOKENIZER, 2, CPU)
    state = scorer.initial_state(2)
    assert len(state) == 4
    sos = torch.full((4,), TOKENIZER.sos_id)
    _, state = scorer.score(sos, state)
    tokens = torch.tensor(TOKENIZER.encode("abca"))
    together, state = scorer.score(tokens, state)
    ab = [TOKENIZER.encode("b")[0], TOKENIZER.eos_id]
    assert (together[0] == together[3]).all() and (together[1] == together[2]).all()
    # After "a": a "b" goes on with the word, an end gives up the character that was won.
    assert (together[0] + scorer.bonus)[ab].tolist() == [1.0, 0.0]
    swapped = scorer.reorder(state, torch.tensor([1, 0, 3, 2]))
    assert swapped.tolist() == [state[n] for n in (1, 0, 3, 2)]
    assert together.shape == (4, TOKENIZER.size)


@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_finds_the_best_text_with_its_hot_words(seed: int) -> None:
    phrases, weight, bonus = ["ab", "c ab"], 1.3, 0.4
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(TOKENIZER.size, TOKENIZER.size, generator=generator)
    table = TableScorer(logits.log_softmax(1))
    hotwords = HotwordScorer(phrases, weight, TOKENIZER, 1, CPU)
    [found] = beam_search(
        [(table, 1.0), (hotwords, 1.0)],
        1,
        torch.tensor([5]),
        beam_size=1024,
        sos_id=TOKENIZER.sos_id,
        eos_id=TOKENIZER.eos_id,
        length_bonus=bonus + hotwords.bonus,
        nbest=3,
    )
    truth = []
    for length in range(6):
        for tokens in itertools.product(range(3, TOKENIZER.size), repeat=length):
            steps = zip((TOKENIZER.sos_id, *tokens), (*tokens, TOKENIZER.eos_id), strict=True)
            score = sum(float(table.table[a, b]) for a, b in steps) + bonus * length
            truth.append((score + won(phrases, TOKENIZER.decode(tokens), weight), tokens))
    truth.sort(key=lambda item: -item[0])
    assert [h.tokens for h in found] == [tokens for _, tokens in truth[:3]]
    assert [h.score for h in found] == pytest.approx([score for score, _ in truth[:3]], abs=1e-5)


def test_thousands_of_phrases_are_no_burden() -> None:
    phrases = ["".join(p) for p in itertools.product("abc", repeat=7)]
    scorer = HotwordScorer(phrases, 1.0, TOKENIZER, 1, CPU)
    assert sum(increments(scorer, "abcabca cc aaaaaaa")) == 14


def test_phrases_are_read_from_text_and_files(tmp_path: Path) -> None:
    alphabet = " 'abcdefghijklmnopqrstuvwxyz"
    wanted = ("rachel lynde", "avonlea", "twenty one")
    assert parse_hotwords("Rachel  Lynde, Avonlea,21, avonlea,", alphabet) == wanted
    path = tmp_path / "names.txt"
    path.write_text("Rachel Lynde\n\nAvonlea\n21\n", encoding="utf-8")
    assert parse_hotwords(str(path), alphabet) == wanted
    assert parse_hotwords("äö, ü", "äöü ", "none") == ("äö", "ü")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (" , ", r"found none in ' , ', wanted at least 1"),
        ("Ann, ?!", r"hot word '\?!': found nothing that is spoken"),
        ("Ω", r"hot word 'Ω'|hot word 'ω': found"),
    ],
)
def test_what_cannot_be_listened_for_is_refused(value: str, message: str) -> None:
    with pytest.raises(HotwordError, match=message):
        parse_hotwords(value, " 'abcdefghijklmnopqrstuvwxyz")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "names.bin"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(HotwordError, match=r"names.bin: cannot be read as text"):
        parse_hotwords(str(path), "ab ")
    path.write_text("\n")
    with pytest.raises(HotwordError, match=r"found none in the file .*names.bin"):
        parse_hotwords(str(path), "ab ")


def test_the_scorer_checks_its_phrases() -> None:
    with pytest.raises(HotwordError, match=r"hot word 'ax': found character 'x', wanted one of"):
        HotwordScorer(["ax"], 1.0, TOKENIZER, 1, CPU)
    with pytest.raises(HotwordError, match=r"found an empty one"):
        HotwordScorer([" "], 1.0, TOKENIZER, 1, CPU)
    with pytest.raises(HotwordError, match=r"found weight -1"):
        HotwordScorer(["ab"], -1.0, TOKENIZER, 1, CPU)
