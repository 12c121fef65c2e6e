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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from asr.options import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_PIPE_CLOSED,
    add_model_arguments,
    complain,
    load_from_arguments,
)
from asr.recognizer import transcribe_file
from asr.transcript import Transcript

if TYPE_CHECKING:
    from asr.batch import Progress


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


if __name__ == "__main__":
    sys.exit(main())
