"""Time whole training steps, part by part, beside the obvious alternatives, in one run.

    python scripts/bench_training.py
    python scripts/bench_training.py --config recipes/tiny/config.toml --threads 2 --rounds 9
    python scripts/bench_training.py --config recipes/librispeech/configs/clean_100h.toml \\
        --synthetic 15 --batch-seconds 400 --device cuda
    python scripts/bench_training.py --sweep --threads 1 2 --json runs/sweep.json

The table has a row for each way of training the same network on the same batches:

- as the project does it: padded recurrent layers, the backward direction on sequences reversed by
  their own length, and all characters of a teacher-forced pass at once;
- PyTorch's bidirectional layers over packed sequences instead;
- a Python loop over the characters instead;
- each of these in single precision and with bfloat16 autocast; `--compile` adds torch.compile.

A step is everything from reading audio to the running average of weights. Rates are hours of audio
an hour; they and the shares of the parts are medians of rounds in which the rows take turns, after
one that only warms up. Peak memory is that of a process of its own that does nothing else, on the
longest utterances (on a GPU: what PyTorch allocated there). What this computer lacks, a GPU or
bfloat16 in hardware, is "not run". `--sweep` times cells, widths, frame rates, precisions and
threads instead, to choose a setting by. `bench_processes.py` times several processes together.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shlex
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from timed_step import PARTS, Contestant, Variant

from asr.arguments import Parser
from asr.checkpoint import build_model
from asr.config import Config, load_config
from asr.dataset import SpeechDataset, load_utterances
from asr.manifest import Utterance, write_manifest
from asr.model import RECURRENT_CELLS
from asr.precision import has_bfloat16
from asr.report import describe_machine

CHARS_PER_SECOND = 14  # of read books, for synthetic text
NOT_RUN = "not run"


@dataclass(frozen=True)
class Timing:
    """What one row took: seconds of each round and, of each part, in each round."""

    audio_seconds: tuple[float, ...]
    parts: tuple[dict[str, float], ...]

    @property
    def rate(self) -> float:
        """Hours of audio an hour."""
        rounds = zip(self.audio_seconds, self.parts, strict=True)
        return statistics.median(audio / sum(parts.values()) for audio, parts in rounds)

    @property
    def shares(self) -> dict[str, float]:
        """Fraction of the time that each part takes."""
        medians = {name: statistics.median(p[name] for p in self.parts) for name in PARTS}
        return {name: seconds / sum(medians.values()) for name, seconds in medians.items()}


def write_synthetic(folder: Path, config: Config, longest: float, seconds: float) -> str:
    """Write noise that is said to be speech; lengths and texts are like those of read books.

    Args:
        folder: Gets the sound files and the manifest.
        config: Sample rate and alphabet.
        longest: Seconds of the longest utterance; the shortest has half of them.
        seconds: Of all together.

    Returns:
        The manifest.
    """
    chance, rate = random.Random(1), config.features.sample_rate
    utterances: list[Utterance] = []
    while sum(utterance.duration for utterance in utterances) < seconds:
        duration = round(longest * chance.uniform(0.5, 1), 2)
        letters = [c for c in config.data.alphabet if c != " "]
        text = "".join(chance.choices(letters, k=int(CHARS_PER_SECOND * duration)))
        path = folder / f"{len(utterances)}.wav"
        noise = np.random.default_rng(len(utterances)).normal(0, 0.1, int(rate * duration))
        soundfile.write(path, noise, rate)
        utterances.append(Utterance(str(path), duration, text, id=path.stem))
    write_manifest(folder / "noise.jsonl", utterances)
    return str(folder / "noise.jsonl")


def load_batches(
    config: Config, manifest: str, count: int
) -> tuple[SpeechDataset, list[list[int]]]:
    """Return a data set, and batches of utterances of like length, evenly from short to long.

    Raises:
        ValueError: The manifest cannot be read or holds nothing usable.
    """
    utterances, _ = load_utterances([manifest], config.data)
    tokenizer = build_model(config)[2]
    rate = config.features.sample_rate
    dataset = SpeechDataset(utterances, tokenizer, rate, config.data.cache_dir)
    durations = [utterance.duration for utterance in utterances]
    order = sorted(range(len(durations)), key=durations.__getitem__)
    batches = []
    for number in range(count):
        last = (number + 1) * len(order) // count  # the longest of the batch is the one before
        size = int(config.data.batch_seconds / durations[order[max(0, last - 1)]])
        size = max(1, min(size, config.data.max_batch_size))
        batches.append(order[max(0, last - size) : max(1, last)])
    return dataset, batches


def texts_of(dataset: SpeechDataset) -> list[str]:
    """Return what is said in a data set."""
    return [utterance.text for utterance in dataset.utterances]


def measure(variants: Sequence[Variant], manifest: str, rounds: int) -> list[Timing]:
    """Time the variants in turns; those of the same network share it."""
    contestants: dict[Any, Contestant] = {}
    seconds: list[list[dict[str, float]]] = [[] for _ in variants]
    audio: list[float] = []
    dataset, batches = load_batches(variants[0].config, manifest, rounds)
    for number, indices in enumerate([batches[-1], *batches]):  # the first only warms up
        show(f"round {number} of {rounds}")
        audio.append(sum(dataset.utterances[i].duration for i in indices))
        for variant, parts in zip(variants, seconds, strict=True):
            ways = (variant.device, variant.packed, variant.looped, variant.compiled)
            key = (variant.config.model, *ways)
            if key not in contestants:
                contestants[key] = Contestant(variant, texts_of(dataset))
            contestant = contestants[key]
            contestant.config = variant.config
            torch.set_num_threads(variant.threads)
            parts.append(contestant.step(dataset, indices, number))
    show("")
    return [Timing(tuple(audio[1:]), tuple(parts[1:])) for parts in seconds]


def peak_memory(variant: Variant, manifest: str) -> float:
    """Return the highest memory in MiB of this process after steps on the longest utterances."""
    torch.set_num_threads(variant.threads)
    dataset, batches = load_batches(variant.config, manifest, 1)
    contestant = Contestant(variant, texts_of(dataset))
    for number in range(2):
        contestant.step(dataset, batches[0], number)
    if variant.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    # Not getrusage: its maximum includes the parent's memory from before exec.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def memory_of(variant: Variant, manifest: str) -> float | None:
    """Return the peak memory in MiB of a process of its own, None where nothing tells it."""
    if variant.device == "cpu" and not Path("/proc/self/status").exists():
        return None
    show(f"memory of {variant.name}")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(peak_memory, variant, manifest).result()


def alternatives(config: Config, device: str, threads: int, compiled: bool) -> list[Variant]:
    """Return the rows of the table for a device."""
    ways: dict[str, dict[str, bool]] = {
        "as in the project": {},
        "packed layers": {"packed": True},
        "looped decoder": {"looped": True},
    }
    if compiled:
        ways["torch.compile"] = {"compiled": True}
    return [
        Variant(f"{name}, {precision}", with_precision(config, precision), device, threads, **way)
        for precision in ("fp32", "bf16")
        for name, way in ways.items()
    ]


def with_precision(config: Config, precision: str) -> Config:
    """Return the configuration with another precision."""
    return replace(config, train=replace(config.train, precision=precision))


def sweep(config: Config, options: argparse.Namespace, device: str) -> list[Variant]:
    """Return a row for each combination of the lists on the command line."""
    variants = []
    for cell, width, convolutions in itertools.product(
        options.cells, options.widths, options.convolutions
    ):
        channels = (*[32] * min(convolutions, 2), *[64] * (convolutions - 2))
        model = replace(
            config.model,
            encoder_cell=cell,
            encoder_width=width,
            conv_channels=channels,
            ctc_labels_per_frame=2 ** max(0, convolutions - 2),  # as many CTC outputs a second
        )
        frame = round(1000 * config.features.shift_seconds * 2**convolutions)
        for precision, threads in itertools.product(options.precisions, options.threads):
            name = f"{cell}-{width}, {frame} ms, {precision}, {threads} thr."
            chosen = with_precision(replace(config, model=model), precision)
            variants.append(Variant(name, chosen, device, threads))
    return variants


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    lines = [
        f"| way | device | audio-hours/hour | {' | '.join(f'{p} %' for p in PARTS)} | peak MiB |",
        f"|---|---|---|{'---|' * len(PARTS)}---|",
    ]
    for row in rows:
        shares = [f"{100 * row['shares'][p]:.1f}" if row["shares"] else "" for p in PARTS]
        rate = NOT_RUN if row["rate"] is None else f"{row['rate']:.1f}"
        memory = "" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
        cells = [row["name"], row["device"], rate, *shares, memory]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def show(message: str) -> None:
    """Say on a terminal what is going on, on one line that is overwritten."""
    if sys.stderr.isatty():
        print(f"\r\033[K{message}", end="", file=sys.stderr, flush=True)


def variants_of(config: Config, options: argparse.Namespace, device: str) -> list[Variant]:
    """Return what the command line wants measured on a device."""
    if options.sweep:
        variants = sweep(config, options, device)
    else:
        compiled = options.compile and can_compile(device)
        variants = alternatives(config, device, options.threads[0], compiled)
    return [replace(v, processor_time=options.processor_time) for v in variants]


def run(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Measure what the command line asks for.

    Raises:
        ValueError: A setting or the manifest cannot be used.
    """
    config = load_config(options.config, options.overrides)
    limit = options.batch_seconds or config.data.batch_seconds
    config = replace(config, data=replace(config.data, batch_seconds=limit))
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: found no CUDA device")
    rows: list[dict[str, Any]] = []
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        manifest = options.manifest
        if options.synthetic:
            seconds = (options.rounds + 1) * limit
            manifest = write_synthetic(Path(folder), config, options.synthetic, seconds)
        for device in ("cpu", "cuda") if options.device == "both" else (options.device,):
            variants = variants_of(config, options, device)
            able = [variant for variant in variants if can_run(variant)]
            measured = measure(able, manifest, options.rounds) if able else []
            timings = dict(zip(able, measured, strict=True))
            for variant in variants:
                timing = timings.get(variant)
                row = {"name": variant.name, "device": device, "threads": variant.threads}
                row |= {"rate": timing and timing.rate, "shares": timing and timing.shares}
                wanted = timing and not options.sweep and not options.no_memory
                rows.append(row | {"peak_mib": memory_of(variant, manifest) if wanted else None})
    parameters = sum(p.numel() for p in build_model(config)[0].parameters())
    return {
        "command": command, "rounds": options.rounds, "batch_seconds": limit,
        "parameters": parameters, "data": "noise" if options.synthetic else options.manifest,
        "load_before": round(load, 2), **describe_machine(), "rows": rows,
    }  # fmt: skip


def can_run(variant: Variant) -> bool:
    """Tell whether this computer has the device, and its precision in hardware."""
    if variant.device == "cuda" and not torch.cuda.is_available():
        return False
    single = variant.config.train.precision == "fp32"
    return single or has_bfloat16(torch.device(variant.device))


def can_compile(device: str) -> bool:
    """Tell whether torch.compile has the compiler that it needs; say so if not."""
    found = bool(shutil.which("g++") or shutil.which("clang++")) if device == "cpu" else True
    if not found:
        print("--compile: found no C++ compiler, so torch.compile is not run", file=sys.stderr)
    return found


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("overrides", nargs="*", metavar="section.key=value", help="settings that override --config")
    add("--config", default="recipes/librispeech/configs/cpu_19h.toml", help="TOML file")
    add("--manifest", default="data/tiny/train.jsonl", help="real audio (default: %(default)s)")
    add("--synthetic", type=float, default=0.0, metavar="SECONDS", help="noise up to this long")
    add("--batch-seconds", type=float, help="of audio an update (default: the configuration's)")
    add("--device", choices=("cpu", "cuda", "both"), default="both")
    add("--threads", type=int, nargs="+", default=[1], help="on the CPU; a sweep takes several")
    add("--rounds", type=int, default=5)
    add(
        "--processor-time", action="store_true",
        help="count this process's time alone: for one thread on a machine that does other work",
    )  # fmt: skip
    add("--compile", action="store_true", help="also torch.compile, where there is a compiler")
    add("--no-memory", action="store_true", help="leave out peak memory: saves some seconds a row")
    add("--json", type=Path, metavar="FILE", help="keep all figures here")
    add("--sweep", action="store_true", help="every combination of the lists below")
    add("--cells", nargs="+", choices=list(RECURRENT_CELLS), default=["lstm", "gru"])
    add("--widths", nargs="+", type=int, default=[256, 320, 512])
    add("--convolutions", nargs="+", type=int, default=[2, 3], help="2: 40 ms a frame, 3: 80 ms")
    add("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    options = parser.parse_intermixed_args(argv)
    if options.rounds < 1 or min(options.threads) < 1:
        parser.error("--rounds and --threads: wanted whole numbers above 0")
    if options.processor_time and (options.device != "cpu" or options.threads != [1]):
        parser.error("--processor-time: wanted --device cpu and --threads 1")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 2 after an error of the user's."""
    argv = sys.argv[1:] if argv is None else argv
    options = parse_arguments(argv)
    command = shlex.join(["python", "scripts/bench_training.py", *argv])
    try:
        result = run(options, command)
    except ValueError as error:
        print(f"bench_training: {error}", file=sys.stderr)
        return 2
    machine = result["machine"]
    clock = "processor" if options.processor_time else "wall-clock"
    print(
        f"`{command}`\n\n{machine['cpu']}, {machine['gpu'] or 'no GPU'}, {result['date'][:10]}; "
        f"{result['parameters'] / 1e6:.1f} M parameters, {result['batch_seconds']:g} s an update, "
        f"{options.rounds} rounds, threads {', '.join(map(str, options.threads))}, "
        f"load {result['load_before']} before, {clock} time\n"
    )
    print(table(result["rows"]))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
