"""Log-mel features against librosa, and in batches."""

from __future__ import annotations

import librosa
import numpy as np
import pytest
import torch

from asr.config import FeatureConfig
from asr.features import LogMel


def noise(num_samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_samples, generator=torch.Generator().manual_seed(seed)) * 0.1


def test_equals_librosa() -> None:
    config = FeatureConfig()
    waveform = noise(16000)
    mel = librosa.feature.melspectrogram(
        y=waveform.numpy(), sr=16000, n_fft=512, hop_length=160, win_length=400, window="hann",
        center=True, pad_mode="constant", power=2.0, n_mels=80, fmin=20, fmax=8000, htk=True,
        norm=None,
    )  # fmt: skip
    expected = np.log(np.maximum(mel, config.log_floor)).T
    # Float32 sums in another order: 1e-3 nats is a thousandth of a percent of the range.
    np.testing.assert_allclose(
        LogMel(config).log_mel(waveform[None])[0].numpy(), expected, atol=1e-3
    )


@pytest.mark.parametrize("utterance_mean", [True, False])
def test_batch_equals_single(utterance_mean: bool) -> None:
    log_mel = LogMel(FeatureConfig(utterance_mean=utterance_mean))
    lengths = torch.tensor([16000, 7777, 400, 1])
    waveform = torch.zeros(4, 16000)
    for row, length in enumerate(lengths.tolist()):
        waveform[row, :length] = noise(length, row)
    batch, batch_lengths = log_mel(waveform, lengths)
    assert batch_lengths.tolist() == [101, 49, 3, 1]
    assert batch.shape == (4, 101, 80)
    for row, length in enumerate(lengths.tolist()):
        single, _ = log_mel(waveform[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(batch[row, : single.shape[1]], single[0], atol=1e-4, rtol=1e-4)
        assert not batch[row, single.shape[1] :].any()


def test_fit_normalises() -> None:
    log_mel = LogMel(FeatureConfig(utterance_mean=False))
    waveforms = [noise(16000, i) * (i + 1) for i in range(5)]
    log_mel.fit(waveforms)
    frames = torch.cat([log_mel(w[None], torch.tensor([16000]))[0][0] for w in waveforms])
    torch.testing.assert_close(frames.mean(0), torch.zeros(80), atol=1e-3, rtol=0)
    torch.testing.assert_close(frames.std(0), torch.ones(80), atol=1e-3, rtol=0)


def test_loudness_does_not_matter_with_utterance_mean() -> None:
    log_mel = LogMel(FeatureConfig())
    waveform, length = noise(16000)[None], torch.tensor([16000])
    quiet, loud = log_mel(waveform * 0.1, length)[0], log_mel(waveform, length)[0]
    torch.testing.assert_close(quiet, loud, atol=1e-3, rtol=0)


def test_window_longer_than_transform_is_refused() -> None:
    with pytest.raises(ValueError, match="n_fft: found 256, wanted at least the window's 400"):
        LogMel(FeatureConfig(n_fft=256))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_equals_cpu() -> None:
    log_mel, waveform, length = LogMel(FeatureConfig()), noise(16000)[None], torch.tensor([16000])
    on_cpu = log_mel(waveform, length)[0]
    on_gpu = log_mel.cuda()(waveform.cuda(), length.cuda())[0].cpu()
    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-3, rtol=1e-3)
