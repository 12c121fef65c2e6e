"""Settings: defaults, files, overrides, and what is said when they are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asr.config import Config, ConfigError, config_from_dict, config_to_dict, load_config

REPOSITORY = Path(__file__).parents[1]
SHIPPED = sorted(REPOSITORY.glob("recipes/**/*.toml"))


def test_defaults_survive_json() -> None:
    config = Config()
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


def test_settings_of_older_versions_are_passed_over() -> None:
    assert config_from_dict({"search": {"hearings": 2, "beam_size": 7}}).search.beam_size == 7
    with pytest.raises(ConfigError, match="unknown setting search.hearing;"):
        config_from_dict({"search": {"hearing": 2}})


def test_file_then_overrides(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[model]\nencoder_layers = 2\n[train]\nlearning_rate = 1\n", encoding="utf-8")
    config = load_config(
        path, ["model.encoder_layers=3", "resume=true", "dev_manifests=a.jsonl,b.jsonl"]
    )
    assert config.model.encoder_layers == 3
    assert config.train.resume is True
    assert config.train.learning_rate == 1.0 and isinstance(config.train.learning_rate, float)
    assert config.data.dev_manifests == ("a.jsonl", "b.jsonl")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.encoder_layer=3",
            "unknown setting model.encoder_layer; did you mean 'encoder_layers'",
        ),
        ("resum=true", "unknown setting 'resum'; did you mean 'resume'"),
        ("modle.encoder_layers=3", "unknown section \\[modle\\]; did you mean 'model'"),
        ("model.encoder_layers=many", "model.encoder_layers: found 'many', wanted int"),
        ("model.encoder_layers=0", "model.encoder_layers: found 0, wanted more than 0"),
        (
            "augment.splice_seconds=-1",
            "augment.splice_seconds: found -1.0, wanted at least 0",
        ),
        (
            "model.encoder_cell=mamba",
            "model.encoder_cell: found 'mamba', wanted one of lstm, gru, rnn",
        ),
        ("train.ctc_weight=1.5", "train.ctc_weight: found 1.5, wanted 0 to 1"),
        (
            "ctc_weight=0.5",
            "stands in several sections; wanted train.ctc_weight or search.ctc_weight",
        ),
        ("nothing", "found no '='"),
        ("model.attention_width=255", "wanted a multiple of model.attention_heads"),
        ("model.conv_blocks=[1]", r"found \[1\], wanted \[\] or 2 numbers from 0 on"),
        ("model.conv_blocks=[1,-1]", r"found \[1, -1\], wanted \[\] or 2 numbers"),
        ("data.alphabet=aa", "each only once"),
    ],
)
def test_wrong_overrides_say_what_is_wanted(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, [override])


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="missing.toml: cannot be read"):
        load_config(tmp_path / "missing.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("[model\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(bad)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_every_shipped_configuration_builds_a_model(path: Path) -> None:
    from asr.checkpoint import build_model

    model, _, _ = build_model(load_config(path))
    assert sum(p.numel() for p in model.parameters()) > 0
