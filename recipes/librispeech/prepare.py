"""Turn a corpus in LibriSpeech's layout into one manifest per subset.

    python recipes/librispeech/prepare.py --corpus corpora --download \\
        --subsets train-clean-5 dev-clean --output runs/manifests
    python recipes/librispeech/prepare.py --corpus ../shared/speech \\
        --subsets LibriSpeech/train-clean-5 commonvoice kathleen --output runs/manifests

Two layouts are read, with flac, opus, ogg, wav or mp3 audio: LibriSpeech's own
(`SPEAKER/CHAPTER/ID.flac` beside `SPEAKER-CHAPTER.trans.txt`) and a flat one (`NAME/ID.opus`
beside `NAME.trans.txt`). A subset is looked for in `CORPUS/SUBSET` and in
`CORPUS/LibriSpeech/SUBSET`; its manifest is `OUTPUT/SUBSET.jsonl`.

Utterances with which something is wrong are left out, never silently: each is named, with its
reason, in `OUTPUT/SUBSET.report.json`. That report is also the mark of completion; with it in
place, the same command does nothing (`--force` does it again). No GPU is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from download import ARCHIVE_FOLDER, OPENSLR, UTTERANCES, checksum_of, download_subset

from asr.arguments import Parser
from asr.audio import AudioError, audio_duration
from asr.manifest import Utterance, write_manifest
from asr.normalize import normalize_text

AUDIO_EXTENSIONS = (".flac", ".wav", ".opus", ".ogg", ".mp3")
TRANSCRIPT_ENDING = ".trans.txt"
LIBRISPEECH_ID = re.compile(r"(\d+)-\d+-\d+")
# Flat corpora of one voice; in other flat corpora the speaker is not known.
SINGLE_SPEAKER = frozenset({"kathleen", "ljspeech"})
MAX_CHARS_PER_SECOND = 35.0
MIN_CHARS_PER_SECOND = 2.0
SILENCE_SECONDS = 2.0  # a lone "no" may have this much around it before its text is too little
REPORT_VERSION = 1
IDS_SHOWN = 5


class PrepareError(ValueError):
    """A corpus that is not there or holds nothing to make a manifest from."""


@dataclass(frozen=True)
class LeftOut:
    """One utterance that is not in the manifest."""

    id: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Report:
    """What became of a subset; `settings` tells whether it is still what is asked for."""

    settings: dict[str, object]
    utterances: int
    hours: float
    speakers: int
    manifest_sha256: str
    left_out: tuple[LeftOut, ...]
    missing_utterances: int = 0  # fewer than the complete subset is known to have


def prepare_subset(
    corpus: Path, subset: str, output: Path, *, max_seconds: float = 36.0, force: bool = False
) -> tuple[Report, bool]:
    """Write the manifest and the report of one subset.

    Args:
        corpus: Folder of the corpus.
        subset: Folder below it, such as "train-clean-5", "LibriSpeech/dev-clean", "kathleen".
        output: Folder of the manifests.
        max_seconds: Longer utterances are left out.
        force: Do it again even if a finished manifest for the same settings is there.

    Returns:
        The report, and whether it was made now (False: all was done already).

    Raises:
        PrepareError: The subset has no folder, no transcripts or no usable utterance.
    """
    folder = find_subset(corpus, subset)
    name = manifest_name(subset)
    manifest = output / f"{name}.jsonl"
    report_path = output / f"{name}.report.json"
    settings: dict[str, object] = {
        "version": REPORT_VERSION,
        "folder": str(folder),
        "max_seconds": max_seconds,
        "chars_per_second": [MIN_CHARS_PER_SECOND, MAX_CHARS_PER_SECOND],
    }
    if not force:
        done = _finished_report(report_path, manifest, settings)
        if done is not None:
            return done, False
    report_path.unlink(missing_ok=True)
    utterances, left_out = collect(folder, name, max_seconds)
    if not utterances:
        raise PrepareError(
            f"{folder}: no usable utterance; left out {_counts(left_out) or 'nothing'}"
        )
    output.mkdir(parents=True, exist_ok=True)
    write_manifest(manifest, utterances)
    report = Report(
        settings=settings,
        utterances=len(utterances),
        hours=round(sum(item.duration for item in utterances) / 3600, 4),
        speakers=len({item.speaker for item in utterances if item.speaker}),
        manifest_sha256=checksum_of(manifest, "sha256"),
        left_out=tuple(left_out),
        missing_utterances=max(0, UTTERANCES.get(name, 0) - len(utterances) - len(left_out)),
    )
    temporary = report_path.with_name(report_path.name + ".tmp")
    temporary.write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    temporary.replace(report_path)
    return report, True


def find_subset(corpus: Path, subset: str) -> Path:
    """Return the absolute folder of a subset.

    Raises:
        PrepareError: There is none.
    """
    candidates = (corpus / subset, corpus / ARCHIVE_FOLDER / subset)
    for candidate in candidates:
        if candidate.is_dir():
            return candidate.resolve()
    raise PrepareError(
        f"subset {subset!r} not found: neither {candidates[0]} nor {candidates[1]} is a folder "
        "(--download fetches the subsets of LibriSpeech)"
    )


def manifest_name(subset: str) -> str:
    """Name a subset's manifest: "LibriSpeech/dev-clean" is "dev-clean", "a/b" is "a-b"."""
    return subset.strip("/").removeprefix(f"{ARCHIVE_FOLDER}/").replace("/", "-")


def collect(folder: Path, name: str, max_seconds: float) -> tuple[list[Utterance], list[LeftOut]]:
    """Pair audio with text, measure and check; both lists are in order of the ids."""
    audio, transcripts, left_out = _scan(folder)
    if not transcripts and not left_out:
        raise PrepareError(f"{folder}: no *{TRANSCRIPT_ENDING} file found")
    for missing in sorted(transcripts.keys() - audio.keys()):
        left_out.append(LeftOut(missing, "no audio", "in a transcript, but without audio"))
    known = transcripts.keys() | {item.id for item in left_out}
    for missing in sorted(audio.keys() - known):
        left_out.append(LeftOut(missing, "no transcript", str(audio[missing])))
    ids = sorted(transcripts.keys() & audio.keys())
    workers = min(16, 4 * (os.cpu_count() or 1))  # headers: waiting for the disk, not computing
    with ThreadPoolExecutor(workers) as pool:
        durations = list(pool.map(_measure, (audio[item] for item in ids)))
    utterances = []
    for item, duration in zip(ids, durations, strict=True):
        text = normalize_text(transcripts[item])
        problem = (
            LeftOut(item, "unreadable audio", duration)
            if isinstance(duration, str)
            else _problem(item, text, duration, max_seconds)
        )
        if problem is not None:
            left_out.append(problem)
            continue
        assert isinstance(duration, float)
        utterances.append(
            Utterance(
                audio_filepath=str(audio[item]),
                duration=round(duration, 4),
                text=text,
                speaker=_speaker(item, name),
                id=item,
            )
        )
    return utterances, sorted(left_out, key=lambda entry: (entry.reason, entry.id))


def _scan(folder: Path) -> tuple[dict[str, Path], dict[str, str], list[LeftOut]]:
    """Find audio and transcripts by id; ids that occur twice are left out of both."""
    audio: dict[str, Path] = {}
    transcripts: dict[str, str] = {}
    twice: dict[str, str] = {}
    for path in _walk(folder):
        if path.name.endswith(TRANSCRIPT_ENDING):
            for item, text in _read_transcripts(path):
                if transcripts.setdefault(item, text) != text:
                    twice[item] = f"two different texts, one in {path}"
        elif path.suffix.lower() in AUDIO_EXTENSIONS:
            if audio.setdefault(path.stem, path) != path:
                twice[path.stem] = f"{audio[path.stem]} and {path}"
    for item in twice:
        audio.pop(item, None)
        transcripts.pop(item, None)
    return audio, transcripts, [LeftOut(item, "ambiguous", twice[item]) for item in sorted(twice)]


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, in a fixed order."""
    for root, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for file in sorted(files):
            if not file.startswith("."):
                yield Path(root, file)


def _read_transcripts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (id, text as written) of each line; the text may be empty."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        item, _, text = line.strip().partition(" ")
        if item:
            yield item, text


def _measure(path: Path) -> float | str:
    """Return the duration in seconds, or what is wrong with the file."""
    try:
        return float(audio_duration(path))
    except AudioError as error:
        return str(error)


def _problem(item: str, text: str, duration: float, max_seconds: float) -> LeftOut | None:
    """Return why an utterance cannot be used, or None."""
    if not text:
        return LeftOut(item, "empty text", f"{duration:.2f} s of audio")
    if duration <= 0:
        return LeftOut(item, "unreadable audio", "no samples")
    if duration > max_seconds:
        return LeftOut(item, "too long", f"{duration:.2f} s, at most {max_seconds:g} s wanted")
    rate = len(text) / duration
    detail = f"{len(text)} characters in {duration:.2f} s are {rate:.1f} a second"
    if rate > MAX_CHARS_PER_SECOND:
        return LeftOut(item, "too much text", detail)
    if len(text) < MIN_CHARS_PER_SECOND * (duration - SILENCE_SECONDS):
        return LeftOut(item, "too little text", detail)
    return None


def _speaker(item: str, name: str) -> str:
    """Return LibriSpeech's speaker number, the name of a one-voice corpus, or ""."""
    match = LIBRISPEECH_ID.fullmatch(item)
    if match:
        return match.group(1)
    return name if name in SINGLE_SPEAKER else ""


def _finished_report(path: Path, manifest: Path, settings: dict[str, object]) -> Report | None:
    """Return the report of a finished earlier run with these settings, if there is one."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        left_out = tuple(LeftOut(**item) for item in fields.pop("left_out"))
        report = Report(left_out=left_out, **fields)
        intact = checksum_of(manifest, "sha256") == report.manifest_sha256
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return report if intact and report.settings == settings else None


def _counts(left_out: list[LeftOut] | tuple[LeftOut, ...]) -> str:
    """Say how many were left out for which reason."""
    counts = Counter(item.reason for item in left_out)
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def describe(name: str, report: Report, made_now: bool) -> str:
    """Return what a reader wants to know about a subset, some lines long."""
    lines = [
        f"{name}: {report.utterances} utterances, {report.hours:.2f} h, "
        f"{report.speakers or 'unknown'} speakers{'' if made_now else ' (already prepared)'}"
    ]
    for reason in sorted({item.reason for item in report.left_out}):
        of_reason = [item for item in report.left_out if item.reason == reason]
        shown = ", ".join(item.id for item in of_reason[:IDS_SHOWN])
        more = f", … all in {name}.report.json" if len(of_reason) > IDS_SHOWN else ""
        lines.append(f"  left out, {reason}: {len(of_reason)} ({shown}{more})")
    if report.missing_utterances:
        lines.append(
            f"  warning: the complete subset has {UTTERANCES[name]} utterances, "
            f"{report.missing_utterances} of them were not found"
        )
    return "\n".join(lines)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of the corpus")
    parser.add_argument("--subsets", nargs="+", required=True, metavar="SUBSET")
    parser.add_argument("--output", type=Path, required=True, help="folder for the manifests")
    parser.add_argument("--download", action="store_true", help="fetch subsets that are not there")
    parser.add_argument("--mirror", default=OPENSLR, help="their server (default: %(default)s)")
    parser.add_argument("--max-seconds", type=float, default=36.0, help="longest utterance")
    parser.add_argument("--force", action="store_true", help="do again what is already done")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Prepare the subsets asked for; return 2 after an error of the user's."""
    arguments = parse_arguments(argv)
    try:
        for subset in arguments.subsets:
            name = manifest_name(subset)
            if arguments.download:
                download_subset(arguments.corpus, name, mirror=arguments.mirror)
            report, made_now = prepare_subset(
                arguments.corpus,
                subset,
                arguments.output,
                max_seconds=arguments.max_seconds,
                force=arguments.force,
            )
            print(describe(name, report, made_now), flush=True)
    except ValueError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
