"""The network: alone or in a batch, step by step or at once, in all its kinds."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from asr.config import ModelConfig
from asr.lengths import reverse_by_length, valid_mask
from asr.model import EncoderOutput, SpeechModel

VOCAB, MELS = 12, 20
SMALL = ModelConfig(
    conv_channels=(4, 4), encoder_layers=2, encoder_width=16, attention_width=16,
    attention_heads=2, embedding_width=8, decoder_width=16, ctc_labels_per_frame=2,
)  # fmt: skip
KINDS = [
    replace(SMALL, encoder_cell=cell, bidirectional=both, attention=attention)
    for cell, both, attention in itertools.product(
        ("lstm", "gru", "rnn"), (True, False), ("content", "location", "none")
    )
]
VARIANTS = [
    *KINDS,
    replace(SMALL, pyramid_layers=(0,)),
    replace(SMALL, decoder_layers=1),
    replace(SMALL, conv_channels=(4, 4, 4), ctc_labels_per_frame=3),
    replace(SMALL, conv_channels=(4, 8), conv_blocks=(1, 2)),
]


def name(config: ModelConfig) -> str:
    parts = (config.encoder_cell, config.bidirectional, config.attention, config.pyramid_layers)
    front_end = (len(config.conv_channels), sum(config.conv_blocks))
    return "-".join(map(str, (*parts, config.decoder_layers, *front_end)))


def build(config: ModelConfig) -> SpeechModel:
    torch.manual_seed(0)
    model = SpeechModel(config, MELS, VOCAB).eval()
    for blocks in model.encoder.front_end.blocks:
        for block in blocks:  # which say nothing before they learn
            torch.nn.init.normal_(block.narrow.weight)
            torch.nn.init.normal_(block.narrow.bias)
    return model


def batch(lengths: tuple[int, ...] = (61, 40, 7, 1)) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    features = torch.randn(len(lengths), max(lengths), MELS)
    counts = torch.tensor(lengths)
    return features * valid_mask(counts, max(lengths))[:, :, None], counts


@pytest.mark.parametrize("config", VARIANTS, ids=name)
def test_batch_of_many_equals_batch_of_one(config: ModelConfig) -> None:
    model = build(config)
    features, lengths = batch()
    tokens = torch.randint(3, VOCAB, (4, 6))
    encoded = model.encode(features, lengths)
    log_probs, log_prob_lengths = model.ctc_log_probs(encoded)
    logits, weights = model.decoder(tokens, encoded)
    for row, length in enumerate(lengths.tolist()):
        one = model.encode(features[row : row + 1, :length], lengths[row : row + 1])
        frames = one.encoder_out_lengths.item()
        assert encoded.encoder_out_lengths[row] == frames == one.encoder_out.shape[1]
        close = {"atol": 1e-5, "rtol": 1e-4}
        torch.testing.assert_close(encoded.encoder_out[row, :frames], one.encoder_out[0], **close)
        torch.testing.assert_close(encoded.final_state[row], one.final_state[0], **close)
        alone, alone_lengths = model.ctc_log_probs(one)
        assert log_prob_lengths[row] == alone_lengths[0] == alone.shape[1]
        torch.testing.assert_close(log_probs[row, : alone.shape[1]], alone[0], **close)
        alone_logits, alone_weights = model.decoder(tokens[row : row + 1], one)
        torch.testing.assert_close(logits[row], alone_logits[0], **close)
        seen = alone_weights.shape[2]
        torch.testing.assert_close(weights[row, :, :seen], alone_weights[0], **close)
        assert not weights[row, :, seen:].any()


@pytest.mark.parametrize("config", VARIANTS, ids=name)
def test_teacher_forcing_equals_stepping(config: ModelConfig) -> None:
    model = build(config)
    encoded = model.encode(*batch())
    tokens = torch.randint(3, VOCAB, (4, 6))
    at_once = model.decoder(tokens, encoded)[0].log_softmax(dim=2)
    state = model.decoder.start(encoded)
    for position in range(6):
        log_probs, state = model.decoder.step(tokens[:, position], state)
        torch.testing.assert_close(log_probs, at_once[:, position], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", VARIANTS, ids=name)
def test_rows_of_a_beam_do_not_see_each_other(config: ModelConfig) -> None:
    model = build(config)
    encoded = model.encode(*batch())
    state = model.decoder.start(encoded, beam_size=3)
    tokens = torch.randint(3, VOCAB, (2, 12))
    log_probs, state = model.decoder.step(tokens[0], state)
    index = torch.arange(12).view(4, 3).flip(1).flatten()  # other order within each utterance
    log_probs, state = model.decoder.step(tokens[1], state.reorder(index))
    for row in range(12):
        utterance = row // 3
        alone = model.decoder.start(
            EncoderOutput(
                encoded.encoder_out[utterance][None],
                encoded.encoder_out_lengths[utterance][None],
                encoded.final_state[utterance][None],
            )
        )
        alone = model.decoder.step(tokens[0, index[row]][None], alone)[1]
        expected = model.decoder.step(tokens[1, row][None], alone)[0]
        torch.testing.assert_close(log_probs[row], expected[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("config", VARIANTS, ids=name)
def test_every_weight_learns(config: ModelConfig) -> None:
    model = build(config).train()
    encoded = model.encode(*batch((61, 40)))
    ctc = model.ctc_log_probs(encoded)[0]
    logits, _ = model.decoder(torch.randint(3, VOCAB, (2, 6)), encoded)
    (ctc.square().mean() + logits.square().mean()).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_no_attention_passes_only_the_last_state() -> None:
    model = build(replace(SMALL, attention="none"))
    encoded = model.encode(*batch())
    tokens = torch.randint(3, VOCAB, (4, 6))
    expected = model.decoder(tokens, encoded)[0]
    blind = replace_output(encoded, encoder_out=torch.zeros_like(encoded.encoder_out))
    assert torch.equal(model.decoder(tokens, blind)[0], expected)
    other = replace_output(encoded, final_state=encoded.final_state + 1)
    assert not torch.allclose(model.decoder(tokens, other)[0], expected)


def replace_output(encoded: EncoderOutput, **changes: torch.Tensor) -> EncoderOutput:
    return replace(encoded, **changes)


def test_subsampling_matches_lengths() -> None:
    for config in (
        SMALL,
        replace(SMALL, pyramid_layers=(0, 1)),
        replace(SMALL, conv_channels=(4,)),
    ):
        model = build(config)
        encoded = model.encode(*batch((640, 64)))
        assert encoded.encoder_out.shape[1] == 640 // model.encoder.subsampling
        assert encoded.encoder_out_lengths.tolist() == [
            640 // model.encoder.subsampling, 64 // model.encoder.subsampling
        ]  # fmt: skip


def test_reverse_by_length() -> None:
    x = torch.arange(8).view(2, 4, 1)
    assert reverse_by_length(x, torch.tensor([4, 2]))[:, :, 0].tolist() == [
        [3, 2, 1, 0],
        [5, 4, 6, 7],
    ]
