"""What the programs share: the options that choose a model, a search and a device; exit codes."""

# torch is imported where it is used: it takes more than a second, for which neither --help nor a
# mistyped option should wait.
from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asr.checkpoint import ModelBundle
    from asr.config import SearchConfig

EXIT_OK, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_PIPE_CLOSED = 0, 2, 130, 141


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
