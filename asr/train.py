"""Train a recogniser from a configuration.

    python -m asr.train recipes/tiny/config.toml
    python -m asr.train config.toml train.max_steps=20000 model.encoder_width=512 device=cuda
    python -m asr.train config.toml --dry-run                          # what it would take, here
    python -m asr.train config.toml resume=true                        # go on where it stopped
    torchrun --standalone --nproc-per-node=2 -m asr.train config.toml device=cpu threads=1

The run's folder (``train.output_dir``) gets ``model/``, the best model directory so far by WER on
the dev manifests (greedy CTC or attention); ``last/``, that of the last step; ``state.pt``, from
which ``resume=true`` continues exactly; ``log.jsonl``, ``tensorboard/`` and the resolved
``config.json``; at the end ``report.md``. Ctrl-C and SIGTERM save the state first.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from asr import distributed
from asr.arguments import EXIT_ERROR, Parser
from asr.config import Config, config_to_dict, load_config
from asr.dry_run import dry_run
from asr.report import write_whole
from asr.trainer import Trainer

EXIT_FAILED = 1
SAME_WISH_SECONDS = 3.0  # between signals that are one wish of the user's


def train(config: Config) -> int:
    """Train as configured.

    Returns:
        0, or the number of the signal that stopped the run.

    Raises:
        ValueError: Something the user gave cannot be used; the message says what.
    """
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    device = distributed.start(config.train.device)
    try:
        output_dir = Path(config.train.output_dir)
        if not config.train.resume and (output_dir / "state.pt").exists():
            raise ValueError(
                f"{output_dir}: found a training state; resume=true goes on from it, "
                "or choose another train.output_dir"
            )
        trainer = Trainer(config, device)
        if distributed.is_main():
            output_dir.mkdir(parents=True, exist_ok=True)
            text = json.dumps(config_to_dict(config), indent=1) + "\n"
            write_whole(output_dir / "config.json", text)
        with stopped_by_signals(trainer):
            stopped_by = trainer.run()
        # Nobody leaves while another still writes or reduces, and nothing may hold on to the
        # process group after it is gone: its threads would end the process with an abort, now
        # and then. The trainer holds on to it and is part of cycles, so it has to be collected.
        distributed.wait_for_all()
        del trainer
        gc.collect()
        return stopped_by
    finally:
        distributed.stop()


@contextmanager
def stopped_by_signals(trainer: Trainer) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end a run behind its current step; a second one ends at once.

    Not one that comes with the first: Ctrl-C reaches torchrun too, which passes it on.
    """
    first = 0.0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not trainer.stop_signal:
            trainer.stop_signal, first = number, time.monotonic()
        elif time.monotonic() - first > SAME_WISH_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    before = {n: signal.signal(n, on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = make_parser().parse_intermixed_args(arguments)
    rank = f" rank {os.environ['RANK']}:" if "RANK" in os.environ else ""
    try:
        config = load_config(options.config, options.overrides)
        if options.dry_run:
            return dry_run(config, Trainer)
        stopped_by = train(config)
    except (ValueError, OSError) as error:
        print(f"asr.train:{rank} {error}", file=sys.stderr)
        return EXIT_ERROR
    except RuntimeError as error:
        if not (reason := explain_failure(error, config)):
            raise
        print(f"asr.train:{rank} {reason}", file=sys.stderr)
        return EXIT_FAILED
    return 128 + stopped_by if stopped_by else 0


def make_parser() -> Parser:
    """Return the parser of the program's options."""
    sections = config_to_dict(Config())
    names = [f"{section}.{key}" for section, keys in sections.items() for key in keys]
    names += [key for keys in sections.values() for key in keys]
    parser = Parser(prog="python -m asr.train", description=__doc__, settings=names)
    parser.add_argument(
        "config", metavar="CONFIG", help="TOML file with what differs from the defaults"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that override it"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="train nothing: check the data and print size, memory, a batch and the time it takes",
    )
    return parser


def explain_failure(error: RuntimeError, config: Config) -> str:
    """Return a line on what a user can do about a failed run, empty for a mistake of ours."""
    again = f"resume=true goes on from the last state in {config.train.output_dir}"
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in first_line:
        seconds = config.data.batch_seconds
        return f"out of memory with data.batch_seconds={seconds:g}, wanted less of it; {again}"
    if distributed.lost_a_process(error):
        return f"another process is gone ({first_line}); {again}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
