"""Model directories, for inference, and training states, for resuming: never mixed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from asr.confidence import ConfidenceModel
from asr.config import Config, config_from_dict, config_to_dict
from asr.features import LogMel
from asr.lexicon import Lexicon
from asr.lm import CharNgramLM
from asr.model import SpeechModel
from asr.quantize import dequantize, quantize
from asr.recurrent_lm import RecurrentWordLM
from asr.tokenizer import CharTokenizer
from asr.vocabulary import Vocabulary
from asr.word_decoder import WordDecoder
from asr.word_lm import WordNgramLM
from asr.word_parts import DEFAULT_MODEL as DEFAULT_MODEL
from asr.word_parts import LEXICON as LEXICON
from asr.word_parts import WORD_MODEL as WORD_MODEL
from asr.word_parts import WordParts

LANGUAGE_MODEL, CONFIDENCE = "lm.safetensors", "confidence.json"
RECURRENT_MODEL = "recurrent.safetensors"
WEIGHTS, CONFIG, TOKENIZER, CARD = "model.safetensors", "config.json", "tokenizer.json", "README.md"
MODEL_FILES = (
    CONFIG, TOKENIZER, WEIGHTS, LANGUAGE_MODEL, CONFIDENCE, LEXICON, WORD_MODEL, RECURRENT_MODEL,
)  # fmt: skip  # all that inference reads


class CheckpointError(ValueError):
    """A model directory or training state is missing, incomplete or damaged."""


@dataclass(frozen=True)
class ModelBundle:
    """All that inference needs.

    Attributes:
        model: The network, in evaluation mode.
        features: Log-mel with the training set's mean and deviation.
        tokenizer: Ids to characters.
        config: The configuration it was trained with, and its search settings.
        directory: Where it came from.
        language_model: Of its language, if it has one.
        confidence: Says how sure its words are, if it was fitted.
        lexicon: Pronunciations, if it was trained with them.
        word_model: The language model of whole words, if it has one.
        vocabulary: What a search for whole words finds, if there are lexicon and word model.
        recurrent_model: Weighs what that search finds, if there is one.
    """

    model: SpeechModel
    features: LogMel
    tokenizer: CharTokenizer
    config: Config
    directory: Path
    language_model: CharNgramLM | None = None
    confidence: ConfidenceModel | None = None
    lexicon: Lexicon | None = None
    word_model: WordNgramLM | None = None
    vocabulary: Vocabulary | None = None
    recurrent_model: RecurrentWordLM | None = None

    @cached_property
    def word_decoder(self) -> WordDecoder | None:
        """Searches for whole words, if there are a lexicon and a language model of words."""
        if self.lexicon is None or self.word_model is None:
            return None
        return WordDecoder(
            self.lexicon, self.word_model, self.tokenizer, self.language_model, self.vocabulary,
            self.recurrent_model,
        )  # fmt: skip

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.features.mean.device


def build_model(config: Config) -> tuple[SpeechModel, LogMel, CharTokenizer]:
    """Return an untrained network with its features and tokenizer."""
    tokenizer = CharTokenizer(config.data.alphabet)
    model = SpeechModel(
        config.model, config.features.num_mels, tokenizer.size, config.features.shift_seconds
    )
    return model, LogMel(config.features), tokenizer


def load_model(
    directory: str | Path | None = None,
    device: str = "cpu",
    *,
    language_model: bool = True,
    words: Future[WordParts] | None = None,
) -> ModelBundle:
    """Read a model directory.

    Args:
        directory: Where it lies; ``None`` is the model inside the package.
        device: Where its weights go.
        language_model: Load the language models and the lexicon as well, if there are any;
            greedy search needs none.
        words: What `asr.word_parts.start_loading` of the same directory returned, where it was
            started before torch was imported.

    Raises:
        CheckpointError: A file is missing or damaged, or the weights do not fit the
            configuration.
    """
    folder = DEFAULT_MODEL if directory is None else Path(directory)
    for name in (CONFIG, TOKENIZER, WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: found no {name}, wanted a model directory")
    try:
        config = config_from_dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
        model, features, tokenizer = _load_network(folder, config)
        confidence = _load_if_there(ConfidenceModel, folder / CONFIDENCE)
        text_model, recurrent, parts = None, None, WordParts()
        if language_model:
            text_model = _load_if_there(CharNgramLM, folder / LANGUAGE_MODEL)
            recurrent = _load_if_there(RecurrentWordLM, folder / RECURRENT_MODEL)
            parts = WordParts.load(folder) if words is None else words.result()
    except CheckpointError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: damaged model directory: {error}") from error
    if parts.lexicon is not None and parts.lexicon.num_labels != config.model.phone_labels:
        raise CheckpointError(
            f"{folder}: {LEXICON} has {parts.lexicon.num_labels - 1} phones, "
            f"the network in {CONFIG} {max(0, config.model.phone_labels - 1)}"
        )
    return ModelBundle(
        model.to(device).eval(),
        features.to(device),
        tokenizer,
        config,
        folder,
        text_model,
        confidence,
        parts.lexicon,
        parts.model,
        parts.vocabulary,
        recurrent,
    )


def _load_network(folder: Path, config: Config) -> tuple[SpeechModel, LogMel, CharTokenizer]:
    """Return the network, features and tokenizer of a model directory."""
    tokenizer = CharTokenizer.load(folder / TOKENIZER)
    weights = dequantize(load_file(folder / WEIGHTS))
    model, features, built = build_model(config)
    if built.alphabet != tokenizer.alphabet:
        raise CheckpointError(
            f"{folder}: {TOKENIZER} has alphabet {tokenizer.alphabet!r}, "
            f"{CONFIG} has {built.alphabet!r}"
        )
    wanted = {**_prefixed("model", model), **_prefixed("features", features)}
    _check_weights(folder / WEIGHTS, weights, wanted)
    for name, tensor in wanted.items():
        tensor.data.copy_(weights[name])
    return model, features, tokenizer


class _Loadable(Protocol):
    @classmethod
    def load(cls, path: Path) -> Self: ...


_Part = TypeVar("_Part", bound=_Loadable)


def _load_if_there(kind: type[_Part], path: Path) -> _Part | None:
    return kind.load(path) if path.is_file() else None


def save_model(
    directory: str | Path,
    model: SpeechModel,
    features: LogMel,
    tokenizer: CharTokenizer,
    config: Config,
    dtype: torch.dtype = torch.float32,
    card: str = "",
    language_model: CharNgramLM | None = None,
    lexicon: Lexicon | None = None,
    word_model: WordNgramLM | None = None,
    recurrent_model: RecurrentWordLM | None = None,
) -> None:
    """Write a model directory, whole or not at all.

    Args:
        directory: Made if absent; its files are replaced.
        model: Network.
        features: Its features.
        tokenizer: Its tokenizer.
        config: Its configuration.
        dtype: Type of the weights on disk; ``torch.float16`` halves them, ``torch.int8`` keeps
            large matrices in eight bits (see ``asr.quantize``) and the rest in single precision.
        card: Text of the model card, ``README.md``; empty writes none.
        language_model: Written beside the weights.
        lexicon: Likewise.
        word_model: Likewise.
        recurrent_model: Likewise.

    Raises:
        OSError: It could not be written; what was there is as before.
        ValueError: NaN or infinite weights are to be kept in eight bits.
    """
    weights = _stored_weights(model, features, dtype)
    folder = Path(directory)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        save_file(weights, temporary / WEIGHTS)
        (temporary / WEIGHTS).chmod(0o644)  # safetensors lets nobody else read
        text = json.dumps(config_to_dict(config), indent=1) + "\n"
        (temporary / CONFIG).write_text(text, encoding="utf-8")
        tokenizer.save(temporary / TOKENIZER)
        if card:
            (temporary / CARD).write_text(card, encoding="utf-8")
        if language_model is not None:
            language_model.save(temporary / LANGUAGE_MODEL)
        if lexicon is not None:
            lexicon.save(temporary / LEXICON)
        if word_model is not None:
            word_model.save(temporary / WORD_MODEL)
        if recurrent_model is not None:
            recurrent_model.save(temporary / RECURRENT_MODEL)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(f"{folder}: cannot be written ({error})") from error
    if folder.exists():
        for path in sorted(temporary.iterdir()):
            path.replace(folder / path.name)
        temporary.rmdir()
    else:
        temporary.replace(folder)


def _stored_weights(model: SpeechModel, features: LogMel, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return all tensors in the types in which they are stored; the features' stay exact."""
    weights = {name: t.detach().cpu() for name, t in _prefixed("model", model).items()}
    if dtype == torch.int8:
        weights = quantize(weights)
    else:
        weights = {name: t.to(dtype) for name, t in weights.items()}
    weights |= {name: t.detach().cpu() for name, t in _prefixed("features", features).items()}
    return {name: t.contiguous() for name, t in weights.items()}


def _prefixed(prefix: str, module: torch.nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}


def _check_weights(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Hold names, shapes and values of the weights against the network's."""
    missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or unknown:
        raise CheckpointError(
            f"{path}: does not fit {CONFIG}: missing {missing}, unknown {unknown}"
        )
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: {name}: found shape {tuple(found[name].shape)}, "
                f"wanted {tuple(tensor.shape)}"
            )
        if not torch.isfinite(found[name]).all():
            raise CheckpointError(f"{path}: {name}: found NaN or infinite weights")


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a training state, whole or not at all; the one before stays as ``*.previous``.

    Raises:
        OSError: It could not be written, as on a full disk; what was there is as before.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch wraps what the file system says
        temporary.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else error.__context__
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else error
        raise OSError(f"{path}: cannot be written ({str(reason).splitlines()[0]})") from error
    if path.exists():
        path.replace(previous_state(path))
    temporary.replace(path)


def previous_state(path: Path) -> Path:
    """Return where the training state before the newest is kept."""
    return path.with_name(f"{path.name}.previous")


def load_state(path: Path) -> tuple[dict[str, Any], str]:
    """Read the newest training state that is whole.

    Only tensors and plain values are read: no code runs.

    Returns:
        The state, and a warning if the newest one was damaged and the one before was taken.

    Raises:
        CheckpointError: There is none, or all are damaged.
    """
    problems = []
    for candidate in (path, previous_state(path)):
        if not candidate.exists():
            problems.append(f"{candidate} is missing")
            continue
        try:
            _check_sums(candidate)
            state = torch.load(candidate, map_location="cpu", weights_only=True)
        except (
            OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, zipfile.BadZipFile
        ) as error:  # fmt: skip
            problems.append(f"{candidate} is damaged ({str(error).splitlines()[0]})")
            continue
        return state, "; ".join(problems)
    raise CheckpointError(f"no training state to resume: {'; '.join(problems)}")


def _check_sums(path: Path) -> None:
    """Hold a state against the check sums inside it, which ``torch.load`` does not look at."""
    with zipfile.ZipFile(path) as archive:
        if broken := archive.testzip():
            raise ValueError(f"wrong check sum in {broken}")
