"""Word error rate of a model on a manifest, with intervals, and a gate against getting worse.

From a shell; the third line is for a laptop, the last one for a CI job::

    python -m asr.benchmark data/tiny/test.jsonl
    python -m asr.benchmark dev-clean.jsonl --model runs/big --output-dir runs/big/dev-clean
    python -m asr.benchmark dev-clean.jsonl --device cpu --threads 2 --limit 200
    python -m asr.benchmark test.jsonl --max-wer 0.10 --baseline results/hypotheses.jsonl
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.arguments import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, Parser, complain
from asr.breakdown import describe_breakdown
from asr.manifest import Utterance, read_manifest
from asr.options import add_model_arguments, load_from_arguments
from asr.recognizer import Recognizer
from asr.report import (
    describe_machine,
    describe_score,
    percent,
    read_hypotheses,
    to_markdown,
    write_report,
)
from asr.score import (
    PairedDifference,
    Score,
    paired_bootstrap,
    score_utterance,
    score_utterances,
)

if TYPE_CHECKING:
    from asr.checkpoint import ModelBundle
    from asr.config import SearchConfig

EXIT_WORSE = 1

_BLOCK_SECONDS = 1200.0  # audio in memory at once: 77 MB


@dataclass(frozen=True)
class Recognised:
    """What a model made of a set.

    Attributes:
        texts: The hypothesis of each utterance that could be read, by id.
        durations: Seconds of audio of the same utterances, by id.
        problems: What was wrong with the others.
        seconds_reading: Wall-clock time of reading and resampling the files.
        seconds_recognising: Wall-clock time from waveforms to texts.
    """

    texts: dict[str, str]
    durations: dict[str, float]
    problems: tuple[str, ...]
    seconds_reading: float
    seconds_recognising: float

    @property
    def rtfx(self) -> float:
        """Seconds of audio for each second of work; loading the model does not count."""
        return sum(self.durations.values()) / (self.seconds_reading + self.seconds_recognising)


def recognise_utterances(
    bundle: ModelBundle,
    utterances: Sequence[Utterance],
    search: SearchConfig,
    progress: Callable[[float], None] | None = None,
    *,
    detect_speech: bool = True,
) -> Recognised:
    """Recognise a set exactly as `asr.transcribe` does, and time it.

    Args:
        bundle: The model.
        utterances: With ids that are all different.
        search: How to search.
        progress: Called with the seconds of audio done after each block.
        detect_speech: Hear only what the voice activity detector takes for speech.
    """
    from asr.audio import AudioError, load_audio

    recognizer = Recognizer(bundle, search, detect_speech, words=False)
    rate = bundle.config.features.sample_rate
    texts: dict[str, str] = {}
    durations: dict[str, float] = {}
    problems: list[str] = []
    seconds_reading = seconds_recognising = 0.0
    for block in _blocks(utterances):
        waveforms = {}
        started = time.perf_counter()
        for utterance in block:
            try:
                waveforms[utterance.id] = load_audio(utterance.audio_filepath, rate)
            except AudioError as error:
                problems.append(str(error))
        read = time.perf_counter()
        for name, result in zip(
            waveforms,
            recognizer.transcribe(list(waveforms.values())),
            strict=True,
        ):
            texts[name] = result.text
            durations[name] = result.duration
        seconds_reading += read - started
        seconds_recognising += time.perf_counter() - read
        if progress is not None:
            progress(sum(utterance.duration for utterance in block))
    return Recognised(texts, durations, tuple(problems), seconds_reading, seconds_recognising)


def _blocks(utterances: Sequence[Utterance]) -> Iterator[list[Utterance]]:
    """Group utterances of similar length, so that batches hold little padding."""
    block: list[Utterance] = []
    seconds = 0.0
    for utterance in sorted(utterances, key=lambda utterance: -utterance.duration):
        if block and seconds + utterance.duration > _BLOCK_SECONDS:
            yield block
            block, seconds = [], 0.0
        block.append(utterance)
        seconds += utterance.duration
    if block:
        yield block


def compare(score: Score, baseline: str | os.PathLike[str]) -> PairedDifference:
    """Hold a score against the hypotheses of an earlier run.

    The earlier hypotheses are scored again, against the references of today.

    Args:
        score: Of the run in question.
        baseline: A `hypotheses.jsonl`; it may hold further utterances.

    Raises:
        ValueError: The file cannot be read or lacks an utterance.
    """
    earlier = read_hypotheses(baseline)
    missing = [u.id for u in score.utterances if u.id not in earlier]
    if missing:
        raise ValueError(
            f"{baseline}: found no hypothesis for {len(missing)} of {len(score.utterances)} "
            f"utterances, the first is {missing[0]!r}; wanted a run on the same manifest"
        )
    old = [score_utterance(u.id, u.reference, earlier[u.id]).words for u in score.utterances]
    return paired_bootstrap([u.words for u in score.utterances], old)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    args = make_parser().parse_args(argv)
    try:
        return _run(args, command=shlex.join(["python", "-m", "asr.benchmark", *argv]))
    except (ValueError, OSError) as error:
        complain(error)
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def make_parser() -> Parser:
    """Return the parser of the program's options."""
    parser = Parser(
        prog="python -m asr.benchmark",
        description="Recognise the utterances of a manifest (JSON lines with audio_filepath,\n"
        "duration and text) and score them.",
        epilog="written to the output directory:\n"
        "  hypotheses.jsonl  one utterance a line: both texts, errors, alignment\n"
        "  summary.json      rates with 95 % intervals, by length and by speaker too;\n"
        "                    speed, command, model, machine\n"
        "  summary.md        the same to read\n"
        "\n"
        "Exit code: 0; 1 if the result is above --max-wer or significantly worse than\n"
        "--baseline; 2 if something could not be read; 130 after Ctrl-C.",
    )
    parser.add_argument("manifest", metavar="MANIFEST", help="what to recognise, with references")
    parser.add_argument(
        "--output-dir",
        metavar="DIR",
        help="where results go (default: runs/benchmark/ and the manifest's name)",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help="take N utterances, evenly picked (default: all)"
    )
    parser.add_argument(
        "--baseline",
        metavar="FILE",
        help="hypotheses.jsonl of an earlier run: fail if this one is significantly worse",
    )
    parser.add_argument(
        "--max-wer", type=float, metavar="X", help="fail above this, as a fraction: 0.1 is 10 %%"
    )
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out files that cannot be read (default: name them and stop)",
    )
    add_model_arguments(parser)
    return parser


def _run(args: argparse.Namespace, command: str) -> int:
    if args.max_wer is not None and not 0.0 <= args.max_wer <= 1.0:
        raise ValueError(f"--max-wer: found {args.max_wer:g}, wanted a fraction from 0 to 1")
    if args.baseline is not None:
        read_hypotheses(args.baseline)  # complain now, not after the work
    utterances = select_utterances(args.manifest, args.limit)
    utterances, unreadable = _readable(utterances)
    if unreadable and not args.skip_bad:
        return _stop_at(unreadable)
    bundle, search = load_from_arguments(args)
    with _progress_bar(utterances) as progress:
        recognised = recognise_utterances(
            bundle, utterances, search, progress, detect_speech=args.vad
        )
    if recognised.problems and not args.skip_bad:
        return _stop_at(recognised.problems)
    score = score_texts(utterances, recognised.texts, bundle.config.data.normalize)
    difference = None if args.baseline is None else compare(score, args.baseline)
    summary = {
        "manifest": args.manifest,
        **describe_score(score),
        **describe_breakdown(score, recognised.durations, {u.id: u.speaker for u in utterances}),
        "skipped": len(unreadable) + len(recognised.problems),
        "baseline": difference and {"file": args.baseline, **asdict(difference)},
        **_describe_speed(recognised),
        "search": {**asdict(search), "hotwords": list(search.hotwords)},
        "model": describe_model(bundle),
        **describe_machine(),
        "command": command,
    }
    folder = Path(args.output_dir or Path("runs", "benchmark", Path(args.manifest).stem))
    files = {u.id: (u.audio_filepath, recognised.durations.get(u.id, 0.0)) for u in utterances}
    write_report(folder, score, files, summary)
    print(to_markdown(summary))
    print(f"written to {folder}{os.sep}")
    return _verdict(score, difference, args)


def select_utterances(manifest: str, limit: int | None) -> list[Utterance]:
    """Read a manifest and pick `limit` utterances evenly; their ids are all different.

    Raises:
        ValueError: It cannot be read or holds nothing, or the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit: found {limit}, wanted a whole number above 0")
    utterances = read_manifest(manifest)
    if not utterances:
        raise ValueError(f"{manifest}: found 0 utterances, wanted at least 1")
    counts: dict[str, int] = {}
    for number, utterance in enumerate(utterances):
        counts[utterance.id] = seen = counts.get(utterance.id, 0) + 1
        if seen > 1:  # ids that come from file names may meet again in another folder
            utterances[number] = replace(utterance, id=f"{utterance.id}#{seen}")
    if limit is None or limit >= len(utterances):
        return utterances
    return [utterances[index * len(utterances) // limit] for index in range(limit)]


def _readable(utterances: list[Utterance]) -> tuple[list[Utterance], list[str]]:
    """Look at every file's header, so that a missing file is known before the work begins."""
    from asr.audio import AudioError, audio_duration

    good, problems = [], []
    for utterance in utterances:
        try:
            audio_duration(utterance.audio_filepath)
            good.append(utterance)
        except AudioError as error:
            problems.append(str(error))
    return good, problems


def _stop_at(problems: Sequence[str]) -> int:
    for problem in problems:
        complain(problem)
    complain(f"{len(problems)} files cannot be read; --skip-bad scores the others")
    return EXIT_ERROR


def score_texts(utterances: Sequence[Utterance], texts: Mapping[str, str], normalize: str) -> Score:
    """Score in the order of the manifest, with references in the model's own spelling.

    Args:
        utterances: With references.
        texts: Hypotheses by id; utterances without one are left out.
        normalize: The model's `data.normalize`.

    Raises:
        ValueError: No reference has a word.
    """
    from asr.normalize import normalize_text

    score = score_utterances(
        (
            utterance.id,
            normalize_text(utterance.text) if normalize == "english" else utterance.text,
            texts[utterance.id],
        )
        for utterance in utterances
        if utterance.id in texts
    )
    if score.words.reference_length == 0:
        raise ValueError("found no word in any reference text, wanted at least 1")
    return score


def _verdict(score: Score, difference: PairedDifference | None, args: argparse.Namespace) -> int:
    exit_code = EXIT_OK
    if args.max_wer is not None and score.wer > args.max_wer:
        complain(f"WER is {percent(score.wer)} %, wanted at most {percent(args.max_wer)} %")
        exit_code = EXIT_WORSE
    if difference is not None and difference.significantly_worse:
        complain(f"WER is significantly worse than that of {args.baseline}")
        exit_code = EXIT_WORSE
    return exit_code


def _describe_speed(recognised: Recognised) -> dict[str, float]:
    return {
        "audio_seconds": round(sum(recognised.durations.values()), 2),
        "rtfx": round(recognised.rtfx, 2),
        "seconds_reading": round(recognised.seconds_reading, 2),
        "seconds_recognising": round(recognised.seconds_recognising, 2),
    }


def describe_model(bundle: ModelBundle) -> dict[str, Any]:
    """Return where a model lies, the check sum of its weights and their number."""
    from asr.checkpoint import WEIGHTS

    return {
        "directory": str(bundle.directory),
        "sha256": hashlib.sha256((bundle.directory / WEIGHTS).read_bytes()).hexdigest(),
        "parameters": sum(weights.numel() for weights in bundle.model.parameters()),
    }


@contextmanager
def _progress_bar(utterances: Sequence[Utterance]) -> Iterator[Callable[[float], None] | None]:
    """Show how far the set is on a terminal, and nothing where stderr is kept in a file."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        total = sum(utterance.duration for utterance in utterances)
        task = bar.add_task("recognising", total=total)
        yield lambda seconds: bar.advance(task, seconds)


if __name__ == "__main__":
    sys.exit(main())
