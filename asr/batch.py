"""Short recordings, recognised together in batches of similar length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asr.checkpoint import ModelBundle
    from asr.config import SearchConfig
    from asr.segment import Waveform

Progress = Callable[[float, float], None]  # seconds of audio done, seconds in all

_BATCH_SECONDS = 240.0  # padded audio decoded at once: bounds the memory of any recording


def recognize(
    bundle: ModelBundle,
    waveforms: Sequence[Waveform],
    search: SearchConfig | None = None,
    *,
    progress: Progress | None = None,
) -> list[str]:
    """Recognise short recordings, those of similar length together.

    A text does not depend on what else is in the list.

    Args:
        bundle: The model.
        waveforms: Each (N,) at 16 kHz in -1..1, at least one sample, at most some 30 seconds.
        search: How to search; the default is the model's own way.
        progress: Called after each batch.

    Returns:
        The texts, in the order of the waveforms.
    """
    import torch

    from asr.decode import decode_batch

    rate = bundle.config.features.sample_rate
    total = sum(len(waveform) for waveform in waveforms) / rate
    texts = [""] * len(waveforms)
    done = 0.0
    for batch in _batches([len(waveform) / rate for waveform in waveforms]):
        num_samples = torch.tensor([len(waveforms[index]) for index in batch])
        padded = torch.zeros(len(batch), int(num_samples.max()))  # (B, N)
        for row, index in enumerate(batch):
            padded[row, : len(waveforms[index])] = torch.as_tensor(waveforms[index])
        results = decode_batch(
            bundle.model,
            bundle.features,
            bundle.tokenizer,
            padded.to(bundle.device),
            num_samples.to(bundle.device),
            search or bundle.config.search,
            bundle.language_model,
        )
        for index, text in zip(batch, results, strict=True):
            texts[index] = text
        done += float(num_samples.sum()) / rate
        if progress is not None:
            progress(done, total)
    return texts


def _batches(seconds: Sequence[float]) -> Iterator[list[int]]:
    """Group indices by length, longest first, into at most `_BATCH_SECONDS` padded."""
    batch: list[int] = []
    for index in sorted(range(len(seconds)), key=lambda index: -seconds[index]):
        if batch and (len(batch) + 1) * seconds[batch[0]] > _BATCH_SECONDS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
