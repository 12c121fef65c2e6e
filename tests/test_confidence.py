"""Confidences: features against a slow way, fitting against a known truth, files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from random_model import save_random_model

from asr.align import WordSpan
from asr.checkpoint import CONFIDENCE, CheckpointError, ModelBundle, load_model
from asr.confidence import (
    FEATURES,
    ConfidenceError,
    ConfidenceModel,
    agreement,
    as_if_greedy,
    calibration_error,
    without_list,
    word_features,
)
from asr.model import EncoderOutput
from asr.transcript import Alternative


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return load_model(save_random_model(tmp_path_factory.mktemp("models") / "random"))


def encode(bundle: ModelBundle, samples: list[int]) -> EncoderOutput:
    generator = torch.Generator().manual_seed(0)
    waveform = torch.zeros(len(samples), max(samples))
    for row, count in enumerate(samples):
        waveform[row, :count] = 0.2 * torch.randn(count, generator=generator)
    with torch.inference_mode():
        return bundle.model.encode(*bundle.features(waveform, torch.tensor(samples)))


def spans(text: str) -> list[WordSpan]:
    return [WordSpan(word, 0.0, 0.0, -0.1 * n) for n, word in enumerate(text.split())]


@torch.inference_mode()
def test_features_are_what_the_decoder_says_step_by_step(bundle: ModelBundle) -> None:
    encoded = encode(bundle, [16000, 9000])
    texts, tokenizer = ["good day to you", "a"], bundle.tokenizer
    table = word_features(bundle.model.decoder, encoded, [spans(t) for t in texts], tokenizer)
    assert table.shape == (5, len(FEATURES))
    state = bundle.model.decoder.start(encoded)
    token, log_probs, entropies = tokenizer.sos_id, [], []
    for target in [*tokenizer.encode(texts[0]), tokenizer.eos_id]:
        scores, state = bundle.model.decoder.step(torch.tensor([token, token]), state)
        log_probs.append(float(scores[0, target]))
        entropies.append(float(-(scores[0].exp() * scores[0]).sum()))
        token = target
    bounds = [(0, 5), (5, 9), (9, 12), (12, 16)]  # with the space, or the end, behind each word
    for row, (first, last) in enumerate(bounds):
        found = dict(zip(FEATURES, table[row].tolist(), strict=True))
        count = last - first
        assert found["decoder"] == pytest.approx(sum(log_probs[first:last]) / count, abs=1e-4)
        assert found["entropy"] == pytest.approx(sum(entropies[first:last]) / count, abs=1e-4)
        assert found["no_lm"] == 1.0
        assert found["ctc"] == pytest.approx(-0.1 * row) and found["lm"] == 0.0
        assert found["length"] == pytest.approx(math.log(count - 1))
        assert found["short"] == float(count - 1 <= 2)
        mean = table[:4, FEATURES.index("decoder")].mean()
        assert found["decoder_of_utterance"] == pytest.approx(float(mean), abs=1e-5)
    alone = word_features(
        bundle.model.decoder, encode(bundle, [16000]), [spans(texts[0])], tokenizer
    )
    assert torch.allclose(alone, table[:4], atol=1e-4)


class Reader:
    """A language model to which the n-th character of a text costs n nats."""

    def score_texts(self, texts: list[str]) -> torch.Tensor:
        scores = torch.zeros(len(texts), max(map(len, texts)) + 1)
        for row, text in enumerate(texts):
            scores[row, : len(text) + 1] = -torch.arange(1.0, len(text) + 2)
        return scores


def test_the_language_model_says_whole_words(bundle: ModelBundle) -> None:
    encoded, tokenizer = encode(bundle, [16000]), bundle.tokenizer
    parts = (bundle.model.decoder, encoded, [spans("ab c")], tokenizer)
    read, blind = word_features(*parts, Reader()), word_features(*parts)
    assert read[:, FEATURES.index("lm")].tolist() == [-6.0, -9.0]
    assert read[:, FEATURES.index("lm_of_utterance")].tolist() == [-7.5, -7.5]
    assert torch.equal(as_if_greedy(read), blind)
    found = [[Alternative("ab c", -1.0), Alternative("ab d", -1.0)]]
    with_list = word_features(*parts, Reader(), found)
    assert with_list[0, FEATURES.index("agreement")] > 6.0
    assert with_list[1, FEATURES.index("agreement")] == pytest.approx(0.0, abs=1e-6)
    assert with_list[:, FEATURES.index("no_list")].tolist() == [0.0, 0.0]
    assert torch.equal(without_list(with_list), read)
    assert torch.equal(as_if_greedy(with_list), blind)


def test_a_word_has_the_probability_of_all_texts_with_it_in_its_place() -> None:
    texts = [
        Alternative("the old man and", math.log(0.4)),
        Alternative("a old man", math.log(0.3)),
        Alternative("old man the and", math.log(0.2)),
        Alternative("", math.log(0.1)),
    ]
    wanted = torch.logit(torch.tensor([0.4, 0.9, 0.9, 0.6])).tolist()
    assert agreement(texts) == pytest.approx(wanted, abs=1e-6)
    alone = agreement([Alternative("so sure", -50.0)])
    assert alone[0] == alone[1] and 0.99 < torch.tensor(alone).sigmoid()[0] < 1.0
    assert agreement([Alternative("", 0.0), Alternative("a", 0.0)]) == []


def test_utterances_without_words(bundle: ModelBundle) -> None:
    encoded = encode(bundle, [16000, 9000])
    table = word_features(bundle.model.decoder, encoded, [[], spans("a b")], bundle.tokenizer)
    assert len(table) == 2
    empty = word_features(bundle.model.decoder, encoded, [[], []], bundle.tokenizer)
    assert empty.shape == (0, len(FEATURES))


def test_fitting_finds_the_probabilities_that_made_the_words() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(20_000, len(FEATURES), generator=generator) * 3 + 1
    truth = (features[:, 0] - 0.5 * features[:, 3] - 1.0).sigmoid()
    right = (torch.rand(len(truth), generator=generator) < truth).float()
    model = ConfidenceModel.fit(features, right)
    assert (model(features) - truth).abs().mean() < 0.01
    assert calibration_error(model(features), right) < 0.02
    # Of what is always right, no weight becomes infinite.
    certain = ConfidenceModel.fit(features[:50], torch.ones(50))
    assert all(math.isfinite(weight) for weight in certain.weights)
    assert certain(features).mean() > 0.9


def test_calibration_error_by_hand() -> None:
    confidences = torch.tensor([0.05, 0.05, 0.95, 0.95])
    assert calibration_error(confidences, torch.tensor([0.0, 1.0, 1.0, 1.0])) == pytest.approx(
        (0.9 + 0.1) / 4, abs=1e-6
    )
    assert calibration_error(torch.ones(3), torch.zeros(3)) == 1.0


def test_a_model_directory_may_hold_one(bundle: ModelBundle, tmp_path: Path) -> None:
    assert bundle.confidence is None
    folder = save_random_model(tmp_path / "model")
    model = ConfidenceModel(tuple(0.1 * n for n in range(len(FEATURES))), -0.5)
    model.save(folder / CONFIDENCE, "by hand")
    assert load_model(folder).confidence == model
    data = json.loads((folder / CONFIDENCE).read_text())
    assert data["fitted"] == "by hand"
    del data["weights"]["ctc"]
    (folder / CONFIDENCE).write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=r"confidence.json: not a confidence model: found"):
        load_model(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weights": {}, "bias": "x"}', "\xff"])
def test_damaged_files_are_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "confidence.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ConfidenceError, match=r"confidence.json: not a confidence model: "):
        ConfidenceModel.load(path)
    with pytest.raises(ConfidenceError, match="not a confidence model"):
        ConfidenceModel.load(tmp_path / "missing.json")
