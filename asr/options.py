"""The options by which programs choose a model, a search and a device."""

# torch is imported where it is used: it takes more than a second, for which neither --help nor a
# mistyped option should wait.
from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from asr.arguments import number, positive
from asr.memory import map_large_blocks

if TYPE_CHECKING:
    from asr.checkpoint import ModelBundle
    from asr.config import SearchConfig


@dataclass(frozen=True)
class Preset:
    """Settings of the search under one name.

    Attributes:
        search: For the search along characters.
        words: For the search along whole words, where the model has one; None is `search` again.
        help: What it is good for.
    """

    search: dict[str, Any]
    words: dict[str, Any] | None
    help: str


PRESETS = {
    "greedy": Preset({"method": "greedy"}, None, "the same as --method greedy"),
    "fast": Preset(
        {"method": "beam", "beam_size": 4, "ctc_weight": 1.0},
        {"method": "words", "beam_size": 200, "margin": 10.5, "rescore": 50},
        "less time, more errors: a smaller beam",
    ),
    "accurate": Preset(
        {"method": "beam", "beam_size": 40},
        {"method": "words", "beam_size": 3000, "margin": 12.5, "rescore": 400},
        "fewer errors, more time: a larger beam",
    ),
}

# Along characters, for a model whose own settings are those of a search along words.
CHARACTER_SEARCH: dict[str, Any] = {
    "method": "beam", "beam_size": 16, "ctc_weight": 0.3, "lm_weight": 0.6, "length_bonus": 1.0,
}  # fmt: skip

MAX_THREADS = 1024  # far more would take for ever to start


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options by which a program chooses a model, a search and a device."""
    group = parser.add_argument_group("model and search")
    group.add_argument("--model", metavar="DIR", help="model directory (default: the built-in one)")
    group.add_argument(
        "--method",
        choices=("words", "beam", "greedy", "ctc"),
        help="words searches for the words of a large vocabulary by their phones, beam spells by "
        "CTC and the decoder along several paths, greedy follows "
        "the decoder alone, ctc takes the best of each moment (default: what the model was "
        "tuned for)",
    )
    for name, preset in PRESETS.items():
        group.add_argument(
            f"--{name}", action="store_const", const=preset, dest="preset", help=preset.help
        )
    group.add_argument(
        "--beam-size",
        type=positive,
        metavar="K",
        help="paths kept by the search: more is slower and a little better",
    )
    group.add_argument(
        "--ctc-weight",
        type=number("a number from 0 to 1", 0.0, 1.0),
        metavar="W",
        help="share of CTC over characters, 0 to 1; the decoder has the rest",
    )
    group.add_argument(
        "--length-bonus",
        type=number("a number"),
        metavar="X",
        help="added to a path's score for each character, in nats: longer texts for higher values",
    )
    group.add_argument(
        "--lm-weight",
        type=number("a number of at least 0", 0.0),
        metavar="W",
        help="weight of the language model in the search; 0 is without",
    )
    group.add_argument(
        "--hotwords",
        metavar="WORDS",
        help="names and words to listen for: 'Rachel Lynde, Avonlea', or a file with one a line",
    )
    group.add_argument(
        "--hotword-weight",
        type=number("a number of at least 0", 0.0),
        metavar="W",
        help="how much each of their characters is worth, in nats (default: 1.25)",
    )
    group.add_argument(
        "--nbest",
        type=positive,
        metavar="N",
        help="give the N best texts of each segment, with scores, in --output json",
    )
    group.add_argument(
        "--no-vad",
        dest="vad",
        action="store_false",
        help="hear everything, also what the voice activity detector takes for silence or noise",
    )
    group.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to compute; auto takes a GPU if there is one (default: %(default)s)",
    )
    group.add_argument(
        "--threads", type=_threads, metavar="N", help="CPU threads (default: one for each core)"
    )


_BEAM_OPTIONS = (
    "beam_size", "ctc_weight", "lm_weight", "length_bonus", "hotword_weight", "nbest", "hotwords",
)  # fmt: skip


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse options of `add_model_arguments` that contradict each other, whatever the model is.

    Raises:
        ValueError: They do.
    """
    preset = args.preset.search if args.preset else {}
    method = args.method or preset.get("method")
    of_beam = _beam_options(args)
    if of_beam and method in ("greedy", "ctc"):
        option = of_beam[0].replace("_", "-")
        raise ValueError(
            f"--{option}: found beside the method {method}, wanted the method words or beam"
        )
    if args.hotword_weight is not None and args.hotwords is None:
        raise ValueError("--hotword-weight: found no --hotwords, wanted the words it is for")


def _beam_options(args: argparse.Namespace) -> list[str]:
    """Return which options of a search along several paths were given."""
    return [name for name in _BEAM_OPTIONS if getattr(args, name) is not None]


def load_from_arguments(args: argparse.Namespace) -> tuple[ModelBundle, SearchConfig]:
    """Load the model that the options of `add_model_arguments` name, and its search settings.

    Raises:
        ValueError: There is no such model or device.
    """
    check_arguments(args)
    of_beam = _beam_options(args)
    chosen = {name: getattr(args, name) for name in of_beam}
    preset: dict[str, Any] = args.preset.search if args.preset else {}
    is_greedy = (args.method or preset.get("method")) in ("greedy", "ctc")
    with _without_collector():
        bundle = _load(args, language_model=not is_greedy)
    search = bundle.config.search
    if args.preset and args.preset.words and search.method == "words" and args.method != "beam":
        preset = args.preset.words
    method = args.method or preset.get("method")
    if method == "words" and bundle.word_decoder is None:
        from asr.decode import NO_WORDS

        raise ValueError(f"--method words: {bundle.directory}: {NO_WORDS}")
    if args.hotwords is not None:
        from asr.hotwords import parse_hotwords

        alphabet, spelling = bundle.tokenizer.alphabet, bundle.config.data.normalize
        chosen["hotwords"] = parse_hotwords(args.hotwords, alphabet, spelling)
    if of_beam and search.method in ("greedy", "ctc"):
        chosen["method"] = "beam"  # asking for these asks for a beam
    if method is not None:
        chosen["method"] = method
    if method == "beam" and search.method == "words":
        preset = {**CHARACTER_SEARCH, **preset}
    search = replace(search, **{**preset, **chosen})
    if args.length_bonus is not None and search.method == "words":
        raise ValueError("--length-bonus: found beside the method words, wanted --method beam")
    # The search along words has its own, which `word_decoder` tells of.
    if args.lm_weight and search.method == "beam" and bundle.language_model is None:
        raise ValueError(f"--lm-weight: {bundle.directory} has no language model, wanted one")
    if search.method == "words" and bundle.word_decoder is not None and search.hotwords:
        bundle.word_decoder.vocabulary_for(search)  # what cannot be said is refused at once
    return bundle, search


def _load(args: argparse.Namespace, language_model: bool) -> ModelBundle:
    """Load the model; what needs no torch, while that is imported."""
    from asr.word_parts import start_loading

    map_large_blocks()
    words = start_loading(args.model, alone=True) if language_model else None

    import torch

    from asr.checkpoint import load_model

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    return load_model(args.model, device, language_model=language_model, words=words)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Leave Python's garbage collector out, and what is made meanwhile for ever out of its sight.

    A million objects come with torch and stay to the end of the program. To go through them again
    and again while they come, and once more when it ends, costs a tenth of its time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def choose_device(name: str) -> str:
    """Return "cpu" or "cuda" for these names or "auto", which takes a GPU if there is one.

    Raises:
        ValueError: A GPU is wanted, and there is none.
    """
    if name == "cpu":
        return "cpu"
    import torch

    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise ValueError("--device cuda: found no GPU that PyTorch can use, wanted one")
    return "cuda" if has_gpu else "cpu"


def _threads(text: str) -> int:
    threads = positive(text)
    if threads > MAX_THREADS:
        raise argparse.ArgumentTypeError(f"found {text}, wanted at most {MAX_THREADS}")
    return threads
