"""Show that memory stays flat as a corpus grows, as a manifest and as shards.

    python scripts/bench_manifest.py
    python scripts/bench_manifest.py --lines 1000 100000 --shards 4 40

Every row is a process of its own, and its memory is the most that it took beyond its imports. For
manifests of so many lines: opening one as a training source, drawing all batches of an epoch,
what a forked loader process has of its own after twenty batches, and for comparison the list of
objects that `read_manifest` makes. For so many shards (of 100 utterances of two seconds): reading
all of them once, with a pool of 200 utterances. Measured on one core of an AMD EPYC, in seconds
of CPU time:

    lines   open s   open MB   epoch s   peak MB worker MB   list MB
     1000      0.0         0       0.0         3        16        0
   100000      2.1         4       0.1         9        18       86
  1000000     21.0        39       1.1        63        17      866
   shards utterances  read s   peak MB
        4        400      0.1        16
       40       4000      0.6        16
      400      40000      6.0        16
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from asr.arguments import Parser
from asr.config import DataConfig
from asr.dataset import ManifestSource, make_loader, open_source
from asr.manifest import Utterance, read_manifest, write_manifest
from asr.pool import ShardSource
from asr.shards import main as shards
from asr.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer(DataConfig.alphabet)
WORDS = "the of and to in that was he his it with as for had she not at but on her".split()
POOL = DataConfig(shuffle_pool=200)


def memory(kind: str, process: int | str = "self") -> float:
    """Return a figure of a process's memory in MB."""
    place = "smaps_rollup" if kind.startswith("Private") else "status"
    lines = Path(f"/proc/{process}/{place}").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1]) / 1024


class Stopwatch:
    """Seconds of this process, and its most memory beyond what it had at the start."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget the peak so far
        self.base = memory("VmRSS")
        self.started = time.process_time()

    def read(self) -> tuple[float, float]:
        """Return seconds and MB."""
        return time.process_time() - self.started, memory("VmHWM") - self.base


def write_corpus(folder: Path, lines: int) -> Path:
    """Write a manifest of texts of a read book's lengths, all of one sound file."""
    chance = random.Random(0)
    soundfile.write(folder / "noise.wav", np.random.default_rng(0).normal(0, 0.1, 32000), 16000)
    path = folder / f"{lines}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(lines):
            seconds = round(chance.uniform(1, 16), 2)
            text = " ".join(chance.choices(WORDS, k=int(3 * seconds)))
            values = {"audio_filepath": "noise.wav", "duration": seconds, "text": text}
            file.write(json.dumps({**values, "speaker": f"s{number % 999}", "id": f"u{number}"}))
            file.write("\n")
    return path


def measure_manifest(path: str) -> str:
    """Open a manifest as training does, draw an epoch, and look at a loader process."""
    watch = Stopwatch()
    source = open_source([path], DataConfig(), TOKENIZER, 16000, seed=1)
    assert isinstance(source, ManifestSource)
    opened, held = watch.read()
    drawn = sum(len(batch) for batch in source.order.epoch(1))
    assert drawn == len(source.dataset)
    total, peak = watch.read()
    batches = source.order.epoch(1)[:20]
    loader = iter(make_loader(source.dataset, batches, 1, pin=False))
    for _ in batches[:10]:
        next(loader)
    (worker,) = loader._workers  # type: ignore[attr-defined]
    own = memory("Private_Dirty", worker.pid)
    return f"{opened:8.1f} {held:9.0f} {total - opened:9.1f} {peak:9.0f} {own:9.0f}"


def measure_list(path: str) -> str:
    """Read a manifest into objects."""
    watch = Stopwatch()
    utterances = read_manifest(path)
    assert utterances
    return f"{watch.read()[1]:9.0f}"


def measure_shards(pattern: str) -> str:
    """Read all shards once."""
    watch = Stopwatch()
    source = open_source([pattern], POOL, TOKENIZER, 16000, seed=1)
    assert isinstance(source, ShardSource)
    stream = source.stream(0, skip=0)
    drawn = sum(len(draw.items) for draw in stream.draws())
    seconds, peak = watch.read()
    return f"{drawn:10d} {seconds:8.1f} {peak:9.0f}"


def in_process(function: str, argument: str) -> str:
    """Run one measurement in a process of its own."""
    command = [sys.executable, __file__, "--measure", function, argument]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.rstrip("\n")


def main() -> None:
    """Run the benchmark."""
    parser = Parser(description=__doc__)
    parser.add_argument("--lines", type=int, nargs="*", default=[1000, 100_000, 1_000_000])
    parser.add_argument("--shards", type=int, nargs="*", default=[4, 40, 400])
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(globals()[options.measure[0]](options.measure[1]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("    lines   open s   open MB   epoch s   peak MB worker MB   list MB", flush=True)
        for lines in options.lines:
            path = str(write_corpus(folder, lines))
            row = in_process("measure_manifest", path) + in_process("measure_list", path)
            print(f"{lines:9d} {row}", flush=True)
        noise = str(folder / "noise.wav")
        utterances = [Utterance(noise, 2.0, "the noise", "", f"u{i}") for i in range(100)]
        write_manifest(folder / "one.jsonl", utterances)
        with contextlib.redirect_stdout(None):
            shards(["pack", str(folder / "one.jsonl"), "--output", str(folder / "one")])
        print("   shards utterances  read s   peak MB", flush=True)
        for count in options.shards:
            place = folder / str(count)
            place.mkdir()
            for number in range(count):
                os.link(folder / "one" / "one-000000.tar", place / f"{number}.tar")
            print(f"{count:9d} {in_process('measure_shards', str(place / '*.tar'))}", flush=True)


if __name__ == "__main__":
    main()
