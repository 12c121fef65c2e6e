"""Short recordings, recognised together in batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asr.checkpoint import ModelBundle
    from asr.config import SearchConfig
    from asr.decode import Recognition
    from asr.segment import Waveform

BATCH_SECONDS = 120.0  # padded audio decoded at once: bounds the memory of any recording

# Root mean square, -40 dB of full scale: the floor of the features swallows part of what is much
# softer. Hardly any training utterance is below, so that others are heard as they are.
_SOFTEST = 0.01
_HIGHEST_GAIN = 100.0  # 40 dB: below that lies the noise of 16 bits


def recognize(
    bundle: ModelBundle,
    waveforms: Sequence[Waveform],
    search: SearchConfig | None = None,
    *,
    words: bool = True,
    batch_seconds: float = BATCH_SECONDS,
) -> list[Recognition]:
    """Recognise short recordings, those of similar length together.

    A text does not depend on what else is in the list.

    Args:
        bundle: The model.
        waveforms: Each (N,) at 16 kHz in -1..1, at least one sample, at most some 30 seconds.
        search: How to search; the default is the model's own way.
        words: Whether to find the times and confidences of words.
        batch_seconds: Padded audio decoded at once; one recording may be longer.

    Returns:
        What was heard, in the order of the waveforms.

    Raises:
        ValueError: The search settings ask for what their method cannot do.
    """
    import torch

    from asr.decode import decode_batch

    rate = bundle.config.features.sample_rate
    found: dict[int, Recognition] = {}
    for batch in _batches([len(waveform) / rate for waveform in waveforms], batch_seconds):
        num_samples = torch.tensor([len(waveforms[index]) for index in batch])
        padded = torch.zeros(len(batch), int(num_samples.max()))  # (B, N)
        for row, index in enumerate(batch):
            padded[row, : len(waveforms[index])] = torch.as_tensor(_audible(waveforms[index]))
        results = decode_batch(
            bundle.model,
            bundle.features,
            bundle.tokenizer,
            padded.to(bundle.device),
            num_samples.to(bundle.device),
            search or bundle.config.search,
            bundle.language_model,
            bundle.confidence,
            bundle.word_decoder,
            words=words,
        )
        found.update(zip(batch, results, strict=True))
    return [found[index] for index in range(len(waveforms))]


def _audible(waveform: Waveform) -> Waveform:
    """Return a waveform (N,) as it is, or louder if it is very soft."""
    import numpy as np

    loudness = float(np.std(waveform))  # a constant offset is not sound
    if loudness == 0.0 or loudness >= _SOFTEST:
        return waveform
    return waveform * np.float32(min(_SOFTEST / loudness, _HIGHEST_GAIN))


def _batches(seconds: Sequence[float], batch_seconds: float) -> Iterator[list[int]]:
    """Group indices by length, longest first, into at most `batch_seconds` padded."""
    batch: list[int] = []
    for index in sorted(range(len(seconds)), key=lambda index: -seconds[index]):
        if batch and (len(batch) + 1) * seconds[batch[0]] > batch_seconds:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
