"""Training from tar shards: utterances are read in sequence, pooled in memory and batched.

A shard is a plain tar file with two members an utterance, next to each other: ``KEY.flac`` (or
wav, mp3, ogg, opus) and ``KEY.json`` with ``duration``, ``text`` and, if known, ``speaker`` and
``id``; `asr.shards` packs them. Nothing is ever sought in a shard, so that it may come through a
pipe or from a web server, and memory does not grow with the number of shards.

Each process reads shards of its own and makes batches of its own. An epoch ends for all when every
process has read all of its shards; those that are through before begin theirs once more.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from asr import distributed
from asr.archive import INDEX, SOUNDS, Sample, expand_shards, is_local, list_missing, read_samples
from asr.audio import AudioError, load_audio
from asr.batch import Batch, Position, make_batch, unless_all_silent
from asr.config import DataConfig
from asr.manifest import (
    ManifestError,
    Utterance,
    parse_object,
    prepare_text,
    reason_to_skip,
    to_utterance,
)
from asr.order import DurationBatches, Leg
from asr.tokenizer import CharTokenizer

_DRAWN = 4  # a quarter of the pool's batches is drawn, then it is filled again
_AGREE_EVERY = 10  # updates after which processes ask each other whether the epoch is over
_STATISTICS_SHARDS = 10
_MOST_NAMED = 5


@dataclass(frozen=True)
class Encoded:
    """An utterance with the bytes of its sound file."""

    utterance: Utterance
    sound: bytes

    def waveform(self, sample_rate: int) -> Tensor:
        """Return the (N,) float32 waveform.

        Raises:
            AudioError: The bytes are no sound, or damaged.
        """
        # A file in memory: the reader of sound files wants one that it can seek in.
        with open(os.memfd_create("sound"), "wb", buffering=0) as file:
            file.write(self.sound)
            path = f"/proc/self/fd/{file.fileno()}"
            try:
                return torch.from_numpy(load_audio(path, sample_rate))
            except AudioError as error:
                message = str(error).replace(path, self.utterance.audio_filepath)
                raise AudioError(message) from error


@dataclass
class Draw:
    """Utterances of a batch by their numbers in the pass, not decoded yet."""

    items: dict[int, Encoded]
    problems: list[str]


def read_shard(shard: str, config: DataConfig) -> Iterator[Encoded | str]:
    """Yield the utterances of a shard with prepared text, and a string for each problem."""
    for sample in read_samples(shard):
        if isinstance(sample, str):
            yield sample
            continue
        try:
            found = _to_encoded(sample, shard)
        except ManifestError as error:
            yield str(error)
            continue
        yield Encoded(prepare_text(found.utterance, config), found.sound)


def _to_encoded(sample: Sample, shard: str) -> Encoded:
    where = f"{shard}: {sample.key}"
    suffix = next((s for s in SOUNDS if s in sample.members), None)
    if suffix is None or "json" not in sample.members:
        found = ", ".join(f".{name}" for name in sample.members)
        raise ManifestError(f"{where}: found {found}, wanted .json and one of {', '.join(SOUNDS)}")
    values = parse_object(sample.members["json"], f"{where}.json")
    values["audio_filepath"] = f"{sample.key}.{suffix}"
    utterance = to_utterance(values, shard, f"{where}.json")  # its path: SHARD/KEY.flac
    return Encoded(utterance, sample.members[suffix])


@dataclass(eq=False)
class ShardStream(IterableDataset[tuple[Batch, bool]]):
    """One process's batches of one epoch, each with whether its shards are read to the end.

    Attributes:
        shards: All of the data, in the order of the epoch.
        config: Limits and sizes.
        tokenizer: Turns texts into ids.
        sample_rate: Hz of the waveforms.
        seed: Source of the order, another one in every epoch.
        rank: Number of this process.
        world: How many processes there are; several go on from the beginning at the end.
        skip: Batches that are left out, without decoding them.
    """

    shards: Sequence[str]
    config: DataConfig
    tokenizer: CharTokenizer
    sample_rate: int
    seed: str
    rank: int
    world: int
    skip: int

    def __iter__(self) -> Iterator[tuple[Batch, bool]]:
        for draw, through in islice(self._endless(), self.skip, None):
            waveforms, texts, ids, problems = {}, [], [], draw.problems
            for number, encoded in draw.items.items():
                try:
                    waveforms[number] = encoded.waveform(self.sample_rate)
                    texts.append(encoded.utterance.text)
                    ids.append(encoded.utterance.id)
                except AudioError as error:
                    problems.append(str(error))
            batch = make_batch(waveforms, texts, self.tokenizer, self.sample_rate, problems, ids)
            yield batch, through

    def _endless(self) -> Iterator[tuple[Draw, bool]]:
        through = False
        while not through or self.world > 1:
            draws = self.draws()
            draw = next(draws)
            for following in draws:
                yield draw, through
                draw = following
            through = True
            yield draw, through

    def draws(self) -> Iterator[Draw]:
        """Yield at least one draw: every utterance of this process's shards once."""
        pool: dict[int, Encoded] = {}
        problems: list[str] = []
        left_out: Counter[str] = Counter()
        number = filled = 0
        for item in self._read():
            if isinstance(item, str):
                problems.append(item)
            elif reason := reason_to_skip(item.utterance, self.config):
                left_out[reason] += 1
            else:
                pool[number] = item
                number += 1
            if len(pool) == self.config.shuffle_pool:
                filled += 1
                yield from self._draw(pool, filled, problems, _DRAWN)
        problems += [f"{n} utterances {why}, of this epoch's shards" for why, n in left_out.items()]
        if pool:
            yield from self._draw(pool, filled + 1, problems, 1)
        if not number or problems:
            yield Draw({}, problems or ["found no utterance in this process's shards"])

    def _read(self) -> Iterator[Encoded | str]:
        if len(self.shards) >= self.world:
            for shard in self.shards[self.rank :: self.world]:
                yield from read_shard(shard, self.config)
            return
        # Fewer shards than processes: all read everything, and share the utterances out.
        every = (item for shard in self.shards for item in read_shard(shard, self.config))
        yield from islice(every, self.rank, None, self.world)

    def _draw(
        self, pool: dict[int, Encoded], filled: int, problems: list[str], part: int
    ) -> Iterator[Draw]:
        """Take one of so many parts of the batches that the pool can make out of it."""
        numbers = list(pool)
        durations = [pool[number].utterance.duration for number in numbers]
        seed = random.Random(f"{self.seed}/{self.rank}").getrandbits(32)
        sizes = (self.config.batch_seconds, self.config.max_batch_size)
        batches = DurationBatches(durations, *sizes, seed).epoch(filled)
        for batch in batches[: max(1, len(batches) // part)]:
            draw = Draw({numbers[i]: pool.pop(numbers[i]) for i in batch}, problems.copy())
            problems.clear()
            yield draw


class ShardSource:
    """The batches of shards: see `asr.batch.TrainingSource`.

    A run resumes exactly with the same number of processes and the same settings of ``[data]``;
    with others the epoch at hand starts anew. ``short_first`` has no meaning here.

    Args:
        names: Paths, brace patterns, URLs and pipes.
        config: Limits and sizes; with ``num_workers`` a process beside reads and decodes ahead.
        tokenizer: Turns texts into ids.
        sample_rate: Hz of the waveforms.
        seed: Source of the order.
        rank: Number of this process.
        world: How many processes there are.
        pin: Put batches into page-locked memory.

    Raises:
        ValueError: No shard is there.
    """

    num_batches = None

    def __init__(
        self,
        names: Sequence[str],
        config: DataConfig,
        tokenizer: CharTokenizer,
        sample_rate: int,
        seed: int,
        rank: int,
        world: int,
        pin: bool,
    ) -> None:
        self.shards = expand_shards(names)
        missing = list_missing(self.shards)
        if len(missing) == len(self.shards):
            raise ValueError(f"{missing[0]}: no such file, wanted a tar shard")
        self.config = config
        self.tokenizer = tokenizer
        self.sample_rate = sample_rate
        self.seed = seed
        self.rank = rank
        self.world = world
        self.pin = pin
        self.epoch_hours = _packed_hours(self.shards)
        hours = "hours unknown" if self.epoch_hours is None else f"{self.epoch_hours:.2f} h"
        self.messages = [f"training on {len(self.shards)} shards, {hours}"]
        self.messages += [f"left out: {shard}: no such file" for shard in missing[:_MOST_NAMED]]
        if len(missing) > _MOST_NAMED:
            self.messages.append(f"left out: … and {len(missing) - _MOST_NAMED} more shards")
        settings = (config.batch_seconds, config.max_batch_size, config.shuffle_pool, seed, world)
        limits = (config.alphabet, config.normalize, config.min_seconds, config.max_seconds)
        mark = json.dumps([self.shards, settings, limits])
        self.corpus = hashlib.sha256(mark.encode()).hexdigest()[:16]

    def batches(self, position: Position) -> Iterator[tuple[Batch, Position]]:
        """Return this process's batches; see `asr.batch.TrainingSource`."""
        if position.legs and position.corpus != self.corpus:
            self.messages.append(
                "the shards, the number of processes or settings of [data] have changed: "
                f"epoch {position.epoch} starts anew"
            )
            position = Position(position.epoch)
        return unless_all_silent(self._batches(position))

    def _batches(self, position: Position) -> Iterator[tuple[Batch, Position]]:
        while True:
            epoch, taken = position.epoch, sum(leg.batches for leg in position.legs)
            # One worker at most: the order of several would depend on which is faster.
            workers = min(1, self.config.num_workers)
            loader = DataLoader(
                self.stream(epoch, taken), batch_size=None, num_workers=workers,
                pin_memory=self.pin,
            )  # fmt: skip
            position = Position(epoch + 1)
            for number, (batch, through) in enumerate(loader, start=taken + 1):
                if self._is_over(through, number):
                    yield batch, position
                    break
                leg = Leg(self.config.batch_seconds, self.config.max_batch_size, number)
                yield batch, Position(epoch, (leg,), self.corpus)

    def stream(self, epoch: int, skip: int) -> ShardStream:
        """Return this process's batches of an epoch, without the first so many."""
        shards = self.shards.copy()
        random.Random(f"{self.seed}/{epoch}").shuffle(shards)
        return ShardStream(
            shards, self.config, self.tokenizer, self.sample_rate, f"{self.seed}/{epoch}",
            self.rank, self.world, skip,
        )  # fmt: skip

    def _is_over(self, through: bool, number: int) -> bool:
        if self.world == 1:
            return through
        return number % _AGREE_EVERY == 0 and all(distributed.gather(through))

    def texts(self, count: int) -> list[str]:
        """Return the texts of the first shards; see `TrainingSource`."""
        items = (item for shard in self.shards for item in read_shard(shard, self.config))
        usable = (
            item.utterance.text
            for item in items
            if isinstance(item, Encoded) and not reason_to_skip(item.utterance, self.config)
        )
        found = list(islice(usable, count))
        if not found:
            raise ValueError("shards: found no usable text")
        return found

    def waveforms(self, count: int) -> list[Tensor]:
        """Return waveforms from the beginnings of several shards; see `TrainingSource`."""
        step = max(1, len(self.shards) // _STATISTICS_SHARDS)
        spread = sorted(range(len(self.shards)), key=lambda i: (i % step != 0, i))
        each = -(-count // min(_STATISTICS_SHARDS, len(self.shards)))
        found: list[Tensor] = []
        problem = ""
        for place in spread:
            wanted = min(len(found) + each, count)
            for item in read_shard(self.shards[place], self.config):
                try:
                    found.append(self._usable_waveform(item))
                except AudioError as error:
                    problem = str(error)
                if len(found) == wanted:
                    break
            if len(found) == count:
                break
        if not found:
            raise ValueError(f"shards: found no usable utterance (the last: {problem})")
        return found

    def _usable_waveform(self, item: Encoded | str) -> Tensor:
        if isinstance(item, str):
            raise AudioError(item)
        if reason := reason_to_skip(item.utterance, self.config):
            raise AudioError(f"{item.utterance.audio_filepath}: {reason}")
        return item.waveform(self.sample_rate)


def _packed_hours(shards: Sequence[str]) -> float | None:
    """Return the hours of shards that were packed here, from the indexes beside them."""
    seconds: dict[str, float] = {}
    for folder in {Path(shard).parent for shard in shards if is_local(shard)}:
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            seconds |= {str(folder / s["name"]): s["seconds"] for s in index["shards"]}
        except (OSError, ValueError, KeyError, TypeError):
            continue  # it is only there to tell the user more
    known = [seconds.get(str(Path(shard))) for shard in shards]
    return None if None in known else sum(s for s in known if s is not None) / 3600
