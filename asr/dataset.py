"""Where training gets its batches: `open_source`, of manifests or of shards alike.

An update's batch is built for all processes together, each of which takes every so many-th
utterance: two processes make the same updates as one with batches of twice the size.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from asr.archive import is_shard
from asr.audio import AudioError, load_audio
from asr.batch import Batch, Position, TrainingSource, make_batch, unless_all_silent
from asr.config import DataConfig
from asr.index import ManifestIndex
from asr.manifest import ManifestError, Utterance
from asr.order import BatchList, DurationBatches, Leg, share
from asr.pool import ShardSource
from asr.tokenizer import CharTokenizer


def open_source(
    manifests: Sequence[str],
    config: DataConfig,
    tokenizer: CharTokenizer,
    sample_rate: int,
    seed: int,
    rank: int = 0,
    world: int = 1,
    pin: bool = False,
) -> TrainingSource:
    """Open what is trained on.

    Args:
        manifests: Paths of JSON-lines manifests, or of tar shards: a path or brace pattern that
            ends in .tar, a URL, or ``pipe:COMMAND``.
        config: Alphabet, limits and sizes of batches, which are for each process.
        tokenizer: Turns texts into ids.
        sample_rate: Hz of the waveforms.
        seed: Source of the order.
        rank: Number of this process.
        world: How many processes there are.
        pin: Put batches into page-locked memory, for a GPU.

    Raises:
        ValueError: Nothing was named, manifests and shards are mixed, one cannot be read, or
            nothing usable is in them.
    """
    shards = [name for name in manifests if is_shard(name)]
    if not shards:
        utterances, _ = load_utterances(manifests, config)
        dataset = SpeechDataset(utterances, tokenizer, sample_rate, config.cache_dir)
        return ManifestSource(dataset, utterances, config, seed, rank, world, pin)
    if len(shards) < len(manifests):
        other = next(name for name in manifests if name not in shards)
        raise ValueError(
            f"data.train_manifests: found the manifest {other} beside the shards {shards[0]}, "
            "wanted only one of the two kinds"
        )
    return ShardSource(shards, config, tokenizer, sample_rate, seed, rank, world, pin)


def load_utterances(
    manifests: Sequence[str], config: DataConfig
) -> tuple[ManifestIndex, dict[str, int]]:
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
    for name in manifests:
        if is_shard(name):
            raise ValueError(f"{name}: found a shard, wanted a manifest; shards are for training")
    index = ManifestIndex(manifests, config)
    if not len(index):
        raise ValueError(f"{', '.join(manifests)}: found no usable utterance ({index.left_out})")
    return index, index.left_out


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
        return self._load(self.utterances[index].audio_filepath)

    def _load(self, path: str) -> Tensor:
        if self.cache_dir is None:
            return torch.from_numpy(load_audio(path, self.sample_rate))
        try:
            stat = os.stat(path)
        except OSError as error:
            raise AudioError(f"{path}: cannot be read ({error.strerror})") from error
        key = f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0{self.sample_rate}"
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        cached = self.cache_dir / name[:2] / f"{name}.npy"
        try:
            stored: npt.NDArray[np.int16] = np.load(cached)
        except (OSError, ValueError, EOFError):  # none yet, or a damaged one
            samples = load_audio(path, self.sample_rate)
            stored = (samples * 32767).round().clip(-32768, 32767).astype(np.int16)
            with suppress(OSError):  # a full disk makes it slower, not impossible
                _save_whole(cached, stored)
        return torch.from_numpy(stored).float() / 32767

    def __getitem__(self, indices: Sequence[int]) -> Batch:
        """Return a batch of the readable ones among the utterances.

        Args:
            indices: Which ones; ``~index`` for one that only stands in and does not count. If
                none can be read, silence stands in.
        """
        waveforms: dict[int, Tensor] = {}
        texts: list[str] = []
        ids: list[str] = []
        problems: list[str] = []
        for index in indices:
            try:
                utterance = self.utterances[index if index >= 0 else ~index]
                waveforms[index] = self._load(utterance.audio_filepath)
                texts.append(utterance.text)
                ids.append(utterance.id)
            except (AudioError, ManifestError) as error:
                problems.append(str(error))
        return make_batch(waveforms, texts, self.tokenizer, self.sample_rate, problems, ids)


def _save_whole(path: Path, samples: npt.NDArray[np.int16]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp.npy")
    try:
        np.save(temporary, samples)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def make_loader(
    dataset: SpeechDataset, batches: Iterable[list[int]], num_workers: int, pin: bool
) -> DataLoader[Batch]:
    """Return an iterable of the batches, read ahead by ``num_workers`` processes."""
    return DataLoader(
        dataset, sampler=batches, batch_size=None, num_workers=num_workers, pin_memory=pin
    )


class ManifestSource:
    """The batches of manifests: see `TrainingSource`.

    Args:
        dataset: Reads the audio.
        utterances: What there is.
        config: Sizes of batches, which are for each process.
        seed: Source of the order.
        rank: Number of this process.
        world: How many processes there are.
        pin: Put batches into page-locked memory.
    """

    def __init__(
        self,
        dataset: SpeechDataset,
        utterances: ManifestIndex,
        config: DataConfig,
        seed: int,
        rank: int,
        world: int,
        pin: bool,
    ) -> None:
        self.dataset = dataset
        self.config = config
        self.rank = rank
        self.world = world
        self.pin = pin
        self.leg = Leg(config.batch_seconds * world, config.max_batch_size * world)
        self.order = DurationBatches(
            utterances.durations, self.leg.batch_seconds, self.leg.max_batch_size, seed,
            config.short_first,
        )  # fmt: skip
        self.epoch_hours = float(utterances.durations.sum()) / 3600
        self.messages = [f"training on {len(utterances)} utterances, {self.epoch_hours:.2f} h"]
        self.messages += [
            f"left out: {n} utterances {why}" for why, n in utterances.left_out.items()
        ]
        mark = hashlib.sha256(utterances.durations.tobytes())
        mark.update(f"{seed}/{config.short_first}".encode())
        self.corpus = mark.hexdigest()[:16]

    @cached_property
    def num_batches(self) -> int:
        """Updates in a pass over the data."""
        return len(self.order.epoch(0))

    def batches(self, position: Position) -> Iterator[tuple[Batch, Position]]:
        """Return this process's batches; see `TrainingSource`."""
        if position.legs and position.corpus != self.corpus:
            self.messages.append(
                f"the data, its order or its limits have changed: epoch {position.epoch} "
                "starts anew"
            )
            position = Position(position.epoch)
        return unless_all_silent(self._batches(position))

    def _batches(self, position: Position) -> Iterator[tuple[Batch, Position]]:
        while True:
            earlier, taken = self._legs(position)
            batches = self.order.epoch(position.epoch, earlier)
            shares = self._shares(batches[taken:])
            loader = make_loader(self.dataset, shares, self.config.num_workers, self.pin)
            for number, batch in enumerate(loader, start=taken + 1):
                behind = Position(position.epoch + 1)
                if number < len(batches):
                    legs = (*earlier, replace(self.leg, batches=number))
                    behind = Position(position.epoch, legs, self.corpus)
                yield batch, behind
            position = Position(position.epoch + 1)

    def _legs(self, position: Position) -> tuple[tuple[Leg, ...], int]:
        """Return the legs of other sizes before, and the batches taken of today's size."""
        earlier = tuple(leg for leg in position.legs if leg.batches)
        if earlier and replace(earlier[-1], batches=0) == self.leg:
            return earlier[:-1], earlier[-1].batches
        return earlier, 0

    def _shares(self, batches: BatchList) -> Iterator[list[int]]:
        return (share(batch, self.rank, self.world) for batch in batches)

    def texts(self, count: int) -> list[str]:
        """Return texts from all over the data; see `TrainingSource`."""
        step = max(1, len(self.dataset) // count)
        return [self.dataset.utterances[i].text for i in range(0, len(self.dataset), step)]

    def waveforms(self, count: int) -> list[Tensor]:
        """Return waveforms from all over the data; see `TrainingSource`."""
        found: list[Tensor] = []
        problem = ""
        for index in range(0, len(self.dataset), max(1, len(self.dataset) // count)):
            try:
                found.append(self.dataset.waveform(index))
            except AudioError as error:
                problem = str(error)
        if not found:
            raise ValueError(f"training data: found no readable audio ({problem})")
        return found
