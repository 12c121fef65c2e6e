"""Speech to text, from the command line.

From a shell::

    python -m asr.transcribe talk.wav
    python -m asr.transcribe --output srt --output-dir subtitles --resume talks/
    python -m asr.transcribe --device cpu --threads 2 --fast talk.wav    # half the time

From Python: `asr.recognizer`.
"""

# Everything that brings in torch is imported where it is used: it takes more than a second, for
# which neither --help nor a mistyped option should wait.
from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from asr import __version__
from asr.arguments import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_PIPE_CLOSED,
    Parser,
    complain,
    positive,
)
from asr.inputs import STDIN, Input, InputError, choose_channels, find_inputs, read_list
from asr.options import add_model_arguments, check_arguments, load_from_arguments
from asr.pieces import BATCH_SECONDS
from asr.raw import RawError, RawFormat, parse_raw_format
from asr.recognizer import Recognizer, Recording, Update
from asr.screen import Screen, open_screen
from asr.subtitles import FORMATS, WORDLESS_FORMATS, format_transcript
from asr.transcript import Segment, Transcript

if TYPE_CHECKING:
    from asr.checkpoint import ModelBundle
    from asr.outputs import OutputFolder
    from asr.segment import Waveform

_ONE_FILE_FORMATS = ("srt", "vtt", "tsv")  # several in a row are no valid file


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    args = make_parser().parse_args(argv)
    try:
        return _transcribe_all(args)
    except (ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # The reader, such as `head`, has enough. Python would complain again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_PIPE_CLOSED
        if isinstance(error, OSError) and error.filename is not None:
            complain(f"{error.filename}: {error.strerror}")
        else:
            complain(error)
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def make_parser(prog: str = "python -m asr.transcribe") -> Parser:
    """Return the parser of the program's options."""
    parser = Parser(
        prog=prog,
        description="Print what is said in recordings: wav, flac, ogg, opus, mp3 and, with the\n"
        "extra `media`, m4a, mp4, webm, mkv, aac and others; any sample rate, any number\n"
        "of channels, any length.",
        epilog="examples:\n"
        "  python -m asr.transcribe talk.wav\n"
        "  python -m asr.transcribe *.flac > texts.txt\n"
        "  python -m asr.transcribe --output srt,json --output-dir texts --resume talks/\n"
        "  ffmpeg -i film.mkv -f s16le -ar 16000 -ac 1 - | python -m asr.transcribe --raw s16le -\n"
        "\n"
        "A recording that is missing, damaged, or without speech gives one line on stderr and\n"
        "nothing else (a single text that was being printed stops); the others are still\n"
        "done. Exit code: 0 if all went well, 2 if not,\n"
        "130 after Ctrl-C, 141 if the reader of the output left.",
    )
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="sound file, folder (with all below it), quoted pattern ('talks/**/*.mp3'), or - for "
        "standard input",
    )
    parser.add_argument("--version", action="version", version=f"asr {__version__}")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="tell on stderr how long it took"
    )
    _add_input_arguments(parser)
    _add_output_arguments(parser)
    add_model_arguments(parser)
    return parser


def _add_input_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("input")
    group.add_argument(
        "--files-from", metavar="LIST", help="file with more names, one a line; - is standard input"
    )
    group.add_argument(
        "--channel",
        type=_channel,
        metavar="N",
        help="hear one channel, from 1 on; all: each of them alone (default: all mixed)",
    )
    group.add_argument(
        "--raw",
        type=_raw,
        metavar="ENCODING:RATE:CHANNELS",
        help="the files have no header; s16le:16000:1, for example, or mulaw:8000",
    )
    group.add_argument(
        "--batch-seconds",
        type=positive,
        default=round(BATCH_SECONDS),
        metavar="S",
        help="speech that is decoded at once: less needs less memory (default: %(default)s)",
    )


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output",
        type=_formats,
        default=("txt",),
        metavar="FORMAT",
        help=f"{', '.join(FORMATS)} (text is txt); several, with commas, into a folder. txt: a "
        "line for each file, 'FILE: transcript' for several; json: an object a line (default: txt)",
    )
    group.add_argument(
        "--plot",
        metavar="FILE",
        help="draw what was heard, its words and how sure they are: png, svg or pdf; of a long "
        "recording the first pieces of speech",
    )
    group.add_argument(
        "--output-dir",
        metavar="DIR",
        help="write a file for each recording there, whole or not at all, instead of printing; the "
        "folders inside a folder that is transcribed are kept",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help="leave out recordings that an earlier run with this --output-dir finished with the "
        "same settings, and that have not changed since",
    )


@dataclass
class _Reporter:
    """Puts what the recognizer tells where the user wants it."""

    inputs: Sequence[Input]
    args: argparse.Namespace
    folder: OutputFolder | None
    bundle: ModelBundle
    exit_code: int = EXIT_OK
    failed: int = 0  # recordings
    line_open: bool = False  # a text was printed in part
    seconds: float = 0.0  # of sound in all transcripts
    pieces: list[tuple[Segment, Waveform]] = field(default_factory=list)  # to draw

    def take(self, update: Update, screen: Screen) -> None:
        """Print, write or complain."""
        item = self.inputs[update.index]
        share = min(update.heard / update.total, 1.0) if update.total else 0.0
        done = update.index + (share if update.result is None else 1.0)
        screen.advance(done, item.name)
        if self.args.plot is not None:
            from asr.picture import MAX_SEGMENTS

            self.pieces += zip(update.segments, update.waveforms, strict=True)
            del self.pieces[MAX_SEGMENTS:]
        if self.folder is None and self.args.output == ("txt",) and len(self.inputs) == 1:
            self._print_part(update, screen)
        if update.result is None:
            return
        with screen.cleared():
            if isinstance(update.result, Transcript) and update.result.text:
                self._finish(item, update.result)
            else:
                self._complain(item, update)

    def _print_part(self, update: Update, screen: Screen) -> None:
        """Print a single text as it grows; on a terminal each segment in a line of its own."""
        with screen.cleared():
            # Of a recording that turned out to be damaged, no more than was printed before.
            damaged = update.result is not None and not isinstance(update.result, Transcript)
            for segment in () if damaged else update.segments:
                if self.line_open:
                    print(end="\n" if screen.is_terminal else " ")
                print(segment.text, end="", flush=True)
                self.line_open = True
            if self.line_open and (screen.is_terminal or update.result is not None):
                print(flush=True)
                self.line_open = False

    def _finish(self, item: Input, transcript: Transcript) -> None:
        if self.folder is not None:
            try:
                self.folder.write(item, transcript)
            except OSError as error:
                complain(f"{error.filename or item.name}: cannot be written ({error.strerror})")
                self.exit_code = EXIT_ERROR
                self.failed += 1
                return
        elif self.args.output != ("txt",):
            only = self.args.output[0]
            text = format_transcript(transcript, only, item.source, item.channel)
            print(text, end="", flush=True)
        elif len(self.inputs) > 1:
            print(f"{item.name}: {transcript.to_text()}", flush=True)
        if self.args.plot is not None:
            self._plot(transcript)
        self.seconds += transcript.duration

    def _plot(self, transcript: Transcript) -> None:
        from asr.picture import plot_transcript, what_is_drawn

        parts = (self.bundle.model, self.bundle.features, self.bundle.tokenizer)
        plot_transcript(self.args.plot, self.pieces, transcript, *parts)
        part = what_is_drawn(len(self.pieces), self.pieces[-1][0], transcript)
        if part and not self.args.quiet:
            print(f"asr: {self.args.plot}: shows {part}", file=sys.stderr)

    def _complain(self, item: Input, update: Update) -> None:
        self.exit_code = EXIT_ERROR
        self.failed += 1
        if not isinstance(update.result, Transcript):
            complain(update.result)
        elif update.silent:
            complain(f"{item.name}: silent: found no sound in {update.heard:.2f} s, wanted speech")
        else:
            complain(f"{item.name}: found no speech in {update.heard:.2f} s, wanted some")


def _transcribe_all(args: argparse.Namespace) -> int:
    inputs, problems = _inputs(args)
    for problem in problems:
        complain(problem)
    if not inputs:
        return EXIT_ERROR
    bundle, search = load_from_arguments(args)
    recognizer = Recognizer(
        bundle,
        search,
        detect_speech=args.vad,
        words=args.plot is not None or not set(args.output) <= set(WORDLESS_FORMATS),
        batch_seconds=args.batch_seconds,
        waveforms=args.plot is not None,
    )
    folder = None
    if args.output_dir is not None:
        from asr.outputs import OutputFolder

        inputs = list(dict.fromkeys(inputs))
        settings = {
            "model": _fingerprint(bundle.directory), "search": asdict(search), "vad": args.vad,
            "raw": args.raw, "version": __version__,
        }  # fmt: skip
        folder = OutputFolder(args.output_dir, inputs, args.output, settings)
        if args.resume:
            inputs = [item for item in inputs if not folder.is_finished(item)]
    exit_code = EXIT_ERROR if problems else EXIT_OK
    started = time.perf_counter()
    reporter = _Reporter(inputs, args, folder, bundle, exit_code)
    recordings = (Recording(item.sound, item.channel, args.raw) for item in inputs)
    with open_screen(len(inputs), args.quiet) as screen:
        for update in recognizer.updates(recordings):
            reporter.take(update, screen)
    if reporter.failed and len(inputs) > 1:
        complain(f"{reporter.failed} of {len(inputs)} recordings failed")
    if args.verbose:
        seconds = time.perf_counter() - started
        print(
            f"asr: {reporter.seconds:.1f} s of sound in {seconds:.1f} s, "
            f"{reporter.seconds / seconds:.1f} times real time",
            file=sys.stderr,
        )
    return reporter.exit_code


def _fingerprint(directory: Path) -> str:
    """Return a name for what a model directory says about recognition."""
    from asr.checkpoint import MODEL_FILES

    digest = hashlib.sha256()
    for path in (directory / name for name in MODEL_FILES):
        if path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _inputs(args: argparse.Namespace) -> tuple[list[Input], list[str]]:
    """Find recordings, and what is wrong with names; refuse options that contradict each other."""
    _check_options(args)
    names = args.files + (read_list(args.files_from) if args.files_from else [])
    if not names:
        raise InputError("found no FILE, wanted at least one (--help shows examples)")
    if [*names, args.files_from].count(STDIN) > 1:
        raise InputError("-: standard input can be read only once")
    inputs, problems = find_inputs(names)
    _check_number(args, len(inputs))
    inputs = choose_channels(inputs, args.channel, args.raw)
    _check_number(args, len(inputs))
    return inputs, problems


def _check_options(args: argparse.Namespace) -> None:
    """Refuse options that contradict each other, whatever the recordings are."""
    check_arguments(args)
    if args.resume and args.output_dir is None:
        raise InputError("--resume: found no --output-dir, wanted the folder of the earlier run")
    if args.output_dir is None and len(args.output) > 1:
        raise InputError("--output: several formats need --output-dir")
    if args.output_dir is None and sys.stdout is None:
        raise InputError("standard output is closed, wanted it open or --output-dir")
    if args.nbest is not None and "json" not in args.output:
        raise InputError("--nbest: found no json among the formats, wanted --output json")
    if args.raw is not None and args.channel not in (None, "all"):
        if args.channel > args.raw.num_channels:
            found = f"found {args.raw.num_channels} channels in --raw"
            raise InputError(f"--channel: {found}, wanted channel {args.channel}")
    if args.plot is not None:
        from asr.picture import check_picture

        check_picture(args.plot)


def _check_number(args: argparse.Namespace, number: int) -> None:
    """Refuse so many recordings where the options want one."""
    if number > 1 and args.plot is not None:
        raise InputError(f"--plot: found {number} recordings, wanted one")
    if number > 1 and args.output_dir is None and args.output[0] in _ONE_FILE_FORMATS:
        raise InputError(f"--output {args.output[0]}: several recordings need --output-dir")


def _channel(text: str) -> int | Literal["all"]:
    return "all" if text == "all" else positive(text)


def _formats(text: str) -> tuple[str, ...]:
    names = tuple("txt" if name == "text" else name for name in text.split(","))
    for name in names:
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(f"found {name!r}, wanted one of {', '.join(FORMATS)}")
    return names


def _raw(text: str) -> RawFormat:
    try:
        return parse_raw_format(text)
    except RawError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
