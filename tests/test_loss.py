"""The joint loss against plain formulas, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from asr.config import ModelConfig, TrainConfig
from asr.loss import JointLoss, UpdateSize
from asr.model import SpeechModel

CONFIG = ModelConfig(
    conv_channels=(4, 4), encoder_layers=1, encoder_width=8, attention_width=8, attention_heads=2,
    embedding_width=8, decoder_width=8, ctc_labels_per_frame=2, encoder_dropout=0,
    decoder_dropout=0,
)  # fmt: skip
TRAIN = TrainConfig(ctc_weight=0.25, label_smoothing=0.0, guided_attention_weight=0.5)


def whole(token_lengths: torch.Tensor) -> tuple[torch.Tensor, UpdateSize]:
    """Return what a process says of a batch that is the whole update."""
    counts = torch.ones(len(token_lengths), dtype=torch.bool)
    return counts, UpdateSize.of(float(token_lengths.sum()), len(token_lengths), 1)


def inputs() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    features, lengths = torch.randn(3, 80, 20), torch.tensor([80, 60, 44])
    tokens, token_lengths = torch.randint(3, 12, (3, 7)), torch.tensor([7, 4, 1])
    for row, (frames, length) in enumerate(zip(lengths, token_lengths, strict=True)):
        features[row, frames:] = 0
        tokens[row, length:] = 0
    return features, lengths, tokens, token_lengths


def build(train: TrainConfig = TRAIN, model: ModelConfig = CONFIG) -> JointLoss:
    torch.manual_seed(1)
    return JointLoss(SpeechModel(model, 20, 12), train)


def test_parts_equal_their_formulas() -> None:
    loss = build()
    features, lengths, tokens, token_lengths = inputs()
    losses = loss(features, lengths, tokens, token_lengths, True, *whole(token_lengths))
    ctc, entropy, guide, count = 0.0, 0.0, 0.0, 0
    for row in range(3):
        encoded = loss.model.encode(features[row : row + 1, : lengths[row]], lengths[row : row + 1])
        log_probs, frames = loss.model.ctc_log_probs(encoded)
        text = tokens[row, : token_lengths[row]]
        ctc += F.ctc_loss(log_probs[0], text, frames[0], token_lengths[row], reduction="sum").item()
        logits, weights = loss.model.decoder(torch.cat([torch.tensor([1]), text])[None], encoded)
        target = torch.cat([text, torch.tensor([2])])
        entropy += F.cross_entropy(logits[0], target, reduction="sum").item()
        count += len(target)
        # Slow truth of the guide, from the alignment that asr.ctc's own tests hold.
        from asr.ctc import forced_align

        places = forced_align(log_probs, frames, text[None], token_lengths[row : row + 1])[0]
        for position, place in enumerate(places.tolist()):
            centre = place // 2
            near = weights[0, position, max(0, centre - 1) : centre + 2].sum()
            guide -= near.log().item()
    assert losses.ctc.item() == pytest.approx(ctc / 12, rel=1e-4)
    assert losses.attention.item() == pytest.approx(entropy / count, rel=1e-4)
    assert losses.guide.item() == pytest.approx(guide / 12, rel=1e-4)
    expected = 0.25 * losses.ctc + 0.75 * losses.attention + 0.5 * losses.guide
    assert losses.total.item() == pytest.approx(expected.item())


def test_padding_does_not_matter() -> None:
    loss = build()
    features, lengths, tokens, token_lengths = inputs()
    expected = loss(features, lengths, tokens, token_lengths, True, *whole(token_lengths))
    wider = loss(
        F.pad(features, (0, 0, 0, 9)), lengths, F.pad(tokens, (0, 5)), token_lengths, True,
        *whole(token_lengths),
    )  # fmt: skip
    for one, other in zip(vars(wider).values(), vars(expected).values(), strict=True):
        torch.testing.assert_close(one, other)


def test_without_decoder_only_encoder_and_ctc_learn() -> None:
    loss = build()
    losses = loss(*inputs(), False, *whole(inputs()[3]))
    losses.total.backward()
    assert losses.total == losses.ctc and losses.attention == 0
    assert all(p.grad is None for p in loss.model.decoder.parameters())
    assert all(p.grad is not None for p in loss.model.encoder.parameters())


def test_text_too_long_for_its_audio_costs_no_ctc_and_no_guide() -> None:
    loss = build()
    features, lengths = torch.randn(1, 8, 20), torch.tensor([8])  # 4 CTC frames
    tokens, token_lengths = torch.randint(3, 12, (1, 30)), torch.tensor([30])
    losses = loss(features, lengths, tokens, token_lengths, True, *whole(token_lengths))
    assert losses.ctc == 0 and losses.guide == 0
    losses.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in loss.parameters() if p.grad is not None)


def test_no_attention_has_no_guide() -> None:
    losses = build(model=replace(CONFIG, attention="none"))(*inputs(), True, *whole(inputs()[3]))
    assert losses.guide == 0 and losses.attention > 0


@pytest.mark.parametrize("split", [[0, 1], [2]])
def test_two_processes_together_have_the_loss_of_one(split: list[int]) -> None:
    loss = build()
    features, lengths, tokens, token_lengths = inputs()
    counts, size = whole(token_lengths)
    expected = loss(features, lengths, tokens, token_lengths, True, counts, size)
    halves = []
    for rows in (split, [row for row in range(3) if row not in split]):
        half = UpdateSize.of(float(token_lengths.sum()), 3, 2)
        parts = [x[rows] for x in (features, lengths, tokens, token_lengths)]
        halves.append(vars(loss(*parts, True, counts[rows], half)))
    for name, value in vars(expected).items():
        torch.testing.assert_close((halves[0][name] + halves[1][name]) / 2, value)


def test_a_stand_in_is_not_learned_from() -> None:
    loss = build()
    features, lengths, tokens, token_lengths = inputs()
    _, size = whole(token_lengths[:2])
    expected = loss(
        features[:2], lengths[:2], tokens[:2], token_lengths[:2], True,
        torch.tensor([True, True]), size,
    )  # fmt: skip
    features[2] *= 100
    found = loss(
        features, lengths, tokens, token_lengths, True, torch.tensor([True, True, False]), size
    )
    for name, value in vars(expected).items():
        torch.testing.assert_close(getattr(found, name), value)


def twice(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [torch.cat([tensor, tensor]) for tensor in tensors]


def test_two_hearings_are_drawn_to_each_other() -> None:
    loss = build(replace(TRAIN, consistency_weight=0.5))
    features, lengths, tokens, token_lengths = inputs()
    size = UpdateSize(2.0 * int(token_lengths.sum()), 1.0)
    same = twice(features, lengths, tokens, token_lengths)
    alike = loss(*same, False, torch.ones(6, dtype=torch.bool), size)
    assert alike.consistency == 0 and alike.total == alike.ctc
    again = features + 0.5 * torch.randn_like(features) * (features != 0)
    counts = torch.tensor([True, True, False, True, True, False])
    found = loss(torch.cat([features, again]), *same[1:], False, counts, size)
    # Slow truth, utterance by utterance: both divergences, of frames that are there.
    expected = 0.0
    for row in range(2):
        views = []
        for heard in (features, again):
            encoded = loss.model.encode(
                heard[row : row + 1, : lengths[row]], lengths[row : row + 1]
            )
            views.append(loss.model.ctc_log_probs(encoded)[0][0])
        for one, other in (views, views[::-1]):
            expected += (other.exp() * (other - one)).sum().item()
    assert found.consistency.item() == pytest.approx(expected / size.characters, rel=1e-3)
    assert found.total.item() == pytest.approx((found.ctc + 0.5 * found.consistency).item())
    found.consistency.backward()
    assert loss.model.ctc_head.weight.grad.any()
