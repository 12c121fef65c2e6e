"""Time real training on a CPU by one process with all threads and by several with one each.

    python scripts/bench_processes.py
    python scripts/bench_processes.py --config recipes/tiny/config.toml --cores 4 --rounds 5
    python scripts/bench_processes.py train.precision=fp32 --json runs/processes.json

Each row runs `asr.train` for some steps, the second and third under torchrun, and reads the speed
from the run's own log: hours of audio an hour, median of all reports but each run's first, which
warms up. Rows take turns. The last row shares the audio of an update out between the
processes, so that its updates are as large as those of one process alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.arguments import Parser
from asr.config import load_config
from asr.report import describe_machine

LOG_EVERY = 5  # steps


@dataclass(frozen=True)
class Row:
    """A way of using the cores."""

    name: str
    processes: int
    threads: int
    batch_seconds: float  # of audio an update and process


def rows_of(cores: int, batch_seconds: float) -> list[Row]:
    """Return the ways that are compared."""
    return [
        Row(f"1 process, {cores} threads", 1, cores, batch_seconds),
        Row(f"{cores} processes, 1 thread", cores, 1, batch_seconds),
        Row(f"{cores} processes, 1 thread, updates as large", cores, 1, batch_seconds / cores),
    ]


def train_for(row: Row, options: argparse.Namespace, folder: Path) -> list[float]:
    """Run a training and return the speeds that it reported, without the first.

    Raises:
        ValueError: The training failed.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={row.processes}"]
    command = [
        sys.executable,
        *(launcher if row.processes > 1 else []),
        *("-m", "asr.train", options.config, *options.overrides),
        "train.device=cpu",
        f"train.threads={row.threads}",
        f"train.output_dir={folder}",
        f"data.batch_seconds={row.batch_seconds}",
        f"data.train_manifests={json.dumps([options.manifest])}",
        "data.dev_manifests=[]",
        f"train.max_steps={options.steps}",
        f"train.log_every={LOG_EVERY}",
        "train.validate_every=1000000",
        "train.ctc_only_steps=0",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip("=-* ")]  # no rules
        said = [line for line in lines if line.startswith("asr.train:")]
        # Of a process of torchrun, whose own error says nothing.
        said += [line for line in lines if "Error: " in line and "ChildFailed" not in line]
        said += [line for line in lines if "exitcode" in line]
        reason = (said or lines[-1:] or ["nothing said"])[0]
        raise ValueError(f"training of {row.name!r} failed with {done.returncode}: {reason}")
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [r["audio_hours_per_hour"] for r in records if r["kind"] == "train"][1:]


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run all rows in turns and return their speeds."""
    limit = (
        options.batch_seconds or load_config(options.config, options.overrides).data.batch_seconds
    )
    rows = rows_of(options.cores, limit)
    speeds: dict[str, list[float]] = {row.name: [] for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            for index, row in enumerate(rows):
                place = Path(folder, f"{number}-{index}")
                speeds[row.name] += train_for(row, options, place)
    return [
        {"name": row.name, "rate": statistics.median(speeds[row.name]), "all": speeds[row.name]}
        for row in rows
    ]


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("overrides", nargs="*", metavar="section.key=value", help="settings that override --config")
    add("--config", default="recipes/librispeech/configs/cpu_19h.toml", help="TOML file")
    add("--manifest", default="data/tiny/train.jsonl")
    add("--batch-seconds", type=float, help="of an update (default: the configuration's)")
    add("--cores", type=int, default=os.cpu_count() or 1, help="default: all (%(default)s)")
    add("--steps", type=int, default=20, help="of each run (default: %(default)s)")
    add("--rounds", type=int, default=2)
    add("--json", type=Path, metavar="FILE", help="keep all figures here")
    options = parser.parse_intermixed_args(argv)
    if options.steps < 2 * LOG_EVERY or options.rounds < 1 or options.cores < 2:
        parser.error(f"wanted at least {2 * LOG_EVERY} --steps, 1 of --rounds and 2 --cores")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 2 after an error of the user's."""
    argv = sys.argv[1:] if argv is None else argv
    options = parse_arguments(argv)
    command = shlex.join(["python", "scripts/bench_processes.py", *argv])
    load = os.getloadavg()[0]
    try:
        rows = measure(options)
    except ValueError as error:
        print(f"bench_processes: {error}", file=sys.stderr)
        return 2
    described = describe_machine()
    cpu = described["machine"]["cpu"]
    print(f"`{command}`\n\n{cpu}, {described['date'][:10]}, load {load:.2f} before\n")
    print("| way | audio-hours/hour |\n|---|---|")
    for row in rows:
        print(f"| {row['name']} | {row['rate']:.1f} |")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        result = {"command": command, "load_before": round(load, 2), **described, "rows": rows}
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
