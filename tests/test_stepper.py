"""Steps of a search say what the network says, whatever is beside them and wherever they go on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from asr import stepper
from asr.config import ModelConfig
from asr.model import EncoderOutput, SpeechModel
from asr.stepper import AttentionScorer, StepperState

VOCAB, MELS = 12, 20
SMALL = ModelConfig(
    conv_channels=(4, 4), encoder_layers=1, encoder_width=16, attention_width=24,
    attention_heads=2, embedding_width=8, decoder_width=16, decoder_dropout=0.0,
)  # fmt: skip
VARIANTS = {
    "two GRUs": SMALL,
    "one GRU": replace(SMALL, decoder_layers=1),
    "location": replace(SMALL, attention="location"),
    "none": replace(SMALL, attention="none"),
}


@pytest.fixture(params=VARIANTS)
def model(request: pytest.FixtureRequest) -> SpeechModel:
    torch.manual_seed(0)
    network = SpeechModel(VARIANTS[request.param], MELS, VOCAB).eval()
    with torch.no_grad():
        for weights in network.parameters():
            weights.mul_(2.0)  # biases and weights that matter
    return network


def encode(model: SpeechModel, lengths: tuple[int, ...]) -> EncoderOutput:
    features = torch.randn(len(lengths), max(lengths), MELS)
    return model.encode(features, torch.tensor(lengths))


@torch.inference_mode()
@pytest.mark.parametrize("lengths", [(90,), (64, 64), (90, 30, 64)])
def test_steps_equal_the_whole_text_at_once(
    model: SpeechModel, lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows take other rows' places after each step, as in a beam."""
    monkeypatch.setattr(stepper, "_CLOCK", 3)
    encoded = encode(model, lengths)
    beam, steps = 3, 8
    scorer = AttentionScorer(model.decoder, encoded)
    state = scorer.initial_state(beam)
    assert isinstance(state, StepperState) == (model.config.attention == "content")
    texts = torch.zeros(len(lengths) * beam, 0, dtype=torch.long)
    for _ in range(steps):
        tokens = torch.randint(0, VOCAB, (len(texts),))
        log_probs, state = scorer.score(tokens, state)
        texts = torch.cat([texts, tokens[:, None]], 1)
        for place in range(beam):
            whole = model.decoder(texts[place::beam], encoded)[0][:, -1].log_softmax(1)
            torch.testing.assert_close(log_probs[place::beam], whole, atol=1e-5, rtol=1e-4)
        index = (
            torch.randint(0, beam, (len(lengths), beam))
            + torch.arange(len(lengths))[:, None] * beam
        )
        state, texts = scorer.reorder(state, index.flatten()), texts[index.flatten()]


@torch.inference_mode()
def test_states_are_not_changed(model: SpeechModel) -> None:
    scorer = AttentionScorer(model.decoder, encode(model, (50, 40)))
    start = scorer.initial_state(2)
    tokens = torch.tensor([1, 2, 3, 4])
    first, state = scorer.score(tokens, start)
    scorer.score(tokens, scorer.reorder(state, torch.tensor([1, 0, 2, 2])))
    assert torch.equal(scorer.score(tokens, start)[0], first)
