"""What `ablations.py` changes, one thing at a time: in the search, and in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from asr.config import SearchConfig, SearchMethod
from asr.options import CHARACTER_SEARCH


@dataclass(frozen=True)
class Variant:
    """A search that differs from the default in one thing.

    Attributes:
        name: Of its folder.
        text: For the table.
        changes: Settings of the search with their values.
        factors: Settings of the search, and by how much each is multiplied.
        of_method: Of the default search, if this means nothing beside another.
    """

    name: str
    text: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)
    of_method: SearchMethod | None = None

    def of(self, default: SearchConfig) -> SearchConfig:
        """Return the settings of this search."""
        scaled = {name: getattr(default, name) * by for name, by in self.factors.items()}
        return replace(default, **{**self.changes, **scaled})


@dataclass(frozen=True)
class Technique:
    """A training that differs from its base in one thing.

    Attributes:
        name: Of its folder, and for `--only`.
        text: For the table.
        overrides: Settings as `asr.train` takes them.
        base: Name of the training that it is held against; its own if it is one.
    """

    name: str
    text: str
    overrides: tuple[str, ...] = ()
    base: str = "hearing"


@dataclass(frozen=True)
class Base(Technique):
    """A training that others are held against; `ablations/NAME.toml` has its settings.

    Attributes:
        title: Of its table.
        ways: How its runs are judged: methods of search, and what the table calls them.
        losses: What the table tells of, by the names of the log.
    """

    title: str = ""
    ways: Mapping[SearchMethod, str] = field(default_factory=dict)
    losses: Mapping[str, str] = field(default_factory=dict)


DEFAULT = Variant("default", "the default")
WORDS: SearchMethod = "words"
CHARACTERS: SearchMethod = "beam"
VARIANTS = (
    Variant("greedy_ctc", "greedy CTC alone", {"method": "ctc"}),
    Variant("greedy_attention", "greedy attention alone", {"method": "greedy"}),
    # A bonus makes up for what the language model takes, and goes with it. The decoder, which
    # knows a little of what is written, then weighs more.
    Variant(
        "network_alone", "along characters, decoder and CTC alone",
        {**CHARACTER_SEARCH, "lm_weight": 0.0, "length_bonus": 0.0, "ctc_weight": 0.2},
        of_method=WORDS,
    ),
    Variant(
        "characters", "along characters, with the character model", CHARACTER_SEARCH,
        of_method=WORDS,
    ),
    Variant(
        "vocabulary_alone", "without language model and word bonus: the vocabulary alone",
        {"lm_weight": 0.0, "word_bonus": 0.0}, of_method=WORDS,
    ),
    Variant(
        "no_language_model", "without language model and length bonus",
        {"lm_weight": 0.0, "length_bonus": 0.0}, of_method=CHARACTERS,
    ),
    Variant("half_language_model", "half the language model's weight", {}, {"lm_weight": 0.5}),
    Variant(
        "more_language_model", "one and a half times the language model's weight", {},
        {"lm_weight": 1.5},
    ),
    Variant("no_word_bonus", "without word bonus", {"word_bonus": 0.0}, of_method=WORDS),
    Variant(
        "blank_penalty", "the blank believed a nat less", {"blank_penalty": 1.0}, of_method=WORDS
    ),
    Variant("margin_10", "given up 10 nats behind the best", {"margin": 10.0}, of_method=WORDS),
    Variant("margin_12.5", "given up 12.5 nats behind", {"margin": 12.5}, of_method=WORDS),
    Variant("no_second_pass", "nothing weighed again", {"rescore": 0}, of_method=WORDS),
    Variant(
        "no_recurrent", "weighed again without the recurrent model", {"recurrent_share": 0.0},
        of_method=WORDS,
    ),
    Variant("second_pass_20", "the 20 best weighed again", {"rescore": 20}, of_method=WORDS),
    Variant("second_pass_50", "the 50 best weighed again", {"rescore": 50}, of_method=WORDS),
    Variant(
        "second_pass", "weighed again by decoder and CTC over characters too",
        {"rescore_weight": 0.2, "ctc_weight": 0.3}, of_method=WORDS,
    ),
    Variant(
        "second_pass_ctc", "weighed again by CTC over characters too",
        {"rescore_weight": 0.2, "ctc_weight": 1.0}, of_method=WORDS,
    ),
    Variant(
        "second_pass_decoder", "weighed again by the decoder too",
        {"rescore_weight": 0.2, "ctc_weight": 0.0}, of_method=WORDS,
    ),
    Variant("no_length_bonus", "without length bonus", {"length_bonus": 0.0}, of_method=CHARACTERS),
    Variant("no_ctc", "without CTC (weight 0)", {"ctc_weight": 0.0}, of_method=CHARACTERS),
    Variant(
        "no_decoder", "without the decoder (CTC weight 1)", {"ctc_weight": 1.0},
        of_method=CHARACTERS,
    ),
    *(
        Variant(f"beam_{k}", f"beam size {k}", {"beam_size": k}, of_method=method)
        for method, sizes in (
            (WORDS, (30, 100, 300, 1000, 3000)),
            (CHARACTERS, (1, 4, 8, 16, 32, 48)),
        )
        for k in sizes
    ),
)  # fmt: skip


def variants_of(method: SearchMethod) -> tuple[Variant, ...]:
    """Return what is measured of a model whose default has a method, the default first."""
    return (DEFAULT, *(item for item in VARIANTS if item.of_method in (None, method)))


BASES = (
    Base(
        "hearing", "the base", base="hearing",
        title="The encoder, from random weights",
        ways={"words": "along words", "ctc": "greedy CTC over characters"},
        losses={"phone": "phones", "ctc": "characters by CTC"},
    ),
    Base(
        "spelling", "the base", base="spelling",
        title="The decoder, from random weights, on what the shipped encoder hears",
        ways={"greedy": "greedy attention"},
        losses={"attention": "characters by attention"},
    ),
)  # fmt: skip
_HEARD = (
    'data.spoken_texts=["../shared/text/books.txt.xz"]',
    "data.heard_phones=runs/heard.safetensors",
)
TECHNIQUES = (
    Technique(
        "no_spec_augment", "without SpecAugment",
        ("augment.frequency_masks=0", "augment.time_masks=0"),
    ),
    Technique("no_speed", "without speed perturbation", ("augment.speed_factors=[1.0]",)),
    Technique("frequency_warp", "with frequency warp of 15 %", ("augment.frequency_warp=0.15",)),
    Technique("noise", "with noise in every second utterance", ("augment.noise_probability=0.5",)),
    Technique("rooms", "with rooms for every second utterance", ("augment.room_probability=0.5",)),
    Technique(
        "splice", "four fifths put together anew from words",
        ("augment.splice_probability=0.8", 'data.word_times=["runs/words.ctm"]'),
    ),
    Technique(
        "splice_short", "the same, into utterances of 4 s",
        (
            "augment.splice_probability=0.8", "augment.splice_seconds=4.0",
            'data.word_times=["runs/words.ctm"]',
        ),
    ),
    Technique("adamw", "AdamW instead of Muon", ("train.optimizer=adamw",)),
    Technique("phones_ctc", "phones by CTC, not the random field", ("train.phone_loss=ctc",)),
    Technique("no_phones", "without phones", ("data.lexicon=", "model.phone_reader_width=0")),
    Technique(
        "consistency", "half as many utterances, heard twice to agree",
        ("train.consistency_weight=0.2", "data.batch_seconds=24.0"),
    ),
    Technique("no_ema", "without averaged weights", ("train.ema_decay=0",)),
    Technique("no_dropout", "without dropout", ("model.encoder_dropout=0",)),
    Technique("dropout_0.3", "dropout 0.3 instead of 0.1", ("model.encoder_dropout=0.3",)),
    Technique("gru", "GRU instead of LSTM", ("model.encoder_cell=gru",)),
    # 32 channels of 20 bands are as wide for the first recurrent layer as 64 of 10.
    Technique(
        "frames_40ms", "frames of 40 ms with one CTC label instead of 80 ms with two",
        ("model.conv_channels=[32,32]", "model.ctc_labels_per_frame=1"),
    ),
    Technique(
        "conv_blocks", "two residual blocks behind the second and third convolution",
        ("model.conv_blocks=[0,2,2]",),
    ),
    Technique("short_first", "short utterances first", ("data.short_first=true",)),
    Technique(
        "no_guided_attention", "without guided attention", ("train.guided_attention_weight=0",),
        base="spelling",
    ),
    Technique(
        "no_label_smoothing", "without label smoothing", ("train.label_smoothing=0",),
        base="spelling",
    ),
    Technique(
        "location", "location-aware attention", ("model.attention=location",), base="spelling"
    ),
    Technique("one_gru", "one GRU, not two", ("model.decoder_layers=1",), base="spelling"),
    Technique(
        "phone_reader", "phones that the decoder sees too", ("model.phone_reader_width=128",),
        base="spelling",
    ),
    Technique(
        "texts", "the same, learning from texts too", ("model.phone_reader_width=128", *_HEARD),
        base="spelling",
    ),
    Technique(
        "decoder_muon", "Muon instead of AdamW", ("train.optimizer=muon",), base="spelling"
    ),
)  # fmt: skip


def base_of(technique: Technique) -> Base:
    """Return what a technique is held against."""
    (base,) = [base for base in BASES if base.name == technique.base]
    return base
