"""Start from a trained model: take its weights, also for another alphabet, and freeze parts."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence

import torch
from torch import Tensor

from asr.checkpoint import ModelBundle
from asr.config import Config
from asr.features import LogMel
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
            if value != getattr(ours, field.name) and field.name not in passed_over:
                found.append(f"{section}.{field.name}={value}")
    return found


def take_weights(
    start: ModelBundle, model: SpeechModel, features: LogMel, tokenizer: CharTokenizer
) -> str:
    """Copy a trained model's weights into a network of the same shape.

    The alphabets may differ: characters that both know keep what was learned of them, new ones
    stay as they are.

    Args:
        start: The trained model.
        model: Gets its weights.
        features: Get its mean and standard deviation.
        tokenizer: Of the new alphabet.

    Returns:
        A line that says what was taken.
    """
    features.load_state_dict(start.features.state_dict())
    old = [start.tokenizer.blank_id, start.tokenizer.sos_id, start.tokenizer.eos_id]
    new = [tokenizer.blank_id, tokenizer.sos_id, tokenizer.eos_id]
    shared = [c for c in tokenizer.alphabet if c in start.tokenizer.alphabet]
    old += [start.tokenizer.encode(c)[0] for c in shared]
    new += [tokenizer.encode(c)[0] for c in shared]
    ours = model.state_dict()
    for name, tensor in start.model.state_dict().items():
        if _is_by_character(name):
            groups = model.config.ctc_labels_per_frame if name.startswith("ctc_head.") else 1
            _copy_rows(ours[name], tensor, new, old, groups)
        elif name in ours and ours[name].shape == tensor.shape:  # not so a head for other phones
            ours[name].copy_(tensor)
    fresh = len(tokenizer.alphabet) - len(shared)
    return f"starting from {start.directory}" + (f"; {fresh} characters are new" if fresh else "")


def _is_by_character(name: str) -> bool:
    return name.startswith(("ctc_head.", "decoder.embedding.", "decoder.output."))


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
    for prefix in prefixes:
        names = [n for n in parameters if n == prefix or n.startswith(f"{prefix}.")]
        if not names:
            known = [name for name, _ in model.named_modules() if name]
            near = difflib.get_close_matches(prefix, known, n=1) or known[:1]
            raise ValueError(
                f"train.freeze: found no weights {prefix!r}, wanted names such as {near[0]!r}"
            )
        for name in names:
            parameters[name].requires_grad_(False)
    learning = sum(p.numel() for p in parameters.values() if p.requires_grad)
    if not learning:
        raise ValueError("train.freeze: found every weight frozen, wanted some that learn")
    everything = sum(p.numel() for p in parameters.values())
    return f"learning {learning / 1e6:.2f} of {everything / 1e6:.2f} million weights"
