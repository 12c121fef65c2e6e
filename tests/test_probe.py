"""The probe shows what the network and the augmentation really do, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from asr.checkpoint import build_model
from asr.config import Config
from asr.dataset import SpeechDataset, load_utterances
from asr.features import LogMel
from asr.model import SpeechModel
from asr.probe import Probe

pytest.importorskip("matplotlib", reason="needs matplotlib")

Parts = tuple[SpeechModel, LogMel, SpeechDataset, Config]


@pytest.fixture
def parts(configure: Callable[..., Config]) -> Parts:
    config = configure()
    torch.manual_seed(0)
    model, features, tokenizer = build_model(config)
    utterances, _ = load_utterances(config.data.train_manifests, config.data)
    return model, features, SpeechDataset(utterances, tokenizer, 16000), config


def test_attention_is_what_the_decoder_looks_at_step_by_step(parts: Parts) -> None:
    model, features, data, config = parts
    probe = Probe(data, config)
    index = probe.attended[0]
    figure = probe.attention(model.train(), features, index)
    assert model.training
    model.eval()
    waveform = data.waveform(index)[None]
    with torch.no_grad():
        encoded = model.encode(*features(waveform, torch.tensor([waveform.shape[1]])))
        state = model.decoder.start(encoded)
        rows = []
        text = data.utterances[index].text
        for token in [data.tokenizer.sos_id, *data.tokenizer.encode(text)]:
            _, weights, state = model.decoder.advance(torch.tensor([[token]]), state)
            rows.append(weights[0, 0].numpy())
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), np.stack(rows), atol=1e-5)
    assert [label.get_text() for label in axes.get_yticklabels()] == [*text, "end"]
    seconds = waveform.shape[1] / 16000
    assert axes.images[0].get_extent()[1] == pytest.approx(seconds, abs=0.05)


def test_augmentation_is_shown_beside_what_it_changes(parts: Parts) -> None:
    _, features, data, config = parts
    probe = Probe(data, replace(config, augment=replace(config.augment, speed_factors=(0.9,))))
    figure = probe.augmentation(features, probe.augmented[0], step=5)
    before, after = (axes.images[0].get_array() for axes in figure.axes[:2])
    waveform = data.waveform(probe.augmented[0])[None]
    expected, _ = features(waveform, torch.tensor([waveform.shape[1]]))
    np.testing.assert_allclose(before, expected[0].numpy().T, atol=1e-6)
    assert after.shape[1] == pytest.approx(before.shape[1] / 0.9, abs=2)
    assert np.ma.getmaskarray(after).any()
    assert "at 0.9 times the speed" in figure.axes[1].get_title(loc="left")
    again = probe.augmentation(features, probe.augmented[0], step=5).axes[1].images[0].get_array()
    assert np.ma.allequal(after, again)


def test_pictures_come_with_the_decoder_and_leave_no_trace(parts: Parts) -> None:
    model, features, data, config = parts
    probe = Probe(data, config)
    assert len(set(probe.attended)) == 2
    before = torch.random.get_rng_state()
    assert set(probe.draw(model, features, 1, with_decoder=False)) == {"augmentation"}
    assert set(probe.draw(model, features, 1, with_decoder=True)) == {
        "augmentation", "attention-1", "attention-2"
    }  # fmt: skip
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_cannot_be_read_is_not_shown(parts: Parts) -> None:
    model, features, data, config = parts
    gone = [replace(u, audio_filepath="nowhere.wav") for u in data.utterances]
    missing = SpeechDataset(gone, data.tokenizer, 16000)
    assert Probe(missing, config).draw(model, features, 1, with_decoder=True) == {}


def test_without_dev_utterances(parts: Parts) -> None:
    model, features, data, config = parts
    probe = Probe(SpeechDataset([], data.tokenizer, 16000), config)
    assert set(probe.draw(model, features, 1, with_decoder=True)) == set()
