"""Speed, start-up, memory and errors of recognisers, on the same files, in turn.

    python scripts/bench_speed.py runs/manifests/dev-clean.jsonl --count 200 --runs 1 \\
        --engines fast default accurate --readme presets
    python scripts/bench_speed.py runs/manifests/dev-clean.jsonl --count 20 --runs 5 --threads 2 \\
        --engines default fast moonshine pocketsphinx \\
        --engines-python runs/engines-venv/bin/python --moonshine runs/moonshine/quantized \\
        --readme engines

Every engine gets a process of its own, the same 16-bit WAV files one by one, and the same number
of cores. The engines of others are installed apart from the project, for example::

    python -m venv runs/engines-venv
    runs/engines-venv/bin/pip install useful-moonshine-onnx pocketsphinx
    npm pack @moonshine-ai/moonshine-js     # has Moonshine's weights in dist/model/tiny/quantized

Vosk and faster-whisper run where --vosk and --whisper name folders with their weights.
"""

# No import of the project at the top: the workers run in the engines' own environment.
from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

OURS = {"default": [], "fast": ["--fast"], "accurate": ["--accurate"]}
OTHERS = ("moonshine", "pocketsphinx", "vosk", "whisper")
TITLES = {
    "default": "asr", "fast": "asr --fast", "accurate": "asr --accurate",
    "moonshine": "Moonshine tiny, int8", "pocketsphinx": "PocketSphinx 5",
    "vosk": "Vosk small-en-us-0.15", "whisper": "Whisper, faster-whisper int8",
}  # fmt: skip
README = Path(__file__).parents[1] / "README.md"
Recognise = Callable[[str], str]


def read_samples(path: str) -> bytes:
    """Return the 16-bit samples of a WAV file."""
    with wave.open(path) as file:
        return file.readframes(file.getnframes())


def load_ours(options: Sequence[str]) -> Recognise:
    """Return our own recogniser with options of the command line."""
    from asr.options import load_from_arguments
    from asr.recognizer import Recognizer
    from asr.transcribe import make_parser

    args = make_parser().parse_args([*options, "--device", "cpu", "file"])
    recognizer = Recognizer(*load_from_arguments(args), words=False)
    return lambda path: recognizer.transcribe(path).text


def load_moonshine(folder: str) -> Recognise:
    """Return Moonshine with the weights of a folder."""
    import moonshine_onnx
    import numpy as np

    model = moonshine_onnx.MoonshineOnnxModel(models_dir=folder, model_name="moonshine/tiny")
    tokenizer = moonshine_onnx.load_tokenizer()

    def recognise(path: str) -> str:
        samples = np.frombuffer(read_samples(path), "<i2").astype(np.float32) / 32768
        return str(tokenizer.decode_batch(model.generate(samples[None]))[0])

    return recognise


def load_pocketsphinx(_: str) -> Recognise:
    """Return PocketSphinx with the weights of its wheel."""
    from pocketsphinx import Decoder

    decoder = Decoder(samprate=16000, loglevel="FATAL")

    def recognise(path: str) -> str:
        decoder.start_utt()
        decoder.process_raw(read_samples(path), full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        return found.hypstr if found else ""

    return recognise


def load_vosk(folder: str) -> Recognise:
    """Return Vosk with the weights of a folder."""
    import vosk

    vosk.SetLogLevel(-1)
    model = vosk.Model(folder)

    def recognise(path: str) -> str:
        recognizer = vosk.KaldiRecognizer(model, 16000)
        recognizer.AcceptWaveform(read_samples(path))
        return str(json.loads(recognizer.FinalResult())["text"])

    return recognise


def load_whisper(folder: str) -> Recognise:
    """Return Whisper with the weights of a folder."""
    from faster_whisper import WhisperModel

    model = WhisperModel(folder, device="cpu", compute_type="int8")
    return lambda path: " ".join(s.text for s in model.transcribe(path, language="en")[0])


def work(engine: str, weights: str, files: Sequence[str]) -> None:
    """Be one engine: print what each file took as JSON."""
    load = {
        "moonshine": load_moonshine, "pocketsphinx": load_pocketsphinx, "vosk": load_vosk,
        "whisper": load_whisper,
    }  # fmt: skip
    recognise = load_ours(OURS[engine]) if engine in OURS else load[engine](weights)
    print(json.dumps({"ready": time.time()}), flush=True)
    for path in files:
        started = time.perf_counter()
        text = recognise(path)
        print(json.dumps({"text": text, "seconds": time.perf_counter() - started}), flush=True)
    print(json.dumps({"megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def run_once(python: str, engine: str, weights: str, files: Sequence[str], cores: int) -> Any:
    """Run one engine in a process of its own on some cores; return what it took."""
    started = time.time()
    process = subprocess.run(
        [python, __file__, "--worker", engine, "--weights", weights, *files],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": str(cores)},
        preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores]),
    )
    ready, *results, last = map(json.loads, process.stdout.splitlines())
    return {
        "startup": ready["ready"] - started,
        "seconds": sum(result["seconds"] for result in results),
        "texts": [result["text"] for result in results],
        **last,
    }


def write_files(args: argparse.Namespace) -> tuple[list[str], list[str], float]:
    """Write utterances, evenly picked, as WAV files; return paths, texts, seconds."""
    import soundfile

    from asr.audio import SAMPLE_RATE, load_audio
    from asr.manifest import read_manifest
    from asr.normalize import normalize_text

    utterances = read_manifest(args.manifest)
    count = min(args.count, len(utterances))
    folder = args.folder / "files"
    folder.mkdir(parents=True, exist_ok=True)
    files, texts, seconds = [], [], 0.0
    for index in range(count):
        utterance = utterances[index * len(utterances) // count]
        waveform = load_audio(utterance.audio_filepath)
        files.append(str(folder / f"{index:04d}.wav"))
        soundfile.write(files[-1], waveform, SAMPLE_RATE, "PCM_16")
        texts.append(normalize_text(utterance.text))
        seconds += len(waveform) / SAMPLE_RATE
    return files, texts, seconds


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run all engines in turn, several times; return medians and all runs."""
    from asr.normalize import normalize_text
    from asr.report import describe_machine
    from asr.score import score_utterances

    files, references, audio_seconds = write_files(args)
    runs: dict[str, list[Any]] = {engine: [] for engine in args.engines}
    for number in range(args.runs):
        for engine in args.engines:
            python = sys.executable if engine in OURS else args.engines_python
            weights = getattr(args, engine, None) or "-"
            runs[engine].append(run_once(python, engine, weights, files, args.threads))
            took = {k: round(v, 2) for k, v in runs[engine][-1].items() if k != "texts"}
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
    summary = measure(args)
    table = to_markdown(summary)
    print(table)
    name = args.readme or "table"
    (args.folder / f"{name}.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    if args.readme:
        begin, end = (f"<!-- bench_speed.py {name}: {edge} -->" for edge in ("begin", "end"))
        text = README.read_text(encoding="utf-8")
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.S)
        new = pattern.sub(lambda _: f"{begin}\n\n{table}\n\n{end}", text)
        README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], sys.argv[4], sys.argv[5:])
    else:
        sys.exit(main())
