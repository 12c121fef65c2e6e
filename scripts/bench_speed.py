"""Speed, start-up, memory and errors of recognisers, on the same files, in turn.

    python scripts/bench_speed.py runs/manifests/dev-clean.jsonl --count 200 --runs 1 \\
        --engines fast default accurate --readme presets
    python scripts/bench_speed.py runs/manifests/dev-clean.jsonl --count 20 --runs 5 --threads 2 \\
        --engines default fast moonshine pocketsphinx \\
        --engines-python runs/engines-venv/bin/python --moonshine runs/moonshine/quantized \\
        --readme engines

Every engine gets a process of its own, the same 16-bit WAV files one by one, and the same number
of cores. The engines of others are installed apart from the project: `engines.py` says how. Vosk
and faster-whisper run where --vosk and --whisper name folders with their weights.

`compare_engines.py` compares errors on more speech, with intervals.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from engines import ENGINES, OURS
from engines_run import Run, measure_engine, pick_utterances, serving, write_wavs

from asr.normalize import normalize_text
from asr.report import describe_machine, write_between
from asr.score import score_utterances

# Their names here and in `engines.py`.
OTHERS = {
    "moonshine": "moonshine", "pocketsphinx": "pocketsphinx", "vosk": "vosk",
    "whisper": "faster-whisper-tiny",
}  # fmt: skip
TITLES = {name: ENGINES[OTHERS.get(name, name)].title for name in (*OURS, *OTHERS)}
TITLES["whisper"] = "Whisper, faster-whisper int8"  # of whatever size --whisper has
README = Path(__file__).parents[1] / "README.md"


def run_once(args: argparse.Namespace, engine: str, files: list[str]) -> dict[str, Any]:
    """Run one engine in a process of its own; return what it took."""
    python = sys.executable if engine in OURS else args.engines_python
    command = serving(python, OTHERS.get(engine, engine), getattr(args, engine, None))
    run: Run = measure_engine(engine, command, files, args.threads)
    return {**run.to_json(), "texts": run.texts}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run all engines in turn, several times; return medians and all runs."""
    utterances = pick_utterances(args.manifest, args.count)
    files, audio_seconds = write_wavs(utterances, args.folder / "files")
    references = [normalize_text(utterance.text) for utterance in utterances]
    runs: dict[str, list[Any]] = {engine: [] for engine in args.engines}
    for number in range(args.runs):
        for engine in args.engines:
            runs[engine].append(run_once(args, engine, files))
            took = {k: v for k, v in runs[engine][-1].items() if k != "texts"}
            print(f"run {number + 1} {engine}: {took}", file=sys.stderr, flush=True)
    results = {}
    for engine, found in runs.items():
        texts = map(normalize_text, found[0]["texts"])
        names = map(str, range(len(files)))
        score = score_utterances(zip(names, references, texts, strict=True))
        results[engine] = {
            "wer": score.wer,
            "rtfx": audio_seconds / median(run["seconds"] for run in found),
            "startup": median(run["startup"] for run in found),
            "megabytes": median(run["megabytes"] for run in found),
        }
    return {
        "manifest": str(args.manifest), "count": len(files), "audio_seconds": audio_seconds,
        "cores": args.threads, "runs": args.runs, "beside": args.beside, "results": results,
        "raw": runs, **describe_machine(),
        "command": " ".join(["python", "scripts/bench_speed.py", *sys.argv[1:]]),
    }  # fmt: skip


def to_markdown(summary: dict[str, Any]) -> str:
    """Return the table and where it comes from."""
    lines = [
        "| engine | WER % | times real time | start-up s | peak memory MB |",
        "|---|---|---|---|---|",
    ]
    for engine, row in summary["results"].items():
        lines.append(
            f"| {TITLES[engine]} | {100 * row['wer']:.1f} | {row['rtfx']:.1f} "
            f"| {row['startup']:.1f} | {row['megabytes']:.0f} |"
        )
    beside = f", beside {summary['beside']}" if summary["beside"] else ""
    lines += [
        "",
        f"{summary['count']} utterances of {Path(summary['manifest']).stem} "
        f"({summary['audio_seconds'] / 60:.1f} minutes), one by one, {summary['cores']} cores of "
        f"{summary['machine']['cpu']}, medians of {summary['runs']} runs in turn{beside}, "
        f"{summary['date'][:10]}:",
        f"`{summary['command']}`",
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure, print, keep and, if wanted, put into the README."""
    from asr.arguments import Parser

    parser = Parser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--count", type=int, default=20, help="utterances, evenly picked")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="cores for each engine")
    parser.add_argument(
        "--engines", nargs="+", choices=[*OURS, *OTHERS], default=["default", "fast"]
    )
    parser.add_argument("--engines-python", default=sys.executable, help="Python of the others")
    for engine in OTHERS:
        if engine != "pocketsphinx":
            parser.add_argument(f"--{engine}", metavar="DIR", help="its weights")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench_speed"))
    parser.add_argument("--beside", default="", help="what else the machine does, for the record")
    parser.add_argument("--readme", choices=("presets", "engines"), help="which table to replace")
    args = parser.parse_args()
    for engine in args.engines:
        if engine in OTHERS and engine != "pocketsphinx" and getattr(args, engine) is None:
            parser.error(f"--{engine}: found no folder with its weights, wanted one")
    try:
        summary = measure(args)
        table = to_markdown(summary)
        print(table)
        name = args.readme or "table"
        kept = args.folder / f"{name}.json"
        kept.write_text(json.dumps(summary, indent=1), encoding="utf-8")
        if args.readme:
            marks = [f"<!-- bench_speed.py {name}: {edge} -->" for edge in ("begin", "end")]
            write_between(README, *marks, table)
    except (ValueError, OSError) as error:
        print(f"bench_speed: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
