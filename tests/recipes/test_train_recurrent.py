"""The recipe of the recurrent language model: it learns, goes on, and says what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from random_model import equal_words
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "language_model"))

import train_recurrent
from train_recurrent import (
    NORMALISED,
    Sampler,
    join_sentences,
    main,
    make_batches,
    sampled_loss,
    widen,
)

from asr.recurrent_lm import RecurrentWordLM

WORDS = ("the", "old", "man", "sea", "and")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the arguments for a text in which "sea" always follows "old"."""
    monkeypatch.setattr(train_recurrent, "BATCH_WORDS", 200)
    monkeypatch.setattr(train_recurrent, "SAMPLES", 50)
    text = tmp_path / "text.txt"
    text.write_text("The old sea and the man. The old sea, and the sea!\n" * 400, encoding="utf-8")
    equal_words(WORDS).save(tmp_path / "words.safetensors")
    return [
        str(text), "--word-lm", f"{tmp_path}/words.safetensors",
        "--output", f"{tmp_path}/out.safetensors", "--width", "8", "--cells", "16",
    ]  # fmt: skip


def test_it_learns_what_follows_what(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*files, "--passes", "20"]) == 0
    assert "perplexity" in capsys.readouterr().out
    model = RecurrentWordLM.load(tmp_path / "out.safetensors")
    assert model.words == WORDS
    sea, man = (float(s[2]) for s in model.score_texts([["the", "old", w] for w in ("sea", "man")]))
    assert sea > man + 2.0
    assert not (tmp_path / "out.safetensors.state").exists()


def test_what_all_words_sum_to_is_held_near_one(
    files: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    away = []
    for weight in (0.0, 1.0):
        monkeypatch.setattr(train_recurrent, "NORMALISED", weight)
        assert main([*files, "--passes", "20"]) == 0
        away.append(float(capsys.readouterr().out.split("one but for ")[1].split()[0]))
    assert away[1] < 0.1 < away[0]


def test_a_stopped_run_goes_on_to_the_same_model(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(files) == 0
    whole = (tmp_path / "out.safetensors").read_bytes()
    monkeypatch.setattr(train_recurrent, "SAVE_SECONDS", 0.0)
    saves = []

    def save_and_stop(path: Path, state: dict[str, object]) -> None:
        torch.save(state, path)
        saves.append(state["update"])
        if len(saves) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(train_recurrent, "save_state", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        main(files)
    assert main(files) == 0
    assert saves[:3] == [1, 2, 3]
    assert (tmp_path / "out.safetensors").read_bytes() == whole


def test_a_state_of_other_settings_is_refused(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = {"updates": 7, "size": [5, 8, 16]}
    torch.save(state, tmp_path / "out.safetensors.state")
    assert main(files) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "out.safetensors.state: is of other settings" in error


def test_it_goes_on_from_a_model_that_may_grow(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*files, "--passes", "20"]) == 0
    learned = capsys.readouterr().out.split("perplexity ")[1].split(";")[0]
    (tmp_path / "out.safetensors").rename(tmp_path / "first.safetensors")
    further = [*files, "--init-from", f"{tmp_path}/first.safetensors", "--cells", "4"]
    assert main([*further, "--learning-rate", "0"]) == 0
    assert capsys.readouterr().out.split("perplexity ")[1].split(";")[0] == learned
    assert RecurrentWordLM.load(tmp_path / "out.safetensors").rnn.hidden_size == 16
    assert main([*further, "--learning-rate", "0", "--cells", "24"]) == 0
    assert capsys.readouterr().out.split("perplexity ")[1].split(";")[0] == learned
    assert RecurrentWordLM.load(tmp_path / "out.safetensors").rnn.hidden_size == 24
    assert main([*further, "--vocabulary", "3"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "first.safetensors: found 5 other words, wanted" in error


def test_a_wider_model_says_the_same_and_learns_with_all_of_it() -> None:
    torch.manual_seed(0)
    small = RecurrentWordLM(tuple(map(str, range(9))), 4, 6)
    text = torch.tensor([[0, 5, 7, 2, 2]])
    for width, cells in ((4, 10), (7, 6), (7, 10)):
        wide = widen(small, width, cells)
        assert (wide.embedding.embedding_dim, wide.rnn.hidden_size) == (width, cells)
        torch.testing.assert_close(wide.logits(wide(text)[0]), small.logits(small(text)[0]))
        wide.logits(wide(text)[0]).square().sum().backward()
        learning = [wide.projection.weight.grad[:4, 6:], wide.projection.weight.grad[4:]]
        gates = wide.rnn.weight_ih_l0.grad.view(4, cells, width)
        learning += [gates[:, :6, 4:], wide.rnn.weight_hh_l0.grad.view(4, cells, cells)[:, :6, 6:]]
        assert all(gradient.abs().max() > 0 for gradient in learning if gradient.numel())
    assert widen(small, 3, 5) is small


def test_files_that_cannot_be_read_are_one_line(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in (["none.txt", *files[1:]], [*files, "--word-lm", "none.safetensors"]):
        assert main(wrong) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "none." in error


def test_sentences_are_joined_in_their_order() -> None:
    sentences = [np.full(n, n, np.int32) for n in (3, 2, 50, 1, 4, 4)]
    joined = list(join_sentences(sentences, np.random.default_rng(0)))
    assert np.concatenate(joined).tolist() == np.concatenate(sentences).tolist()
    assert 1 < len(joined) < len(sentences)
    assert list(join_sentences([], np.random.default_rng(0))) == []


def test_batches_hold_every_sequence_once_and_like_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_recurrent, "BATCH_WORDS", 40)
    chance = np.random.default_rng(1)
    sequences = [np.zeros(n, np.int32) for n in chance.integers(1, 20, 200)]
    batches = make_batches(sequences, chance)
    assert sorted(number for batch in batches for number in batch) == list(range(200))
    spread = [np.ptp([len(sequences[number]) for number in batch]) for batch in batches]
    assert max(spread) <= 4


def test_sampling_comes_near_the_loss_over_all_words() -> None:
    torch.manual_seed(0)
    model = RecurrentWordLM(tuple(map(str, range(40))), 8, 8)
    rows = [torch.tensor([5, 7, 9]), torch.tensor([3])]
    sampler = Sampler.of_counts(np.linspace(1, 50, 42))
    samples = sampler.draw(np.random.default_rng(0))
    sampled = sampled_loss(model, rows, samples, sampler.log_expected).item()
    losses, totals = [], []
    for row in rows:
        logits = model.logits(model(F.pad(row, (1, 0))[None])[0])
        losses.append(F.cross_entropy(logits, F.pad(row, (0, 1)), reduction="none"))
        totals.append(logits.logsumexp(1))
    penalty = NORMALISED * torch.cat(totals).square().mean()
    wanted = (torch.cat(losses).mean() + penalty).item()
    assert sampled == pytest.approx(wanted, abs=0.1)
    assert penalty > 0.5  # 42 words that are all as likely
