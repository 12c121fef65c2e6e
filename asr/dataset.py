"""Utterances as batches: which ones together, in which order, and as tensors."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from asr.audio import AudioError, load_audio
from asr.config import DataConfig
from asr.manifest import Utterance, prepare_text, read_manifest, reason_to_skip
from asr.tokenizer import CharTokenizer


@dataclass(frozen=True)
class Batch:
    """Padded utterances.

    Attributes:
        waveform: (B, N) float32, zero on padding.
        num_samples: (B,) samples.
        tokens: (B, U) character ids, padded with ``pad_id``.
        token_lengths: (B,) characters.
        counts: (B,) booleans, False for a stand-in that must not be learned from.
        indices: Which utterances of the data set these are.
        problems: What was wrong with files that could not be read and are left out.
    """

    waveform: Tensor
    num_samples: Tensor
    tokens: Tensor
    token_lengths: Tensor
    counts: Tensor
    indices: tuple[int, ...]
    problems: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on a device."""
        names = ("waveform", "num_samples", "tokens", "token_lengths", "counts")
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from where a GPU fetches it unattended."""
        names = ("waveform", "num_samples", "tokens", "token_lengths", "counts")
        return replace(self, **{name: getattr(self, name).pin_memory() for name in names})


def load_utterances(
    manifests: Sequence[str], config: DataConfig
) -> tuple[list[Utterance], dict[str, int]]:
    """Read manifests and keep what can be used, with normalised text.

    Args:
        manifests: Paths of JSON-lines manifests.
        config: Alphabet, normalisation and limits of duration.

    Returns:
        The utterances, and for each reason how many were left out.

    Raises:
        ValueError: No manifest was named, one cannot be read, or nothing usable is in them.
    """
    if not manifests:
        raise ValueError(
            "data: found no manifest, wanted data.train_manifests and data.dev_manifests"
        )
    kept: list[Utterance] = []
    left_out: dict[str, int] = {}
    for utterance in (u for path in manifests for u in read_manifest(path)):
        prepared = prepare_text(utterance, config)
        if reason := reason_to_skip(prepared, config):
            left_out[reason] = left_out.get(reason, 0) + 1
        else:
            kept.append(prepared)
    if not kept:
        raise ValueError(f"{', '.join(manifests)}: found no usable utterance ({left_out})")
    return kept, left_out


class SpeechDataset(Dataset[Batch]):
    """Batches of utterances by lists of their indices.

    Args:
        utterances: What there is.
        tokenizer: Turns texts into ids.
        sample_rate: Hz of the waveforms.
        cache_dir: Decoded audio is kept here as 16-bit samples; empty for no cache. Decoding and
            resampling compressed audio in every epoch can cost as much as training on it.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        tokenizer: CharTokenizer,
        sample_rate: int,
        cache_dir: str = "",
    ) -> None:
        self.utterances = utterances
        self.tokenizer = tokenizer
        self.sample_rate = sample_rate
        self.cache_dir = Path(cache_dir) if cache_dir else None

    def __len__(self) -> int:
        return len(self.utterances)

    def waveform(self, index: int) -> Tensor:
        """Return the (N,) float32 waveform of an utterance.

        Raises:
            AudioError: The file cannot be read.
        """
        path = self.utterances[index].audio_filepath
        if self.cache_dir is None:
            return torch.from_numpy(load_audio(path, self.sample_rate))
        try:
            stat = os.stat(path)
        except OSError as error:
            raise AudioError(f"{path}: cannot be read ({error.strerror})") from error
        key = f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0{self.sample_rate}"
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        cached = self.cache_dir / name[:2] / f"{name}.npy"
        if not cached.exists():
            samples = load_audio(path, self.sample_rate)
            _save_whole(cached, (samples * 32767).round().clip(-32768, 32767).astype(np.int16))
        return torch.from_numpy(np.load(cached)).float() / 32767

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        """Return a batch of the readable ones among the utterances.

        Raises:
            AudioError: None of them can be read.
        """
        waveforms: dict[int, Tensor] = {}
        problems: list[AudioError] = []
        for index in indices:
            try:
                waveforms[index] = self.waveform(index)
            except AudioError as error:
                problems.append(error)
        if not waveforms:
            raise problems[0]
        texts = [self.utterances[index].text for index in waveforms]
        tokens = [torch.tensor(self.tokenizer.encode(text)) for text in texts]
        return Batch(
            waveform=pad_sequence(list(waveforms.values()), batch_first=True),
            num_samples=torch.tensor([len(w) for w in waveforms.values()]),
            tokens=pad_sequence(tokens, batch_first=True, padding_value=self.tokenizer.pad_id),
            token_lengths=torch.tensor([len(t) for t in tokens]),
            counts=torch.ones(len(tokens), dtype=torch.bool),
            indices=tuple(waveforms),
            problems=tuple(map(str, problems)),
        )


def _save_whole(path: Path, samples: npt.NDArray[np.int16]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp.npy")
    np.save(temporary, samples)
    temporary.replace(path)


class DurationBatches:
    """Batches of utterances of similar duration, in an order set by seed and epoch alone.

    Since the order depends on nothing else, a run resumes in the middle of an epoch by knowing
    how many batches it has taken.

    Args:
        durations: Seconds of each utterance.
        batch_seconds: Padded seconds that a batch may hold; a longer utterance goes alone.
        max_batch_size: Utterances that a batch may hold.
        seed: Source of the order.
        short_first: Epoch 0 goes from short to long utterances.
    """

    def __init__(
        self,
        durations: Sequence[float],
        batch_seconds: float,
        max_batch_size: int,
        seed: int,
        short_first: bool = False,
    ) -> None:
        self.durations = durations
        self.batch_seconds = batch_seconds
        self.max_batch_size = max_batch_size
        self.seed = seed
        self.short_first = short_first

    def epoch(self, epoch: int) -> list[list[int]]:
        """Return the batches of an epoch, each a list of indices; every index is in one."""
        chance = random.Random(f"{self.seed}/{epoch}")
        # Durations blurred by a tenth: neighbours differ between epochs, padding stays small.
        blurred = [d * chance.uniform(0.95, 1.05) for d in self.durations]
        batches: list[list[int]] = []
        batch: list[int] = []
        longest = 0.0
        for index in sorted(range(len(blurred)), key=blurred.__getitem__):
            longest = max(longest, self.durations[index])
            full = longest * (len(batch) + 1) > self.batch_seconds
            if batch and (full or len(batch) == self.max_batch_size):
                batches.append(batch)
                batch, longest = [], self.durations[index]
            batch.append(index)
        batches.append(batch)
        if not (self.short_first and epoch == 0):
            chance.shuffle(batches)
        return batches


def make_loader(
    dataset: SpeechDataset, batches: Sequence[list[int]], num_workers: int, pin: bool
) -> DataLoader[Batch]:
    """Return an iterable of the batches, read ahead by ``num_workers`` processes."""
    return DataLoader(
        dataset, sampler=batches, batch_size=None, num_workers=num_workers, pin_memory=pin
    )
