"""Make longer utterances by joining short ones of the same speaker.

    python recipes/fixed_vector/join.py data/tiny/train.jsonl --output runs/fixed_vector/data \\
        --rounds 4 2 2
    python recipes/fixed_vector/join.py data/tiny/test.jsonl --output runs/fixed_vector/data \\
        --rounds 1 1 1

The sentences of the tiny corpus all take about two seconds; to see how an error grows with the
length, lengths must differ. For 1, 2, 3, … sentences, each speaker's are shuffled and joined in
order, with a pause between: a round holds every sentence once (but for the few that are left
over), so a longer utterance is not made of harder words. `--rounds` tells how many rounds of single
ones, of pairs, of triples and so on. The audio is written as FLAC beside the manifest
`OUTPUT/NAME.jsonl`; the same seed makes the same files.
"""

from __future__ import annotations

import random
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile

from asr.arguments import Parser
from asr.audio import SAMPLE_RATE, load_audio
from asr.manifest import Utterance, read_manifest, write_manifest

PAUSE_SECONDS = 0.2


def groups_of(
    utterances: Sequence[Utterance], size: int, chance: random.Random
) -> Iterator[list[Utterance]]:
    """Yield groups of `size` utterances of one speaker, each utterance in at most one."""
    by_speaker: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        by_speaker[utterance.speaker].append(utterance)
    for speaker in sorted(by_speaker):
        mine = by_speaker[speaker]
        order = chance.sample(mine, len(mine))
        for first in range(0, len(order) - size + 1, size):
            yield order[first : first + size]


def join_group(group: Sequence[Utterance], path: Path) -> Utterance:
    """Write one file that holds a group's audio, and return its utterance.

    Raises:
        AudioError: A file of the group cannot be read.
    """
    pause = np.zeros(round(PAUSE_SECONDS * SAMPLE_RATE), dtype=np.float32)
    parts: list[np.ndarray] = []
    for utterance in group:
        parts += [pause, load_audio(utterance.audio_filepath)]
    samples = np.concatenate(parts[1:])
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, SAMPLE_RATE)
    return Utterance(
        audio_filepath=str(path),
        duration=round(len(samples) / SAMPLE_RATE, 4),
        text=" ".join(utterance.text for utterance in group),
        speaker=group[0].speaker,
        id=path.stem,
    )


def join_manifest(
    manifest: Path, output: Path, rounds: Sequence[int], seed: int
) -> list[Utterance]:
    """Join the utterances of a manifest in groups of 1, 2, 3, ….

    Args:
        manifest: Short utterances.
        output: Folder for the new manifest and its audio.
        rounds: How often every utterance is there alone, in pairs and so on, in other company
            each time.
        seed: Source of chance.

    Returns:
        What the new manifest holds.

    Raises:
        ValueError: The manifest or a sound file cannot be read.
    """
    utterances = read_manifest(manifest)
    chance = random.Random(seed)
    joined: list[Utterance] = []
    for size, repeats in enumerate(rounds, start=1):
        for _ in range(repeats):
            for group in groups_of(utterances, size, chance):
                name = f"{manifest.stem}-x{size}-{len(joined):05d}"
                joined.append(join_group(group, output / manifest.stem / f"{name}.flac"))
    write_manifest(output / manifest.name, joined)  # last: with it, all is there
    return joined


def main(argv: list[str] | None = None) -> int:
    """Run the program; return 2 after an error of the user's."""
    parser = Parser(description=__doc__)
    parser.add_argument("manifests", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--rounds", type=int, nargs="+", required=True, help="of 1, 2, 3, … sentences together"
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    if min(options.rounds) < 0 or not any(options.rounds):
        parser.error(f"--rounds: found {options.rounds}, wanted whole numbers above 0")
    try:
        for manifest in options.manifests:
            joined = join_manifest(manifest, options.output, options.rounds, options.seed)
            hours = sum(utterance.duration for utterance in joined) / 3600
            place = options.output / manifest.name
            print(f"{place}: {len(joined)} utterances, {hours:.2f} h")
    except (ValueError, OSError) as error:
        print(f"join: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
