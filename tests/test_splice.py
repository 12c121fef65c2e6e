"""Spliced batches: the same words and the same sound, cut where the words end."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.batch import Batch, make_batch
from asr.checkpoint import build_model, save_model
from asr.config import AugmentConfig, Config, ModelConfig
from asr.manifest import Utterance, read_manifest, write_manifest
from asr.splice import Splicer, WordTimes, ctm_name, read_word_times
from asr.tokenizer import CharTokenizer
from asr.trainer import Trainer

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import align_manifests

RATE = 1000
TOKENIZER = CharTokenizer(" abcdefghij")


def utterance(words: list[str]) -> tuple[torch.Tensor, WordTimes]:
    """Return a sound in which the n-th letter of the alphabet lasts 0.1 s and has the value n."""
    letters = [letter for word in words for letter in word]
    sound = torch.tensor([float(ord(letter)) for letter in letters]).repeat_interleave(100)
    ends = torch.tensor([len(word) for word in words]).cumsum(0)[:-1] / 10
    return sound, WordTimes(" ".join(words), ends.numpy())


def batch_of(texts: list[list[str]], standing_in: int = 0) -> tuple[Batch, dict[str, WordTimes]]:
    sounds, times = zip(*map(utterance, texts), strict=True)
    indices = [i if i >= standing_in else ~i for i in range(len(texts))]
    ids = [f"u{i}" for i in range(len(texts))]
    batch = make_batch(
        dict(zip(indices, sounds, strict=True)), [" ".join(t) for t in texts], TOKENIZER, RATE,
        ["broken.wav"], ids,
    )  # fmt: skip
    return batch, dict(zip(ids, times, strict=True))


def spell(batch: Batch) -> list[tuple[str, str]]:
    """Return for each utterance its text and what its sound says, without spaces."""
    rows = []
    for row in range(len(batch.counts)):
        ids = batch.tokens[row, : int(batch.token_lengths[row])].tolist()
        sound = batch.waveform[row, : int(batch.num_samples[row])]
        said = "".join(chr(round(float(v))) for v in sound[50::100])
        rows.append((TOKENIZER.decode(ids), said))
    return rows


TEXTS = st.lists(
    st.lists(st.text("abcdefghij", min_size=1, max_size=4), min_size=1, max_size=9),
    min_size=1,
    max_size=6,
)


@settings(deadline=None)
@given(TEXTS, st.integers(0, 1000), st.integers(1, 4))
def test_what_is_said_stays_what_is_written(texts: list[list[str]], seed: int, most: int) -> None:
    batch, times = batch_of(texts)
    config = AugmentConfig(splice_probability=1.0, splice_words=most)
    spliced = Splicer(times, config, TOKENIZER, RATE)(batch, random.Random(seed))
    for text, said in spell(spliced):
        assert text.replace(" ", "") == said
    before = Counter(word for text, _ in spell(batch) for word in text.split())
    assert Counter(word for text, _ in spell(spliced) for word in text.split()) == before
    assert spliced.num_samples.sum() == batch.num_samples.sum()
    assert (spliced.indices, spliced.ids, spliced.problems) == (
        batch.indices, batch.ids, batch.problems,
    )  # fmt: skip


def test_words_are_put_in_another_order_and_into_other_utterances() -> None:
    texts = [[a + b for b in "abcdefghij"] for a in "abcdef"]
    batch, times = batch_of(texts)
    splicer = Splicer(times, AugmentConfig(splice_probability=1.0), TOKENIZER, RATE)
    mixed = shuffled = unchanged = 0
    for seed in range(20):
        for (text, _), words in zip(spell(splicer(batch, random.Random(seed))), texts, strict=True):
            unchanged += text.split() == words
            mixed += not set(text.split()) <= set(words)
            shuffled += sorted(text.split()) == words
    assert 30 < mixed < 90 and 30 < shuffled < 90 and unchanged < 12
    again = [spell(splicer(batch, random.Random(7))) for _ in range(2)]
    assert again[0] == again[1]


def test_what_stays_whole() -> None:
    texts = [["ab", "cd", "ef"], ["gh", "ij"], ["abc", "de"], ["fg", "hij"]]
    batch, times = batch_of(texts, standing_in=1)  # the first does not count
    del times["u1"]
    times["u2"] = replace(times["u2"], text="abc d")
    splicer = Splicer(times, AugmentConfig(splice_probability=1.0), TOKENIZER, RATE)
    for seed in range(10):
        spliced = splicer(batch, random.Random(seed))
        assert spell(spliced)[:3] == spell(batch)[:3]
        assert torch.equal(spliced.waveform[:3], batch.waveform[:3])
        assert spliced.counts.tolist() == [False, True, True, True]
    silence = splicer(make_batch({}, [], TOKENIZER, RATE, ["broken"]), random.Random(1))
    assert silence.counts.tolist() == [False] and silence.indices == (-1,)
    never = Splicer(times, AugmentConfig(), TOKENIZER, RATE)(batch, random.Random(1))
    assert torch.equal(never.waveform, batch.waveform)


@settings(deadline=None)
@given(TEXTS, st.integers(0, 1000), st.integers(1, 4))
def test_short_utterances_say_what_they_are_written(
    texts: list[list[str]], seed: int, most: int
) -> None:
    batch, times = batch_of(texts)
    config = AugmentConfig(splice_probability=1.0, splice_words=most, splice_seconds=0.8)
    spliced = Splicer(times, config, TOKENIZER, RATE)(batch, random.Random(seed))
    for text, said in spell(spliced):
        assert text.replace(" ", "") == said != ""
    before = Counter(word for text, _ in spell(batch) for word in text.split())
    assert Counter(word for text, _ in spell(spliced) for word in text.split()) == before
    assert spliced.num_samples.sum() == batch.num_samples.sum()
    assert spliced.counts.all() and len(spliced.counts) == len(spliced.num_samples)


def test_short_utterances_are_as_long_as_asked_for() -> None:
    texts = [[a + b for b in "abcdefghij"] * 3 for a in "abcdefgh"]  # 6 s each
    batch, times = batch_of(texts)
    config = AugmentConfig(splice_probability=1.0, splice_words=2, splice_seconds=2.0)
    splicer = Splicer(times, config, TOKENIZER, RATE)
    in_order = mixed = 0
    for seed in range(20):
        short = splicer(batch, random.Random(seed))
        assert short.num_samples.min() >= 1600 and short.num_samples.max() <= 2400
        for text, _ in spell(short):
            in_order += any(" ".join(words).find(text) >= 0 for words in texts)
            mixed += len({word[0] for word in text.split()}) > 1
    assert 180 < in_order < 300 and 180 < mixed < 300  # of 480


def test_batches_are_shortened_as_a_whole_and_what_cannot_be_cut_stays() -> None:
    texts = [["ab", "cd", "ef"] * 4, ["gh", "ij"] * 5, ["abc", "de"]]
    batch, times = batch_of(texts, standing_in=1)  # the first does not count
    del times["u1"]
    config = AugmentConfig(splice_probability=0.5, splice_words=1, splice_seconds=0.3)
    splicer = Splicer(times, config, TOKENIZER, RATE)
    as_before = 0
    for seed in range(40):
        short = splicer(batch, random.Random(seed))
        assert spell(short)[:2] == spell(batch)[:2]
        assert short.counts.tolist() == [False] + [True] * (len(short.counts) - 1)
        as_before += torch.equal(short.waveform, batch.waveform)
        assert len(short.counts) == (3 if torch.equal(short.waveform, batch.waveform) else 4)
    assert 8 < as_before < 32


def test_word_times_of_other_data_are_refused() -> None:
    batch, times = batch_of([["ab", "cd"]] * 10)
    others = {f"other{name}": t for name, t in times.items()}
    splicer = Splicer(others, AugmentConfig(splice_probability=1.0), TOKENIZER, RATE)
    with pytest.raises(ValueError, match="word_times: found none of 1000 utterances .* as u9, wan"):
        for seed in range(100):
            splicer(batch, random.Random(seed))
    some = Splicer({"u3": times["u3"]}, splicer.config, TOKENIZER, RATE)
    for seed in range(200):
        some(batch, random.Random(seed))


def test_pieces_begin_and_end_softly() -> None:
    batch, times = batch_of([["ab", "cd", "ef", "gh", "ij"]])
    config = AugmentConfig(splice_probability=1.0, splice_words=1)
    spliced = Splicer(times, config, TOKENIZER, RATE)(batch, random.Random(0))
    sound = spliced.waveform[0]
    assert (sound[::200] == 0).all() and (sound[199::200] == 0).all()


def test_reading_ctm(tmp_path: Path) -> None:
    path = tmp_path / "words.ctm"
    path.write_text(
        ";; a comment\nu1 1 0.50 0.25 there 0.9\nu1 1 0.0 0.25 hello\n\nu2 A 0.125 1 alone\n"
    )
    other = tmp_path / "more.ctm"
    other.write_text("u2 1 0 1 never\nu2 1 1 1 alone\n")
    times = read_word_times([str(path), str(other)])
    assert {name: (t.text, t.borders.tolist()) for name, t in times.items()} == {
        "u1": ("hello there", [0.375]),
        "u2": ("never alone", [1.0]),
    }


@pytest.mark.parametrize("line", ["u1 1 0.5 word", "u1 1 here 0.5 word", "u1 1 0.5 1.0"])
def test_what_is_no_ctm(tmp_path: Path, line: str) -> None:
    path = tmp_path / "words.ctm"
    path.write_text(f"u1 1 0 1 good\n{line}\n")
    with pytest.raises(ValueError, match=r"words.ctm, line 2: found no CTM, wanted: id channel"):
        read_word_times([str(path)])
    with pytest.raises(ValueError, match="none.ctm: cannot be read"):
        read_word_times([str(tmp_path / "none.ctm")])


def advance(trainer: Trainer, updates: int) -> None:
    batches = trainer.source.batches(trainer.progress.position)
    for _ in range(updates):
        trainer.advance(batches)


def test_training_splices_and_resumes_alike(
    configure: Callable[..., Config], tmp_path: Path
) -> None:
    """Tones are words of a letter here, so that every border is known."""
    config = configure(max_steps=4)
    config = replace(config, augment=replace(config.augment, splice_probability=1.0))
    with pytest.raises(ValueError, match="splice_probability: found 1.0 without word times, want"):
        Trainer(config, torch.device("cpu"))
    (manifest,) = config.data.train_manifests
    spaced = [replace(u, text=" ".join(u.text)) for u in read_manifest(manifest)]
    write_manifest(tmp_path / "spaced.jsonl", spaced)
    ctm = tmp_path / "words.ctm"
    ctm.write_text(
        "".join(
            f"{u.id} 1 {0.15 * i:.2f} 0.15 {word}\n"
            for u in spaced
            for i, word in enumerate(u.text.split())
        )
    )
    data = replace(
        config.data, train_manifests=(f"{tmp_path}/spaced.jsonl",), alphabet=" abcd",
        word_times=(str(ctm),),
    )  # fmt: skip
    config = replace(config, data=data)
    trainer = Trainer(config, torch.device("cpu"))
    assert trainer.messages == ["words of 40 utterances are put together anew"]
    batch, _ = next(trainer.source.batches(trainer.progress.position))
    assert trainer.splicer is not None
    spliced = trainer.splicer(batch, random.Random(1))
    assert not torch.equal(spliced.tokens, batch.tokens)
    halfway = Trainer(config, torch.device("cpu"))
    advance(trainer, 4)
    advance(halfway, 2)
    Path(config.train.output_dir).mkdir()
    halfway.save()
    resumed = Trainer(
        replace(config, train=replace(config.train, resume=True)), torch.device("cpu")
    )
    advance(resumed, 2)
    for one, other in zip(trainer.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_script_writes_what_the_splicer_reads(
    tone_manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = ModelConfig(conv_channels=(8, 8), encoder_layers=1, encoder_width=16)
    config = Config(model=model)
    save_model(tmp_path / "model", *build_model(config), config)
    spaced = [replace(u, text=f"{u.text[:2]} {u.text[2:]}") for u in read_manifest(tone_manifest)]
    spaced[3] = replace(spaced[3], id="a name")
    broken = Utterance(str(tmp_path / "none.wav"), 1.0, "a b", id="broken")
    write_manifest(tmp_path / "m.jsonl", [*spaced, broken])
    arguments = [str(tmp_path / "m.jsonl"), "--model", str(tmp_path / "model"), "--output"]
    output = tmp_path / "new" / "words.ctm"
    least, align_manifests.LEAST_SCORE = align_manifests.LEAST_SCORE, -1e9  # of a random network
    try:
        assert align_manifests.main([*arguments, str(output)]) == 0
    finally:
        align_manifests.LEAST_SCORE = least
    captured = capsys.readouterr()
    assert captured.out == f"{output}: words of 40 of 41 utterances\n"
    assert captured.err.startswith("left out: ") and captured.err.count("\n") == 1
    times = read_word_times([str(output)])
    assert {name: t.text for name, t in times.items()} == {ctm_name(u.id): u.text for u in spaced}
    for u in spaced:
        (border,) = times[ctm_name(u.id)].borders.tolist()
        assert 0 < border < u.duration
    assert align_manifests.main([*arguments, str(tmp_path / "m.jsonl" / "words.ctm")]) == 2
    assert align_manifests.main(["none.jsonl", *arguments[1:], str(output)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1].startswith("align_manifests: none.jsonl")
