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
    """A training that differs from the base in one thing.

    Attributes:
        name: Of its folder, and for `--only`.
        text: For the table.
        overrides: Settings as `asr.train` takes them.
    """

    name: str
    text: str
    overrides: tuple[str, ...] = ()


DEFAULT = Variant("default", "the default")
WORDS: SearchMethod = "words"
CHARACTERS: SearchMethod = "beam"
VARIANTS = (
    Variant("greedy_ctc", "greedy CTC alone", {"method": "ctc"}),
    Variant("greedy_attention", "greedy attention alone", {"method": "greedy"}),
    # A bonus makes up for what the language model takes, and goes with it.
    Variant(
        "network_alone", "along characters, decoder and CTC alone",
        {**CHARACTER_SEARCH, "lm_weight": 0.0, "length_bonus": 0.0}, of_method=WORDS,
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
        "no_blank_penalty", "the blank believed as it is", {"blank_penalty": 0.0}, of_method=WORDS
    ),
    Variant("no_second_pass", "nothing weighed again", {"rescore": 0}, of_method=WORDS),
    Variant(
        "no_recurrent", "weighed again without the recurrent model", {"recurrent_share": 0.0},
        of_method=WORDS,
    ),
    Variant("second_pass_20", "the 20 best weighed again", {"rescore": 20}, of_method=WORDS),
    Variant("second_pass_100", "the 100 best weighed again", {"rescore": 100}, of_method=WORDS),
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
    Variant("heard_twice", "heard twice, a label apart", {"hearings": 2}, of_method=WORDS),
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


BASE = Technique("base", "the base")
LEXICON = "data.lexicon=asr/models/default/lexicon.safetensors"
TECHNIQUES = (
    Technique(
        "no_spec_augment", "without SpecAugment",
        ("augment.frequency_masks=0", "augment.time_masks=0"),
    ),
    Technique("no_speed", "without speed perturbation", ("augment.speed_factors=[1.0]",)),
    Technique("frequency_warp", "with frequency warp of 10 %", ("augment.frequency_warp=0.1",)),
    Technique("noise", "with noise in every second utterance", ("augment.noise_probability=0.5",)),
    Technique("rooms", "with rooms for every second utterance", ("augment.room_probability=0.5",)),
    Technique(
        "telephone", "with a telephone's band for every fifth utterance",
        ("augment.telephone_probability=0.2",),
    ),
    Technique(
        "splice", "every second utterance put together anew from words",
        ("augment.splice_probability=0.5", 'data.word_times=["runs/words.ctm"]'),
    ),
    Technique("muon", "Muon for the recurrent layers", ("train.optimizer=muon",)),
    # Attention is guided by CTC's alignment, which does not exist without its loss.
    Technique(
        "no_ctc", "without CTC loss, hence without guided attention",
        ("train.ctc_weight=0", "train.ctc_only_steps=0", "train.guided_attention_weight=0"),
    ),
    Technique(
        "no_guided_attention", "without guided attention", ("train.guided_attention_weight=0",)
    ),
    Technique(
        "phones", "with a second CTC head over phones",
        (LEXICON, "model.phone_reader_width=0"),
    ),
    Technique(
        "phones_ctc", "the same by CTC instead of the random field",
        (LEXICON, "model.phone_reader_width=0", "train.phone_loss=ctc"),
    ),
    Technique("phone_reader", "phones that the decoder sees too", (LEXICON,)),
    Technique("no_label_smoothing", "without label smoothing", ("train.label_smoothing=0",)),
    Technique("no_ema", "without averaged weights", ("train.ema_decay=0",)),
    Technique(
        "no_dropout", "without dropout", ("model.encoder_dropout=0", "model.decoder_dropout=0")
    ),
    Technique(
        "dropout_0.2", "dropout 0.2", ("model.encoder_dropout=0.2", "model.decoder_dropout=0.2")
    ),
    Technique("gru", "GRU instead of LSTM", ("model.encoder_cell=gru",)),
    # 32 channels of 20 bands are as wide for the first recurrent layer as 64 of 10.
    Technique(
        "frames_40ms", "frames of 40 ms with one CTC label instead of 80 ms with two",
        ("model.conv_channels=[32,32]", "model.ctc_labels_per_frame=1"),
    ),
    Technique("location", "location-aware attention", ("model.attention=location",)),
    Technique("no_short_first", "first pass in random order", ("data.short_first=false",)),
)  # fmt: skip
