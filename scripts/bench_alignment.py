"""Measure word times where they are known: at the joints of recordings put together from clips.

    python scripts/bench_alignment.py data/tiny/test.jsonl
    python scripts/bench_alignment.py runs/manifests/kathleen.jsonl --clips 300

Each clip is trimmed to its speech (by energy, 5 ms), and some are joined to a recording with pauses
of 0 to 0.6 s between them. So the start of each clip's first word and the end of its last are
known. They are compared with the times that the forced alignment of the known text gives, and with
those of the words that the recogniser hears itself, where it hears these words right.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from asr.align import align_recordings
from asr.arguments import Parser
from asr.audio import load_audio
from asr.checkpoint import ModelBundle, load_model
from asr.manifest import read_manifest
from asr.normalize import normalize_text
from asr.pieces import recognize
from asr.transcript import Word

RATE = 16000
PAUSES = (0.0, 0.1, 0.2, 0.3, 0.6)  # seconds, in turn
CLIPS = 3  # of a recording
EDGE = 0.5  # seconds of near silence before and behind
WINDOW = 80  # samples of an energy: 5 ms
FLOOR_DB = 40.0  # below a clip's loudest window is no speech


@dataclass(frozen=True)
class Joined:
    """A recording made of clips.

    Attributes:
        waveform: (N,) at 16 kHz.
        texts: Of the clips.
        places: Start and end of each clip's speech, seconds.
        pauses: Silence before and behind each clip, seconds.
    """

    waveform: np.ndarray
    texts: tuple[str, ...]
    places: tuple[tuple[float, float], ...]
    pauses: tuple[tuple[float, float], ...]


def trim(waveform: np.ndarray) -> np.ndarray:
    """Cut off what is quieter than speech before and behind it."""
    blocks = waveform[: len(waveform) // WINDOW * WINDOW].reshape(-1, WINDOW)
    energies = np.convolve((blocks**2).mean(1), np.ones(3) / 3, mode="same")
    loud = np.flatnonzero(energies > energies.max() * 10 ** (-FLOOR_DB / 10))
    return waveform[loud[0] * WINDOW : (loud[-1] + 1) * WINDOW]


def join(clips: Sequence[tuple[np.ndarray, str]], number: int) -> Joined:
    """Put clips together, with pauses that differ from recording to recording."""
    chance = np.random.default_rng(number)
    gaps = [PAUSES[(number + index) % len(PAUSES)] for index in range(len(clips) - 1)]
    around = [EDGE, *gaps, EDGE]
    parts, places, length = [], [], 0
    for index, (clip, _) in enumerate(clips):
        pause = round(around[index] * RATE)
        parts += [np.zeros(pause), clip]
        start = (length + pause) / RATE
        length += pause + len(clip)
        places.append((start, length / RATE))
    parts.append(np.zeros(round(EDGE * RATE)))
    waveform = np.concatenate(parts)
    waveform += chance.normal(0, 3e-4, len(waveform))
    return Joined(
        waveform.astype(np.float32),
        tuple(text for _, text in clips),
        tuple(places),
        tuple(pairwise(around)),
    )


def force(bundle: ModelBundle, recording: Joined) -> list[Word]:
    """Align the known text."""
    samples = torch.as_tensor(recording.waveform)[None]
    num_samples = torch.tensor([samples.shape[1]])
    with torch.inference_mode():
        encoded = bundle.model.encode(*bundle.features(samples, num_samples), for_decoder=False)
        (spans,) = align_recordings(
            bundle.model, bundle.features, bundle.tokenizer, encoded, samples, num_samples,
            [" ".join(recording.texts)],
        )  # fmt: skip
    return [Word(span.text, span.start, span.end) for span in spans]


def compare(recording: Joined, words: Sequence[Word]) -> Iterator[tuple[str, float, float]]:
    """Yield "start" or "end", the pause there, and found minus true seconds, for each clip's edge.

    Only words are compared that are the reference's: those before and behind need not be.
    """
    texts = [word.text for word in words]
    reference = " ".join(recording.texts).split()
    matcher = difflib.SequenceMatcher(a=reference, b=texts, autojunk=False)
    place_of = {a + i: b + i for a, b, size in matcher.get_matching_blocks() for i in range(size)}
    place = 0
    edges = zip(recording.texts, recording.places, recording.pauses, strict=True)
    for text, (start, end), (before, behind) in edges:
        first, last = place, place + len(text.split()) - 1
        if first in place_of:
            yield "start", before, words[place_of[first]].start - start
        if last in place_of:
            yield "end", behind, words[place_of[last]].end - end
        place = last + 1


def report(title: str, differences: Sequence[tuple[str, float, float]]) -> None:
    """Print the median error, and how many are large, at each pause."""
    print(f"\n{title}\nedge   pause  count  median error  bias  within 100 ms")
    groups: dict[tuple[str, str], list[float]] = {}
    for edge, pause, difference in differences:
        for key in ((edge, f"{1000 * pause:.0f} ms"), (edge, "all"), ("both", "all")):
            groups.setdefault(key, []).append(difference)
    for (edge, pause), values in sorted(groups.items(), key=lambda item: item[0]):
        errors = np.abs(values)
        print(
            f"{edge:5} {pause:>6} {len(values):6} {1000 * np.median(errors):10.0f} ms "
            f"{1000 * np.median(values):+5.0f} {100 * np.mean(errors <= 0.1):8.0f} %"
        )


def main() -> int:
    """Join, align, recognise, compare; return 2 after an error of the user's."""
    parser = Parser(description=__doc__)
    parser.add_argument("manifest")
    parser.add_argument("--model", help="model directory (default: the built-in one)")
    parser.add_argument("--clips", type=int, default=60, help="clips, evenly picked")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        bundle = load_model(options.model)
        utterances = read_manifest(options.manifest)
        utterances = utterances[:: max(1, len(utterances) // options.clips)][: options.clips]
        clips = [
            (trim(load_audio(u.audio_filepath, RATE)), normalize_text(u.text)) for u in utterances
        ]
    except ValueError as error:
        print(f"bench_alignment: {error}", file=sys.stderr)
        return 2
    starts = range(0, len(clips) - CLIPS + 1, CLIPS)
    recordings = [join(clips[start : start + CLIPS], n) for n, start in enumerate(starts)]
    forced, heard = [], []
    for recording in recordings:
        forced += list(compare(recording, force(bundle, recording)))
    for recording, found in zip(
        recordings, recognize(bundle, [r.waveform for r in recordings]), strict=True
    ):
        heard += list(compare(recording, found.words))
    report("forced alignment of the known text", forced)
    report("words as recognised, where they are right", heard)
    return 0


if __name__ == "__main__":
    sys.exit(main())
