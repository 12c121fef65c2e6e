"""Memory and time of one long recording, made of a manifest's utterances with pauses between them.

python scripts/bench_long.py runs/manifests/dev-clean.jsonl --hours 3
python scripts/bench_long.py data/tiny/test.jsonl --hours 0.5 -- --fast --threads 1
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import soundfile

from asr.arguments import Parser
from asr.audio import SAMPLE_RATE, load_audio
from asr.manifest import read_manifest
from asr.score import score_utterances


def make_recording(manifest: Path, hours: float, path: Path) -> str:
    """Write a 16-bit WAV file and return what is said in it."""
    chance = np.random.default_rng(0)
    texts, seconds = [], 0.0
    utterances = read_manifest(manifest)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16") as file:
        while seconds < 3600 * hours:
            utterance = utterances[len(texts) % len(utterances)]
            pause = chance.exponential(1.5)
            hush = chance.normal(0, 1e-4, round(pause * SAMPLE_RATE))
            for part in (load_audio(utterance.audio_filepath), hush):
                file.write(part)
                seconds += len(part) / SAMPLE_RATE
            texts.append(utterance.text)
    return " ".join(texts)


def main() -> int:
    """Make it, transcribe it in a process of its own, and print what that took."""
    parser = Parser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench_long"))
    parser.epilog = "What follows -- goes to asr.transcribe."
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, options = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
    args.folder.mkdir(parents=True, exist_ok=True)
    recording = args.folder / f"{args.manifest.stem}_{args.hours:g}h.wav"
    reference = make_recording(args.manifest, args.hours, recording)
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "asr.transcribe", "--output", "json", *options, str(recording)],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status != 0:
        return 1
    result = json.loads(output)
    score = score_utterances([("long", reference, result["text"])])
    print(
        f"{recording}: {result['duration'] / 3600:.2f} h in {seconds:.0f} s "
        f"({result['duration'] / seconds:.1f} times real time), peak memory "
        f"{usage.ru_maxrss / 1024:.0f} MB, {len(result['segments'])} segments, "
        f"WER {100 * score.wer:.1f} %"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
