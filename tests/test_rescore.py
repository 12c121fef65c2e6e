"""Scores of given texts: those that the decoder gives step by step, and CTC's over all paths."""

import pytest
import torch

from asr.config import ModelConfig
from asr.ctc import ctc_loss
from asr.model import EncoderOutput, SpeechModel
from asr.rescore import pick_utterance, score_by_attention, score_by_ctc
from asr.tokenizer import CharTokenizer

TEXTS = [(3, 4, 5), (5,), (), (4, 4, 3, 6, 5)]


@pytest.fixture(
    scope="module", params=[(1, "content"), (2, "content"), (2, "location"), (1, "none")]
)
def model(request: pytest.FixtureRequest) -> SpeechModel:
    layers, attention = request.param
    torch.manual_seed(1)
    config = ModelConfig(
        conv_channels=(4,), encoder_layers=1, encoder_width=8, attention_width=8,
        attention_heads=2, embedding_width=4, decoder_width=8, decoder_layers=layers,
        attention=attention,
    )  # fmt: skip
    model = SpeechModel(config, num_mels=8, vocab_size=7)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(2.0)
    return model.eval()


@pytest.fixture(scope="module")
def encoded(model: SpeechModel) -> EncoderOutput:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        return model.encode(torch.randn(2, 30, 8, generator=generator), torch.tensor([30, 19]))


def score_step_by_step(model: SpeechModel, encoded: EncoderOutput, text: tuple[int, ...]) -> float:
    state = model.decoder.start(encoded)
    total, token = 0.0, CharTokenizer.sos_id
    for following in (*text, CharTokenizer.eos_id):
        log_probs, state = model.decoder.step(torch.tensor([token]), state)
        total, token = total + float(log_probs[0, following]), following
    return total


@torch.no_grad()
@pytest.mark.parametrize("index", [0, 1])
def test_attention_scores_are_those_of_the_steps(
    model: SpeechModel, encoded: EncoderOutput, index: int
) -> None:
    alone = pick_utterance(encoded, index)
    scores = score_by_attention(model.decoder, alone, TEXTS)
    wanted = [score_step_by_step(model, alone, text) for text in TEXTS]
    assert scores.tolist() == pytest.approx(wanted, abs=1e-4)


@torch.no_grad()
def test_ctc_scores_are_those_of_the_loss(model: SpeechModel, encoded: EncoderOutput) -> None:
    log_probs, lengths = model.ctc_log_probs(pick_utterance(encoded, 1))
    scores = score_by_ctc(log_probs[0], TEXTS)
    for score, text in zip(scores.tolist(), TEXTS, strict=True):
        tokens = torch.tensor([text], dtype=torch.long)
        loss = ctc_loss(log_probs, lengths, tokens, torch.tensor([len(text)]))
        assert score == pytest.approx(-float(loss), abs=1e-4)


def test_an_utterance_is_picked_without_its_padding(encoded: EncoderOutput) -> None:
    alone = pick_utterance(encoded, 1)
    assert alone.encoder_out.shape[:2] == (1, int(encoded.encoder_out_lengths[1]))
    assert torch.equal(alone.final_state, encoded.final_state[1:])
