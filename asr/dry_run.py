"""What a training run would do: its data, network, memory and time, without training anything.

    python -m asr.train recipes/tiny/config.toml --dry-run

A few real steps are made on batches of all durations, and thrown away. Nothing is written but
the cache of decoded audio, if the configuration has one.
"""

from __future__ import annotations

import math
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from asr import distributed
from asr.archive import is_shard
from asr.batch import Position
from asr.config import Config
from asr.features import LogMel
from asr.manifest import (
    Utterance,
    check_overlap,
    check_utterances,
    prepare_text,
    print_problems,
    read_manifest,
    reason_to_skip,
)
from asr.model import SpeechModel
from asr.tokenizer import CharTokenizer

MAX_FILES = 300  # of a set, whose headers are looked at
MEASURING_SECONDS = 60.0  # of steps, in each phase of the training
STEPS = (3, 9)  # at least and at most, in each phase
MEMORY_STEPS = 4  # enough that one of them slows its audio down, which makes it longer
BUSY = 0.7  # of the cores that steps should have had
COPIES = 5  # of every weight: itself, gradient, two moments of AdamW, average
# Found by the check, but asked for by the configuration, or none of training's business.
HARMLESS = ("skipped: shorter", "skipped: longer", "the same id", "the same speaker")
FOUND_IN_FILES = ("skipped: audio that cannot be read", "wrong duration")
TOLERATED = 0.01  # of the utterances may have a problem: training leaves them out


class Run(Protocol):
    """What a dry run needs of a training run that is ready to start."""

    device: torch.device
    source: Any  # a `ManifestSource`: shards are refused before
    model: SpeechModel
    features: LogMel
    tokenizer: CharTokenizer
    progress: Any  # has `step` and `position`
    messages: list[str]

    def advance(self, batches: Any) -> Any:
        """Make one update with the next (batch, position)."""

    def uses_decoder(self, step: int) -> bool:
        """Tell whether the decoder is trained at a step."""


@dataclass(frozen=True)
class Pace:
    """How fast steps of one kind are.

    Attributes:
        seconds: Of each measured step, reading its audio included where nobody reads ahead.
        audio_seconds: Of each step's batch, with padding.
    """

    seconds: tuple[float, ...]
    audio_seconds: tuple[float, ...]

    @property
    def seconds_per_audio_second(self) -> float:
        """Median over the steps: how long a second of audio takes."""
        pairs = zip(self.seconds, self.audio_seconds, strict=True)
        return statistics.median(step / audio for step, audio in pairs)


def dry_run(config: Config, make_run: Callable[[Config, torch.device], Run]) -> int:
    """Print what a run would do.

    Args:
        config: Of the run.
        make_run: Gets the run ready to start, without writing anything.

    Returns:
        0 if all is well, 1 if something was found that harms training.

    Raises:
        ValueError: The run could not start.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("--dry-run: found several processes, wanted one, without torchrun")
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    if not config.train.resume and (Path(config.train.output_dir) / "state.pt").exists():
        print(f"{config.train.output_dir} holds a training state: training will want resume=true")
    if any(is_shard(name) for name in (*config.data.train_manifests, *config.data.dev_manifests)):
        raise ValueError("--dry-run: found shards, wanted the manifests they were packed from")
    harmful = print_data(config)
    try:
        run = make_run(config, distributed.start(config.train.device))
        for message in run.messages:
            print(message)
        print_network(run.model)
        print_batch(run, config)
        print_memory(run, config)
        print_time(run, config)
    except torch.OutOfMemoryError:
        print("\nthe largest batch does not fit into the GPU's memory: lower data.batch_seconds")
        harmful += 1
    tolerated = f"up to {TOLERATED:.0%} of the utterances may be left out"
    print(f"\nproblems that harm training: {harmful or 'none'} ({tolerated})")
    return 1 if harmful else 0


def print_data(config: Config) -> int:
    """Print what is in the manifests; return how many problems harm training."""
    whole = replace(config, data=replace(config.data, max_seconds=float("inf")))
    sets = {
        "training": (config.data.train_manifests, config),
        "dev": (config.data.dev_manifests, whole),  # validation decodes the long ones too
    }
    harmful = 0
    utterances = {
        name: [utterance for path in manifests for utterance in read_manifest(path)]
        for name, (manifests, _) in sets.items()
    }
    for name, (_, settings) in sets.items():
        if utterances[name]:
            _print_set(name, utterances[name], settings)
            found = check_utterances(utterances[name], settings, MAX_FILES)
            harmful += _print_found(found, len(utterances[name]))
        elif name == "dev":
            print("dev: no manifests (data.dev_manifests), so no best model can be chosen")
    return harmful + _print_found(check_overlap(utterances), 0)


def _print_found(problems: dict[str, list[str]], utterances: int) -> int:
    """Print problems; return how many there are of the kinds that harm training."""
    print_problems(problems, examples=3)
    harmful = 0
    for kind, lines in problems.items():
        looked_at = min(utterances, MAX_FILES) if kind in FOUND_IN_FILES else utterances
        if not kind.startswith(HARMLESS) and len(lines) > TOLERATED * looked_at:
            harmful += len(lines)
    return harmful


def _print_set(name: str, utterances: Sequence[Utterance], config: Config) -> None:
    prepared = [prepare_text(utterance, config.data) for utterance in utterances]
    used = [utterance for utterance in prepared if not reason_to_skip(utterance, config.data)]
    hours, of_hours = (sum(u.duration for u in us) / 3600 for us in (used, prepared))
    looked_at = len(prepared[:: math.ceil(len(prepared) / MAX_FILES)])
    print(
        f"{name}: {len(used)} of {len(prepared)} utterances, {hours:.2f} of {of_hours:.2f} h, "
        f"headers of {looked_at} sound files looked at"
    )
    if used:
        print(f"  seconds:             {_spread([u.duration for u in used])}")
        print(f"  characters a second: {_spread([len(u.text) / u.duration for u in used])}")
        _print_histogram([u.duration for u in used])


def _spread(values: Sequence[float]) -> str:
    """Return minimum, median, maximum and what is between, in one line."""
    ordered = sorted(values)
    points = {"min": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "max": 1.0}
    return "  ".join(
        f"{name} {ordered[round(at * (len(ordered) - 1))]:.1f}" for name, at in points.items()
    )


def _print_histogram(durations: Sequence[float]) -> None:
    shortest, longest = min(durations), max(durations)
    widths = (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)
    width = next((w for w in widths if (longest - shortest) / w <= 10), 3600)
    first = int(shortest / width)
    counts = [0] * (int(longest / width) - first + 1)
    for duration in durations:
        counts[int(duration / width) - first] += 1
    for index, number in enumerate(counts, start=first):
        bar = "█" * round(40 * number / max(counts))
        begin, end = (f"{width * edge:.4g}" for edge in (index, index + 1))
        print(f"  {begin:>6s} to {end:>4s} s {number:8d} {bar}".rstrip())


def print_network(model: SpeechModel) -> None:
    """Print the size of each part of the network."""
    decoder, encoder = count(model.decoder), count(model.encoder)
    front_end = count(model.encoder.front_end)
    attention = count(model.decoder.attention) if model.decoder.attention is not None else 0
    parts = {
        "front end": front_end,
        "encoder": encoder - front_end,
        "CTC head": count(model.ctc_head),
        "phones": sum(count(part) for part in (model.phone_head, model.phone_reader) if part),
        "attention": attention,
        "decoder": decoder - attention,
        "all": count(model),
    }
    print("\nnetwork:")
    for name, parameters in parts.items():
        print(f"  {name:10s} {parameters:12,d} parameters {_megabytes(4 * parameters):>12s}")


def count(module: torch.nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def print_batch(run: Run, config: Config) -> None:
    """Print the shapes of a batch, and its first transcript there and back."""
    order = run.source.order.epoch(run.progress.position.epoch)
    batch = run.source.dataset[order[len(order) // 2]]
    features, lengths = run.features(
        batch.waveform[:1].to(run.device), batch.num_samples[:1].to(run.device)
    )
    with torch.no_grad():
        encoded = run.model.encode(features, lengths)
    ctc_lengths = run.model.ctc_log_probs(encoded)[1]
    padding = 1 - float(batch.num_samples.sum()) / batch.waveform.numel()
    if not bool(batch.counts[0]):
        print(f"\none batch: nothing of it can be read ({'; '.join(batch.problems)})")
        return
    text = run.source.dataset.utterances[batch.indices[0]].text
    again = run.tokenizer.decode(batch.tokens[0, : int(batch.token_lengths[0])].tolist())
    print("\none batch:")
    print(f"  waveform {tuple(batch.waveform.shape)}, {padding:.1%} of it padding")
    print(f"  tokens {tuple(batch.tokens.shape)}")
    print(
        f"  first: {int(batch.num_samples[0]) / config.features.sample_rate:.2f} s, "
        f"{tuple(features.shape[1:])} features, {int(ctc_lengths[0])} CTC frames "
        f"for {int(batch.token_lengths[0])} characters"
    )
    print(f"  its text: {text!r}, there and back {'the same' if text == again else repr(again)}")


def print_memory(run: Run, config: Config) -> None:
    """Print how much memory training needs: what is sure, and what the largest batch took."""
    order = run.source.order.epoch(run.progress.position.epoch)
    largest = max(order, key=lambda indices: _padded_seconds(run, indices))
    weights = 4 * count(run.model)
    batch = run.source.dataset[largest]
    start = run.progress.step
    run.progress.step = max(start, config.train.ctc_only_steps)  # the larger phase
    before = _reset_peak(run.device)
    for _ in range(MEMORY_STEPS):
        run.advance(iter([(batch, Position())]))
    peak = _peak(run.device)
    run.progress.step = start
    where = "GPU memory" if run.device.type == "cuda" else "memory"
    print("\nmemory:")
    print(
        f"  weights, gradients, optimizer and average: {COPIES} × {_megabytes(weights)} = "
        f"{_megabytes(COPIES * weights)} (computed)"
    )
    print(
        f"  {MEMORY_STEPS} steps with the largest batch ({len(largest)} utterances, "
        f"{_padded_seconds(run, largest):.0f} s with padding) went from {_megabytes(before)} to a "
        f"peak of {_megabytes(peak)} of {where} (measured)"
    )


def _reset_peak(device: torch.device) -> float:
    """Forget the highest use of memory so far; return the use now, in bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):  # Linux alone can; elsewhere the peak so far counts
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak(device)


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated())
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def print_time(run: Run, config: Config) -> None:
    """Print what a step, an epoch and the whole run take, from a few steps of each phase."""
    train, start = config.train, run.progress.step
    order = run.source.order.epoch(run.progress.position.epoch)
    audio = sum(_padded_seconds(run, indices) for indices in order)
    ctc_only = min(train.ctc_only_steps, train.max_steps)
    if train.ctc_weight == 1:
        ctc_only = train.max_steps
    print("\ntime (validation not counted):")
    print(f"  {len(order)} updates an epoch, {train.max_steps / len(order):.1f} epochs in "
          f"{train.max_steps} steps")  # fmt: skip
    total, wall, used = 0.0, time.perf_counter(), time.process_time()
    for name, begin, end in (
        ("CTC alone", start, ctc_only),
        ("with decoder", max(start, ctc_only), train.max_steps),
    ):
        if begin >= end:
            continue
        run.progress.step = begin
        pace = measure_pace(run, order, config)
        epoch = pace.seconds_per_audio_second * audio
        total += (end - begin) * epoch / len(order)
        print(
            f"  {name}: {end - begin} steps of {epoch / len(order):.3g} s "
            f"({min(pace.seconds):.3g} to {max(pace.seconds):.3g} s in {len(pace.seconds)} "
            f"measured ones), an epoch {_duration(epoch)}, "
            f"{1 / pace.seconds_per_audio_second:.1f} hours of audio an hour"
        )
    run.progress.step = start
    print(
        f"  all {max(0, train.max_steps - start)} steps: {_duration(total)} (estimated from these)"
    )
    share = (time.process_time() - used) / (time.perf_counter() - wall)
    if run.device.type == "cpu" and share < BUSY * torch.get_num_threads():
        print(f"  other programs keep the processor busy: the steps had {share:.2f} cores")


def measure_pace(run: Run, order: Sequence[list[int]], config: Config) -> Pace:
    """Time steps on batches that are spread evenly over all durations.

    Args:
        run: Makes the steps, from where its progress stands.
        order: The batches of an epoch.
        config: Says whether audio is cached and read ahead.
    """
    by_duration = sorted(order, key=lambda batch: run.source.order.durations[batch[-1]])
    middle = by_duration[len(order) // 2]
    _time_step(run, middle, config)  # the first of its kind is slower
    number = round(MEASURING_SECONDS / _time_step(run, middle, config))
    number = min(max(STEPS[0], number), STEPS[1])
    chosen = [by_duration[(2 * i + 1) * len(order) // (2 * number)] for i in range(number)]
    seconds = tuple(_time_step(run, indices, config) for indices in chosen)
    return Pace(seconds, tuple(_padded_seconds(run, indices) for indices in chosen))


def _time_step(run: Run, indices: list[int], config: Config) -> float:
    """Return the seconds of a step, with those of reading its audio where nobody reads ahead."""
    if config.data.cache_dir:
        run.source.dataset[indices]  # every epoch but the first finds it in the cache
    started = time.perf_counter()
    batch = run.source.dataset[indices]
    if config.data.num_workers:
        started = time.perf_counter()
    run.advance(iter([(batch, Position())]))
    if run.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _padded_seconds(run: Run, indices: Sequence[int]) -> float:
    return len(indices) * float(max(run.source.order.durations[index] for index in indices))


def _megabytes(number: float) -> str:
    return f"{number / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
