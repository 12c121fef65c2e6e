"""Texts as if heard: what is drawn, how it sounds, and that a decoder learns from it."""

from __future__ import annotations

import gzip
import math
import random
from dataclasses import replace
from pathlib import Path

import jiwer
import pytest
import torch
from random_model import heard_words

from asr.config import FeatureConfig, ModelConfig, SearchConfig, TrainConfig
from asr.ctc import greedy_decode
from asr.decode import decode_batch, encode_batch
from asr.features import LogMel
from asr.heard import HeardPhones
from asr.imagine import TextReader, imagine
from asr.lexicon import Lexicon
from asr.loss import JointLoss
from asr.model import SpeechModel
from asr.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer(" abcd")
LEXICON = Lexicon.fit(
    ["one", "two", "three", "four"], {"a": [1], "b": [2], "c": [3], "d": [4], "ab": [1, 2]}
)
CONFIG = ModelConfig(
    conv_channels=(4,), encoder_layers=1, encoder_width=8, attention_width=32,
    attention_heads=2, embedding_width=16, decoder_width=32, encoder_dropout=0.0,
    decoder_dropout=0.0, ctc_labels_per_frame=2, phone_labels=5, phone_reader_width=16,
)  # fmt: skip


def heard() -> HeardPhones:
    return heard_words(LEXICON, ["ab c d", "d c b a", "c ab ab d", "a b"] * 10)


def test_pieces_are_normalised_words_of_the_texts(tmp_path: Path) -> None:
    path = tmp_path / "text.txt.gz"
    lines = ["A, b! C d", "", "no such letters", "d c b a d c b a"]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    reader = TextReader([str(path)], TOKENIZER)
    pieces = reader.draw(500, random.Random(1))
    assert sum(map(len, pieces)) >= 500
    assert {c for piece in pieces for c in piece} == set(" abcd")
    assert all(piece in "a b c d" or piece in "d c b a d c b a" for piece in pieces)
    assert pieces == reader.draw(500, random.Random(1))
    assert pieces != reader.draw(500, random.Random(2))


def test_pieces_of_a_draw_have_as_many_words(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("a b c d " * 50 + "\n" + "1 a b " * 50, encoding="utf-8")
    reader = TextReader([str(path)], TOKENIZER)
    counts = []
    for seed in range(40):
        (count,) = {len(p.split()) for p in reader.draw(200, random.Random(seed))}
        counts.append(count)
    assert min(counts) < 6 and max(counts) > 30


def test_long_pieces_that_are_nowhere_become_shorter_ones(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("1 a b c d 2 " * 50, encoding="utf-8")
    reader = TextReader([str(path)], TOKENIZER)
    for seed in range(10):
        assert max(len(p.split()) for p in reader.draw(50, random.Random(seed))) <= 4


def test_texts_that_cannot_be_used_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data.spoken_texts: .*none.txt"):
        TextReader([str(tmp_path / "none.txt")], TOKENIZER)
    for name, content in (("empty", ""), ("digits", "1 2 3\n4 5\n")):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=f"found no usable text in .*{name}"):
            TextReader([str(path)], TOKENIZER)


def test_what_is_heard_is_mostly_what_the_lexicon_says() -> None:
    texts = ["ab c d " * 10, "a b", "d"] * 10
    found = imagine(texts, LEXICON, TOKENIZER, heard(), 2, seed=3)
    total = found.phones.unflatten(2, (2, -1)).sum(3)
    inside = (torch.arange(total.shape[1]) < found.lengths[:, None])[:, :, None]
    torch.testing.assert_close(total, inside.float().expand(-1, -1, 2), atol=0.01, rtol=0)
    assert found.token_lengths.tolist() == [len(text) for text in texts]
    rows = zip(found.tokens, found.token_lengths, strict=True)
    assert [TOKENIZER.decode(row[:n].tolist()) for row, n in rows] == texts
    labels = greedy_decode(found.phones.unflatten(2, (2, -1)).flatten(1, 2), found.lengths * 2)
    wanted = [" ".join(map(str, LEXICON.encode(text))) for text in texts]
    errors = jiwer.wer(wanted, [" ".join(map(str, row)) for row in labels])
    assert 0.02 < errors < 0.5
    again = imagine(texts, LEXICON, TOKENIZER, heard(), 2, seed=3)
    assert torch.equal(found.phones, again.phones)
    other = imagine(texts, LEXICON, TOKENIZER, heard(), 2, seed=4)
    assert found.phones.shape != other.phones.shape or not torch.equal(found.phones, other.phones)


def test_a_word_without_a_sound_is_silence() -> None:
    found = imagine(["' '"], LEXICON, CharTokenizer(" '"), heard(), 2, seed=1)
    labels = found.phones.unflatten(2, (2, -1)).argmax(3)
    assert found.lengths.tolist() == [1] and not labels.any()


def build() -> JointLoss:
    torch.manual_seed(1)
    return JointLoss(SpeechModel(CONFIG, 8, TOKENIZER.size), TrainConfig(label_smoothing=0))


def test_a_decoder_learns_to_spell_from_text_alone() -> None:
    loss, chance = build(), random.Random(0)
    optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-2)
    values, sounds = [], heard()
    for step in range(300):
        texts = [" ".join(chance.choices(["ab", "c", "d"], k=2)) for _ in range(16)]
        found = imagine(texts, LEXICON, TOKENIZER, sounds, 2, seed=step)
        value = loss.spelling(found)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert sum(values[-10:]) / 10 < 0.5 * values[0]
    # Better than the words' own entropy: it does look at the phones.
    marks = 2 * 4 / 3 + 1 + 1  # letters, a space and an end
    assert sum(values[-10:]) / 10 < 0.9 * 2 * math.log(3) / marks


def test_without_attention_nobody_reads_phones() -> None:
    model = SpeechModel(replace(CONFIG, attention="none"), 8, TOKENIZER.size)
    assert model.phone_reader is None and model.phone_head is not None


def test_phones_join_a_trained_decoder_without_disturbing_it() -> None:
    loss = build()
    features, lengths = torch.randn(3, 40, 8), torch.tensor([40, 31, 17])
    features *= (torch.arange(40) < lengths[:, None])[:, :, None]
    encoded = loss.model.encode(features, lengths)
    assert encoded.phones_read is not None and not encoded.phones_read.any()
    assert torch.equal(encoded.memory, encoded.encoder_out)
    with torch.no_grad():
        loss.model.phone_reader.output.weight.normal_()
    encoded = loss.model.encode(features, lengths)
    assert not torch.equal(encoded.memory, encoded.encoder_out)
    alone = loss.model.encode(features[1:2, :31], lengths[1:2])
    torch.testing.assert_close(alone.memory, encoded.memory[1:2, : alone.memory.shape[1]])
    assert not encoded.memory[2, int(encoded.encoder_out_lengths[2]) :].any()


@pytest.mark.parametrize(
    ("search", "words", "reads"),
    [
        (SearchConfig(method="ctc"), True, False),
        (SearchConfig(method="beam", beam_size=2, ctc_weight=1.0), False, False),
        (SearchConfig(method="beam", beam_size=2, ctc_weight=0.5), False, True),
        (SearchConfig(method="greedy"), False, True),
    ],
)
def test_phones_are_read_for_the_decoder_alone(
    search: SearchConfig, words: bool, reads: bool
) -> None:
    model, features = build().model, LogMel(FeatureConfig(num_mels=8))
    given = (torch.randn(2, 8000), torch.tensor([8000, 6000]))
    asked = []
    model.phone_reader.register_forward_hook(lambda *_: asked.append(True))
    decode_batch(model, features, TOKENIZER, *given, search, words=words)
    assert bool(asked) == reads
    asked.clear()
    encode_batch(model, features, *given)  # for whatever may come
    assert asked


def test_the_decoder_leaves_phones_to_their_own_loss_and_may_see_them_alone() -> None:
    loss = build()
    with torch.no_grad():
        loss.model.phone_reader.output.weight.normal_()
    encoded = loss.model.encode(torch.randn(2, 40, 8), torch.tensor([40, 40]))
    encoded.phones_read.sum().backward()
    assert loss.model.phone_head.weight.grad is None
    assert loss.model.phone_reader.layer.cells[0].weight_ih_l0.grad.any()
    loss.config = TrainConfig(phones_alone=1.0)
    assert torch.equal(loss.for_decoder(encoded).memory, encoded.phones_read)
    loss.config = TrainConfig(phones_alone=0.0)
    assert torch.equal(loss.for_decoder(encoded).memory, encoded.memory)
