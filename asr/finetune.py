"""Start from a trained model: take its weights, also for another alphabet, and freeze parts."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

import torch
from torch import Tensor

from asr.checkpoint import ModelBundle
from asr.config import Config
from asr.features import LogMel
from asr.lexicon import INITIAL, Lexicon
from asr.model import SpeechModel
from asr.tokenizer import CharTokenizer

DROPOUTS = ("encoder_dropout", "decoder_dropout")  # belong to the training, not to the network


def network_differences(config: Config, other: Config, *may_differ: str) -> list[str]:
    """Return the settings, as ``section.name=value`` of ``other``, that make it another network.

    Args:
        config: Of one network.
        other: Of the other.
        may_differ: Names of settings that do not count.
    """
    passed_over = (*DROPOUTS, *may_differ)
    found = []
    for section in ("features", "model"):
        ours, theirs = getattr(config, section), getattr(other, section)
        for field in dataclasses.fields(ours):
            value = getattr(theirs, field.name)
            if value == getattr(ours, field.name) or field.name in passed_over:
                continue
            if field.name == "phone_labels":  # which follows from the lexicon
                found.append(f"data.lexicon of {value - 1} phones" if value else "data.lexicon=")
            else:
                found.append(f"{section}.{field.name}={value}")
    return found


def has_blocks_of(config: Config, other: Config) -> bool:
    """Tell whether a network has all residual blocks of another, and perhaps more."""
    blocks = zip_longest(config.model.conv_blocks, other.model.conv_blocks, fillvalue=0)
    return all(ours >= theirs for ours, theirs in blocks)


def check_start(start: ModelBundle | None, config: Config) -> None:
    """Hold that a run's network can begin with the weights of the model that it names.

    Phones, and their reader, may be new, or be left out for another alphabet. So may residual
    blocks of the front end, which change nothing before they learn. Where only parts are wanted,
    all else may differ: the weights must fit, one by one.

    Raises:
        ValueError: It is another network, or parts are wanted of no model.
    """
    if start is None:
        if config.train.init_only:
            raise ValueError("train.init_only: found names without train.init_from, wanted both")
        return
    may_differ = ["phone_labels", "phone_reader_width"]
    if has_blocks_of(config, start.config):
        may_differ.append("conv_blocks")
    if config.train.init_only:
        may_differ = [field.name for field in dataclasses.fields(config.model)]
    if found := network_differences(config, start.config, *may_differ):
        raise ValueError(
            f"train.init_from: {config.train.init_from} is another network; "
            f"wanted {' '.join(found)}"
        )


def take_weights(
    start: ModelBundle,
    model: SpeechModel,
    features: LogMel,
    tokenizer: CharTokenizer,
    only: Sequence[str] = (),
    lexicon: Lexicon | None = None,
) -> str:
    """Copy a trained model's weights into a network of the same shape.

    The alphabets may differ: characters that both know keep what was learned of them, new ones
    stay as they are. So may phones, which are known by their names; the first phone of a word
    begins with what was learned of that phone anywhere.

    Args:
        start: The trained model.
        model: Gets its weights.
        features: Get its mean and standard deviation.
        tokenizer: Of the new alphabet.
        only: Names of modules or weights, as in `freeze`; all others stay as they are.
        lexicon: Of the network's phones.

    Returns:
        A line that says what was taken.

    Raises:
        ValueError: A name of `only` fits nothing, or weights of another shape.
    """
    features.load_state_dict(start.features.state_dict())
    old = [start.tokenizer.blank_id, start.tokenizer.sos_id, start.tokenizer.eos_id]
    new = [tokenizer.blank_id, tokenizer.sos_id, tokenizer.eos_id]
    shared = [c for c in tokenizer.alphabet if c in start.tokenizer.alphabet]
    old += [start.tokenizer.encode(c)[0] for c in shared]
    new += [tokenizer.encode(c)[0] for c in shared]
    ours, theirs = model.state_dict(), start.model.state_dict()
    wanted = _named(only, theirs, "train.init_only")
    labels = model.config.ctc_labels_per_frame
    same_labels = labels == start.model.config.ctc_labels_per_frame
    sources = _phone_sources(start.lexicon, lexicon) if same_labels else {}
    for name, tensor in theirs.items():
        if name not in ours or (only and name not in wanted):
            continue
        into = ours[name]
        if sources and _is_by_phone(name, into, tensor):
            _copy_phones(name, into, tensor, sources, labels)
            continue
        by_character = _is_by_character(name)
        fits = into.shape[by_character:] == tensor.shape[by_character:]
        if name.startswith("ctc_head."):
            fits &= same_labels
        if only and not fits:
            raise ValueError(
                f"train.init_only: {name}: found weights of {tuple(tensor.shape)} in "
                f"{start.directory}, wanted {tuple(into.shape)}"
            )
        if by_character:
            groups = labels if name.startswith("ctc_head.") else 1
            _copy_rows(into, tensor, new, old, groups)
        elif into.shape == tensor.shape:  # not so a head for other phones
            into.copy_(tensor)
    fresh = len(tokenizer.alphabet) - len(shared)
    what = f"{start.directory} ({', '.join(only)})" if only else str(start.directory)
    return f"starting from {what}" + (f"; {fresh} characters are new" if fresh else "")


def _named(prefixes: Sequence[str], names: Iterable[str], setting: str) -> set[str]:
    """Return the names that begin with one of `prefixes`, of modules or weights.

    Raises:
        ValueError: A prefix fits nothing; it names the setting that it is of.
    """
    names = list(names)
    found: set[str] = set()
    for prefix in prefixes:
        of_prefix = {n for n in names if n == prefix or n.startswith(f"{prefix}.")}
        if not of_prefix:
            parts = [name.split(".") for name in names]
            known = dict.fromkeys(".".join(p[:end]) for p in parts for end in range(1, len(p)))
            near = difflib.get_close_matches(prefix, known, n=1) or list(known)[:1]
            raise ValueError(f"{setting}: found no weights {prefix!r}, wanted names as {near[0]!r}")
        found |= of_prefix
    return found


def _is_by_character(name: str) -> bool:
    return name.startswith(("ctc_head.", "decoder.embedding.", "decoder.output."))


def _is_by_phone(name: str, into: Tensor, source: Tensor) -> bool:
    """Tell whether weights are of phones, as outputs or inputs, and fit each other in all else."""
    if name.startswith("phone_head."):
        return into.shape[1:] == source.shape[1:]
    reads = name.startswith("phone_reader.layer.cells.") and ".weight_ih" in name
    return reads and into.shape[0] == source.shape[0]


def _phone_sources(old: Lexicon | None, new: Lexicon | None) -> dict[int, int]:
    """Return which label of an old lexicon each of a new one comes from; none if all are alike."""
    if old is None or new is None or old.label_names == new.label_names:
        return {}
    places = {name: index for index, name in enumerate(old.label_names)}
    found = {
        index: places.get(name, places.get(name.removesuffix(INITIAL)))
        for index, name in enumerate(new.label_names)
    }
    return {index: place for index, place in found.items() if place is not None}


def _copy_phones(
    name: str, into: Tensor, source: Tensor, sources: Mapping[int, int], labels: int
) -> None:
    """Copy what is of phones, so that all that come from one are together as likely as it was."""
    new, old = list(sources), list(sources.values())
    if name == "phone_head.bias":
        shares = torch.bincount(torch.tensor(old), minlength=len(source) // labels)
        source = source - shares.clamp(min=1).log().repeat(labels)
    if name.startswith("phone_reader."):
        into, source = into.t(), source.t()  # phones are its inputs
    _copy_rows(into, source, new, old, labels)


def _copy_rows(
    into: Tensor, source: Tensor, new: Sequence[int], old: Sequence[int], groups: int
) -> None:
    """Copy rows ``old`` of each group of ``source`` (groups·V, …) to rows ``new`` of ``into``."""
    into = into.unflatten(0, (groups, -1))  # (groups, V, …)
    source = source.unflatten(0, (groups, -1))
    into[:, torch.tensor(new)] = source[:, torch.tensor(old)].to(into.dtype)


def freeze(model: SpeechModel, prefixes: Sequence[str]) -> str:
    """Exclude weights from learning.

    Args:
        model: The network.
        prefixes: Names of modules or weights, as ``encoder.front_end`` or ``encoder.layers.0``.

    Returns:
        A line that says how many weights still learn.

    Raises:
        ValueError: A name fits nothing, or nothing is left to learn.
    """
    parameters = dict(model.named_parameters())
    for name in _named(prefixes, parameters, "train.freeze"):
        parameters[name].requires_grad_(False)
    learning = sum(p.numel() for p in parameters.values() if p.requires_grad)
    if not learning:
        raise ValueError("train.freeze: found every weight frozen, wanted some that learn")
    everything = sum(p.numel() for p in parameters.values())
    return f"learning {learning / 1e6:.2f} of {everything / 1e6:.2f} million weights"
