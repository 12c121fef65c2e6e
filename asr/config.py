"""Every setting of the recogniser as documented, typed data.

A configuration file is TOML that holds only what differs from the defaults below, in one
table for each section; ``section.key=value`` on a command line overrides both::

    [model]
    encoder_layers = 4

    python -m asr.train config.toml model.encoder_layers=5 resume=true
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ENGLISH_ALPHABET = " 'abcdefghijklmnopqrstuvwxyz"


SearchMethod = Literal["ctc", "greedy", "beam", "words"]


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type or out of range."""


@dataclass(frozen=True)
class FeatureConfig:
    """Log-mel features."""

    sample_rate: int = 16000  # Hz
    num_mels: int = 80
    n_fft: int = 512
    window_seconds: float = 0.025
    shift_seconds: float = 0.010
    min_frequency: float = 20.0  # Hz
    max_frequency: float = 8000.0  # Hz
    log_floor: float = 1e-6  # mel power below this counts as silence
    utterance_mean: bool = (
        True  # subtract each utterance's own mean: removes the microphone's colour
    )


@dataclass(frozen=True)
class ModelConfig:
    """The network, in the order in which data meets it."""

    conv_channels: tuple[int, ...] = (32, 32)  # each halves the time and the mel axis
    conv_blocks: tuple[int, ...] = ()  # residual blocks behind each of these; () is none
    encoder_cell: Literal["lstm", "gru", "rnn"] = "lstm"
    encoder_layers: int = 4
    encoder_width: int = 320  # in each direction
    bidirectional: bool = True
    pyramid_layers: tuple[
        int, ...
    ] = ()  # joins frames in pairs after these layers (0 is the first)
    encoder_dropout: float = 0.2
    ctc_labels_per_frame: int = 1  # CTC outputs an encoder frame, for low frame rates
    phone_labels: int = 0  # of a second CTC head, blank included; set by data.lexicon
    phone_reader_width: int = 0  # of a layer through which the decoder sees the phones; 0 is none
    attention: Literal["content", "location", "none"] = "content"
    attention_heads: int = 4
    attention_width: int = 256  # of all heads together
    embedding_width: int = 128
    decoder_layers: int = 2  # GRUs: one before attention, and with 2 one behind it
    decoder_width: int = 320
    decoder_dropout: float = 0.2


@dataclass(frozen=True)
class AugmentConfig:
    """Changes made to training audio, drawn anew for every batch."""

    speed_factors: tuple[float, ...] = (0.9, 1.0, 1.1)
    # Of cutting an utterance between words and dealing out the pieces anew; see asr/splice.py.
    splice_probability: float = 0.0
    splice_words: int = 5  # most words of a piece
    splice_seconds: float = 0.0  # what comes out is about so long; 0 is as long as it was
    gain_db: float = 6.0  # loudness changes by up to this much either way
    frequency_warp: float = 0.0  # each utterance's frequencies are stretched by up to this share
    noise_probability: float = 0.0  # of adding noise to an utterance
    noise_min_snr_db: float = 5.0
    noise_max_snr_db: float = 30.0
    telephone_probability: float = 0.0  # of keeping only a telephone's band
    room_probability: float = 0.0  # of letting an utterance echo in a room
    frequency_masks: int = 2
    frequency_mask_width: int = 20  # mel bands at most
    time_masks: int = 2
    time_mask_seconds: float = 0.4  # at most
    time_mask_fraction: float = 0.2  # of the utterance that one mask may cover


@dataclass(frozen=True)
class DataConfig:
    """What is trained and validated on."""

    train_manifests: tuple[str, ...] = ()  # or tar shards: shards/train-{000000..000041}.tar
    dev_manifests: tuple[str, ...] = ()
    alphabet: str = ENGLISH_ALPHABET
    lexicon: str = ""  # pronunciations: a second CTC head learns phones; see recipes/lexicon
    word_times: tuple[str, ...] = ()  # CTM files, for augment.splice_probability
    spoken_texts: tuple[str, ...] = ()  # files from which the decoder learns to spell phones
    heard_phones: str = ""  # how these sound, of scripts/collect_heard.py; for spoken_texts
    normalize: Literal["english", "none"] = "english"
    min_seconds: float = 0.3
    max_seconds: float = 20.0  # longer utterances are left out of training
    batch_seconds: float = 60.0  # padded audio an update and process
    max_batch_size: int = 64
    cache_dir: str = ""  # decoded audio is kept here; empty decodes in every epoch
    num_workers: int = 0  # loader processes a training process; for shards at most one
    shuffle_pool: int = 2000  # encoded utterances of shards in memory, from which batches are made
    short_first: bool = True  # the first epoch goes from short to long
    dev_utterances: int = 200  # evenly picked from the dev manifests; 0 is all


@dataclass(frozen=True)
class TrainConfig:
    """How the weights are found."""

    output_dir: str = "runs/default"
    resume: bool = False
    init_from: str = ""  # model directory to start from; the alphabet may differ
    # Beginnings of names of weights that are taken from there, all others begin anew; none is all.
    init_only: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()  # beginnings of names of weights that stay, as "encoder.front_end"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int = 0  # CPU threads a process; 0 leaves PyTorch's choice
    seed: int = 1
    max_steps: int = 10000
    # Muon costs more an update and learns more from it; see asr/optimize.py.
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 1e-3
    warmup_steps: int = 500
    decay_steps: int = 2000  # last steps, over which the rate falls to a hundredth
    weight_decay: float = 1e-2
    beta2: float = 0.98
    gradient_clip: float = 1.0
    ctc_weight: float = 0.3
    phone_weight: float = 0.5  # of phones beside the rest; with data.lexicon only
    # CTC, or CTC against all that a trigram of phones finds likely, see asr/crf.py.
    phone_loss: Literal["ctc", "crf"] = "crf"
    # Of what two hearings of an utterance, each with noise and masks of its own, say unlike each
    # other of every frame, see asr/loss.py; above 0, an update hears everything twice.
    consistency_weight: float = 0.0
    text_weight: float = 0.5  # of spelling the phones of texts; with data.spoken_texts only
    text_characters: int = 3000  # an update and process
    phones_alone: float = 0.25  # share of utterances of which the decoder sees the phones only
    ctc_only_steps: int = (
        0  # first steps without the decoder: faster, and attention starts on good frames
    )
    label_smoothing: float = 0.1
    guided_attention_weight: float = 0.3  # pulls attention to CTC's alignment; 0 is off
    guided_attention_frames: int = 1  # tolerance to either side
    ema_decay: float = 0.999  # weight averaging; 0 is off
    log_every: int = 20  # steps
    validate_every: int = 500  # steps
    checkpoint_minutes: float = 3.0


@dataclass(frozen=True)
class SearchConfig:
    """How transcripts are searched for."""

    # Greedy CTC, greedy attention, both along a beam, or CTC over phones along whole words.
    method: SearchMethod = "beam"
    beam_size: int = 8
    margin: float = 11.25  # nats behind the best at which it gives up; search over words only
    ctc_weight: float = 0.3  # attention has the rest
    lm_weight: float = 0.0  # of the language model, added to the rest; not for greedy search
    length_bonus: float = 0.0  # nats a character: makes up for what the language model takes
    word_bonus: float = 0.0  # nats a word; search over words only, as are the next five
    blank_penalty: float = 0.0  # nats a frame: how much less the blank of CTC is believed
    rescore: int = 20  # texts that are weighed again in the end; 0 is none
    rescore_weight: float = 0.3  # of decoder and CTC over characters there; CTC has ctc_weight
    recurrent_share: float = 0.5  # of the recurrent language model there, if the model has one
    max_chars_per_second: float = 30.0
    nbest: int = 1  # texts wanted of each utterance; not of greedy search
    hotwords: tuple[str, ...] = ()  # phrases to listen for, in the alphabet; not in greedy search
    hotword_weight: float = 1.25  # nats for each character of a phrase that is there


@dataclass(frozen=True)
class Config:
    """All sections together: what lies beside the weights as ``config.json``."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    search: SearchConfig = field(default_factory=SearchConfig)


RETIRED = frozenset({"search.hearings"})  # in models of older versions; passed over
SECTIONS = tuple(f.name for f in dataclasses.fields(Config))


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file and apply ``key=value`` overrides.

    Args:
        path: TOML file; ``None`` starts from the defaults.
        overrides: ``section.key=value``, or ``key=value`` where one section alone has the key.

    Raises:
        ConfigError: The file is missing or no TOML, or a setting is unknown, has the wrong
            type or is out of range. The message names the setting and, if near, the right one.
    """
    tables: dict[str, Any] = {}
    if path is not None:
        try:
            tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from error
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise ConfigError(f"override {override!r}: found no '=', wanted key=value")
        section, name = _locate(key.strip())
        tables.setdefault(section, {})[name] = _parse_value(section, name, value.strip())
    return config_from_dict(tables)


def config_from_dict(tables: Mapping[str, Any]) -> Config:
    """Build a checked configuration from nested tables; what is absent keeps its default.

    Raises:
        ConfigError: As for :func:`load_config`.
    """
    sections: dict[str, Any] = {}
    for section, table in tables.items():
        if section not in SECTIONS:
            raise ConfigError(f"unknown section [{section}]{_nearest(section, SECTIONS)}")
        if not isinstance(table, Mapping):
            raise ConfigError(f"[{section}]: found {table!r}, wanted a table of settings")
        types_ = _field_types(section)
        table = {name: v for name, v in table.items() if f"{section}.{name}" not in RETIRED}
        for name in table:
            if name not in types_:
                raise ConfigError(f"unknown setting {section}.{name}{_nearest(name, types_)}")
        values = {n: _coerce(f"{section}.{n}", v, types_[n]) for n, v in table.items()}
        sections[section] = _section_class(section)(**values)
    config = Config(**sections)
    _check(config)
    return config


def config_to_dict(config: Config) -> dict[str, Any]:
    """Return all settings as nested plain dictionaries that JSON can hold."""
    return dataclasses.asdict(config)


def _section_class(section: str) -> type[Any]:
    annotation = typing.get_type_hints(Config)[section]
    assert isinstance(annotation, type)
    return annotation


def _field_types(section: str) -> dict[str, Any]:
    return typing.get_type_hints(_section_class(section))


def _nearest(name: str, candidates: typing.Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(candidates), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; wanted one of: {', '.join(candidates)}"


def _locate(key: str) -> tuple[str, str]:
    """Return the section and the name that a command-line key means."""
    section, dot, name = key.partition(".")
    if dot:
        return section, name
    owners = [s for s in SECTIONS if key in _field_types(s)]
    if len(owners) == 1:
        return owners[0], key
    if owners:
        wanted = " or ".join(f"{owner}.{key}" for owner in owners)
        raise ConfigError(f"setting {key!r} stands in several sections; wanted {wanted}")
    every = [name for s in SECTIONS for name in _field_types(s)]
    near = difflib.get_close_matches(key, every, n=1)
    raise ConfigError(f"unknown setting {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def _parse_value(section: str, name: str, text: str) -> Any:
    """Read a command-line value as TOML, and as a bare string where the setting is text."""
    wanted = _field_types(section).get(name) if section in SECTIONS else None
    if wanted is str or typing.get_origin(wanted) is Literal:
        return text.strip("\"'") if text[:1] in "\"'" else text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if typing.get_origin(wanted) is tuple:
            return [part for part in text.split(",") if part]
        return text


def _coerce(name: str, value: Any, wanted: Any) -> Any:
    """Return the value in the annotated type, or say what was found and wanted."""
    origin = typing.get_origin(wanted)
    if origin is Literal:
        choices = typing.get_args(wanted)
        if value in choices:
            return value
        raise ConfigError(f"{name}: found {value!r}, wanted one of {', '.join(map(str, choices))}")
    if origin is tuple:
        item = typing.get_args(wanted)[0]
        if isinstance(value, (list, tuple)):
            return tuple(_coerce(name, v, item) for v in value)
        return (_coerce(name, value, item),)
    assert not isinstance(wanted, types.UnionType)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not wanted:
        raise ConfigError(f"{name}: found {value!r}, wanted {wanted.__name__}")
    return value


def _check(config: Config) -> None:
    """Hold the values that would otherwise fail late or silently."""
    positive = {
        "features": (
            "num_mels",
            "n_fft",
            "sample_rate",
            "window_seconds",
            "shift_seconds",
            "log_floor",
        ),
        "model": ("encoder_layers", "encoder_width", "ctc_labels_per_frame", "attention_heads"),
        "data": ("batch_seconds", "max_seconds", "max_batch_size", "shuffle_pool"),
        "train": ("max_steps", "learning_rate", "gradient_clip", "log_every", "validate_every"),
        "augment": ("splice_words",),
        "search": ("beam_size", "margin", "max_chars_per_second", "nbest"),
    }
    for section, names in positive.items():
        for name in names:
            value = getattr(getattr(config, section), name)
            if value <= 0:
                raise ConfigError(f"{section}.{name}: found {value}, wanted more than 0")
    fractions = (
        ("train.ctc_weight", config.train.ctc_weight),
        ("search.ctc_weight", config.search.ctc_weight),
        ("search.recurrent_share", config.search.recurrent_share),
        ("train.ema_decay", config.train.ema_decay),
        ("model.encoder_dropout", config.model.encoder_dropout),
        ("model.decoder_dropout", config.model.decoder_dropout),
        ("augment.time_mask_fraction", config.augment.time_mask_fraction),
        ("augment.splice_probability", config.augment.splice_probability),
        ("augment.frequency_warp", config.augment.frequency_warp),
        ("augment.noise_probability", config.augment.noise_probability),
        ("augment.telephone_probability", config.augment.telephone_probability),
        ("augment.room_probability", config.augment.room_probability),
    )
    for name, value in fractions:
        if not 0 <= value <= 1:
            raise ConfigError(f"{name}: found {value}, wanted 0 to 1")
    for name in ("lm_weight", "blank_penalty", "rescore", "rescore_weight"):
        value = getattr(config.search, name)
        if value < 0:
            raise ConfigError(f"search.{name}: found {value}, wanted at least 0")
    if config.augment.splice_seconds < 0:
        raise ConfigError(
            f"augment.splice_seconds: found {config.augment.splice_seconds}, wanted at least 0"
        )
    if config.augment.noise_min_snr_db > config.augment.noise_max_snr_db:
        raise ConfigError(
            f"augment.noise_min_snr_db: found {config.augment.noise_min_snr_db}, wanted at most "
            f"augment.noise_max_snr_db ({config.augment.noise_max_snr_db})"
        )
    blocks, convolutions = config.model.conv_blocks, len(config.model.conv_channels)
    if blocks and (len(blocks) != convolutions or min(blocks) < 0):
        raise ConfigError(
            f"model.conv_blocks: found {list(blocks)}, wanted [] or {convolutions} numbers from 0 "
            "on, as many as in model.conv_channels"
        )
    if config.model.decoder_layers not in (1, 2):
        raise ConfigError(
            f"model.decoder_layers: found {config.model.decoder_layers}, wanted 1 or 2"
        )
    if config.model.attention_width % config.model.attention_heads:
        raise ConfigError(
            f"model.attention_width: found {config.model.attention_width}, wanted a multiple of "
            f"model.attention_heads ({config.model.attention_heads})"
        )
    if len(set(config.data.alphabet)) != len(config.data.alphabet) or not config.data.alphabet:
        raise ConfigError("data.alphabet: wanted at least one character and each only once")
