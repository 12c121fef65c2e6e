"""Speech to text, from the command line and as a library.

From a shell::

    python -m asr.transcribe talk.wav
    python -m asr.transcribe --output json *.mp3 > talks.jsonl
    python -m asr.transcribe --device cpu --threads 2 --method ctc talk.wav    # fastest on a CPU
"""

# Everything that brings in torch is imported where it is used: it takes more than a second, for
# which neither --help nor a mistyped option should wait.
from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from asr.transcript import Segment, Transcript

if TYPE_CHECKING:
    from asr.checkpoint import ModelBundle
    from asr.config import SearchConfig
    from asr.segment import Waveform

Progress = Callable[[float, float], None]  # seconds of audio done, seconds in all

EXIT_OK, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_PIPE_CLOSED = 0, 2, 130, 141

MAX_SECONDS = 30.0  # of one piece
_BATCH_SECONDS = 240.0  # padded audio decoded at once: bounds the memory of any recording


def recognize(
    bundle: ModelBundle,
    waveforms: Sequence[Waveform],
    search: SearchConfig | None = None,
    *,
    progress: Progress | None = None,
) -> list[str]:
    """Recognise short recordings, those of similar length together.

    A text does not depend on what else is in the list.

    Args:
        bundle: The model.
        waveforms: Each (N,) at 16 kHz in -1..1, at least one sample, at most some 30 seconds.
        search: How to search; the default is the model's own way.
        progress: Called after each batch.

    Returns:
        The texts, in the order of the waveforms.
    """
    import torch

    from asr.decode import decode_batch

    rate = bundle.config.features.sample_rate
    total = sum(len(waveform) for waveform in waveforms) / rate
    texts = [""] * len(waveforms)
    done = 0.0
    for batch in _batches([len(waveform) / rate for waveform in waveforms]):
        num_samples = torch.tensor([len(waveforms[index]) for index in batch])
        padded = torch.zeros(len(batch), int(num_samples.max()))  # (B, N)
        for row, index in enumerate(batch):
            padded[row, : len(waveforms[index])] = torch.as_tensor(waveforms[index])
        results = decode_batch(
            bundle.model,
            bundle.features,
            bundle.tokenizer,
            padded.to(bundle.device),
            num_samples.to(bundle.device),
            search or bundle.config.search,
            bundle.language_model,
        )
        for index, text in zip(batch, results, strict=True):
            texts[index] = text
        done += float(num_samples.sum()) / rate
        if progress is not None:
            progress(done, total)
    return texts


def _batches(seconds: Sequence[float]) -> Iterator[list[int]]:
    """Group indices by length, longest first, into at most `_BATCH_SECONDS` padded."""
    batch: list[int] = []
    for index in sorted(range(len(seconds)), key=lambda index: -seconds[index]):
        if batch and (len(batch) + 1) * seconds[batch[0]] > _BATCH_SECONDS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def transcribe_waveforms(
    bundle: ModelBundle,
    waveforms: Sequence[Waveform],
    search: SearchConfig | None = None,
    *,
    max_seconds: float = MAX_SECONDS,
    progress: Progress | None = None,
) -> list[Transcript]:
    """Recognise recordings of any length, long ones in pieces.

    Args:
        bundle: The model.
        waveforms: Each (N,) at 16 kHz in -1..1.
        search: How to search; the default is the model's own way.
        max_seconds: Longest piece.
        progress: Called after each batch of pieces.

    Returns:
        One transcript for each waveform; without segments where it is silent.
    """
    from asr.segment import is_silent, split_speech

    rate = bundle.config.features.sample_rate
    places: list[tuple[int, float, float]] = []
    pieces: list[Waveform] = []
    for number, waveform in enumerate(waveforms):
        if is_silent(waveform, rate):
            continue
        for start, end in split_speech(waveform, rate, max_seconds):
            places.append((number, start, end))
            pieces.append(waveform[round(start * rate) : round(end * rate)])
    texts = recognize(bundle, pieces, search, progress=progress)
    segments: list[list[Segment]] = [[] for _ in waveforms]
    for (number, start, end), text in zip(places, texts, strict=True):
        segments[number].append(Segment(start, end, text))
    return [
        Transcript(tuple(parts), len(waveform) / rate)
        for parts, waveform in zip(segments, waveforms, strict=True)
    ]


def transcribe_file(
    bundle: ModelBundle,
    path: str | os.PathLike[str],
    search: SearchConfig | None = None,
    *,
    max_seconds: float = MAX_SECONDS,
    progress: Progress | None = None,
) -> Transcript:
    """Recognise a sound file.

    Args:
        bundle: The model.
        path: Of the file: wav, flac, ogg, opus or mp3, any sample rate, any number of channels.
        search: How to search; the default is the model's own way.
        max_seconds: Longest piece that is heard at once.
        progress: Called after each batch of pieces.

    Raises:
        AudioError: The file cannot be read as sound, or nothing is to be heard in it.
    """
    from asr.audio import AudioError, load_audio
    from asr.segment import is_silent

    rate = bundle.config.features.sample_rate
    waveform = load_audio(path, rate)
    if is_silent(waveform, rate):
        seconds = len(waveform) / rate
        raise AudioError(f"{path}: silent: found no sound in {seconds:.2f} s, wanted speech")
    (transcript,) = transcribe_waveforms(
        bundle, [waveform], search, max_seconds=max_seconds, progress=progress
    )
    if not transcript.segments:
        raise AudioError(f"{path}: found no speech in {transcript.duration:.2f} s, wanted some")
    return transcript


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options by which a program chooses a model, a search and a device."""
    group = parser.add_argument_group("model and search")
    group.add_argument("--model", metavar="DIR", help="model directory (default: the built-in one)")
    group.add_argument(
        "--method",
        choices=("beam", "greedy", "ctc"),
        help="beam weighs CTC and the decoder along several paths, greedy follows the decoder "
        "alone, ctc needs no decoder and is fastest (default: what the model was tuned for)",
    )
    group.add_argument(
        "--greedy",
        action="store_const",
        const="greedy",
        dest="method",
        help="the same as --method greedy",
    )
    group.add_argument(
        "--beam-size",
        type=_positive,
        metavar="K",
        help="paths kept by the beam search: more is slower and, up to about 10, better",
    )
    group.add_argument(
        "--ctc-weight",
        type=_fraction,
        metavar="W",
        help="share of CTC in the beam search, 0 to 1; the decoder has the rest",
    )
    group.add_argument(
        "--length-bonus",
        type=float,
        metavar="X",
        help="added to a path's score for each character, in nats: longer texts for higher values",
    )
    group.add_argument(
        "--lm-weight",
        type=_fraction,
        metavar="W",
        help="weight of the language model in the beam search, 0 to 1; 0 is without",
    )
    group.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to compute; auto takes a GPU if there is one (default: %(default)s)",
    )
    group.add_argument(
        "--threads", type=_positive, metavar="N", help="CPU threads (default: one for each core)"
    )


def load_from_arguments(args: argparse.Namespace) -> tuple[ModelBundle, SearchConfig]:
    """Load the model that the options of `add_model_arguments` name, and its search settings.

    Raises:
        ValueError: There is no such model or device.
    """
    import torch

    from asr.checkpoint import load_model

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    has_gpu = args.device != "cpu" and torch.cuda.is_available()
    if args.device == "cuda" and not has_gpu:
        raise ValueError("--device cuda: found no GPU that PyTorch can use, wanted one")
    bundle = load_model(args.model, "cuda" if has_gpu else "cpu")
    search = bundle.config.search
    if args.lm_weight and bundle.language_model is None:
        raise ValueError(f"--lm-weight: {bundle.directory} has no language model, wanted one")
    names = ("beam_size", "ctc_weight", "lm_weight", "length_bonus")
    chosen = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if chosen:
        search = replace(search, method="beam", **chosen)  # asking for these asks for a beam
    return bundle, replace(search, method=args.method or search.method)


def complain(message: object) -> None:
    """Write one line about a user's error to stderr."""
    print("asr:", str(message).replace("\n", " "), file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    args = _parser().parse_args(argv)
    try:
        return _transcribe_all(args)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader, such as `head`, has enough. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE_CLOSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m asr.transcribe",
        description="Print what is said in sound files (wav, flac, ogg, opus, mp3; any sample\n"
        "rate, any number of channels, any length).",
        epilog="examples:\n"
        "  python -m asr.transcribe talk.wav\n"
        "  python -m asr.transcribe *.flac > texts.txt\n"
        "  python -m asr.transcribe --output json long.mp3\n"
        "  python -m asr.transcribe --method ctc --threads 2 talk.wav\n"
        "\n"
        "A file that is missing, damaged, silent or no sound gives one line on stderr; the\n"
        "others are still done. Exit code: 0 if all went well, 2 if not, 130 after Ctrl-C.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="sound file")
    parser.add_argument(
        "--output",
        choices=("text", "json"),
        default="text",
        help="text: one line a file, the transcript alone for a single file, 'FILE: transcript' "
        "for several; json: one JSON object a line for each file, with the times of its "
        "segments in seconds (default: %(default)s)",
    )
    add_model_arguments(parser)
    return parser


def _transcribe_all(args: argparse.Namespace) -> int:
    from asr.audio import AudioError

    try:
        bundle, search = load_from_arguments(args)
    except ValueError as error:
        complain(error)
        return EXIT_ERROR
    exit_code = EXIT_OK
    for path in args.files:
        try:
            with _progress_bar(path) as progress:
                transcript = transcribe_file(bundle, path, search, progress=progress)
        except AudioError as error:
            complain(error)
            exit_code = EXIT_ERROR
            continue
        print(_format(path, transcript, args), flush=True)
    return exit_code


def _format(path: str, transcript: Transcript, args: argparse.Namespace) -> str:
    # A name that is not UTF-8 must not stop the program when it is printed.
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    if args.output == "json":
        return json.dumps({"path": name, **transcript.to_json()}, ensure_ascii=False)
    return transcript.to_text() if len(args.files) == 1 else f"{name}: {transcript.to_text()}"


@contextmanager
def _progress_bar(path: str) -> Iterator[Progress | None]:
    """Show how far a file is on a terminal, and nothing where stderr is kept in a file."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(os.path.basename(path)), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a whole number above 0")
    return number


def _fraction(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= 1.0:
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a number from 0 to 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
