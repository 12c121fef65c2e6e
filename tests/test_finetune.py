"""Starting from a trained model: what is taken over, what is new, and what stays as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from asr.checkpoint import (
    DEFAULT_MODEL,
    LANGUAGE_MODEL,
    build_model,
    load_model,
    load_state,
    save_model,
)
from asr.config import Config
from asr.finetune import freeze, network_differences, take_weights
from asr.train import train
from asr.trainer import Trainer

Configure = Callable[..., Config]
CPU = torch.device("cpu")


@pytest.fixture
def start(configure: Configure, tmp_path: Path) -> Path:
    """Return a model directory of the alphabet "abcd"."""
    torch.manual_seed(5)
    config = configure()
    model, features, tokenizer = build_model(config)
    features.mean.fill_(3.0)
    save_model(tmp_path / "start", model, features, tokenizer, config)
    return tmp_path / "start"


def with_alphabet(config: Config, alphabet: str) -> Config:
    return replace(config, data=replace(config.data, alphabet=alphabet))


def test_the_same_alphabet_takes_everything(configure: Configure, start: Path) -> None:
    trainer = Trainer(configure(init_from=str(start)), CPU)
    expected = load_model(start)
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, expected.model.state_dict()[name]), name
    assert torch.equal(trainer.features.mean, expected.features.mean)


def test_another_alphabet_keeps_what_both_know(configure: Configure, start: Path) -> None:
    config = with_alphabet(configure(), "dxbca")  # other order, one character more
    config = replace(config, model=replace(config.model, ctc_labels_per_frame=1))
    bundle = load_model(start)
    model, features, tokenizer = build_model(config)
    fresh = {name: t.clone() for name, t in model.state_dict().items()}
    assert "1 characters are new" in take_weights(bundle, model, features, tokenizer)
    for char in "abcd":
        ours, theirs = tokenizer.encode(char)[0], bundle.tokenizer.encode(char)[0]
        for name in ("ctc_head.weight", "ctc_head.bias", "decoder.embedding.weight"):
            row = bundle.model.state_dict()[name][theirs]
            assert torch.equal(model.state_dict()[name][ours], row), (name, char)
    new = tokenizer.encode("x")[0]
    for name in ("ctc_head.weight", "decoder.output.bias"):
        assert torch.equal(model.state_dict()[name][new], fresh[name][new])
    for special in (tokenizer.blank_id, tokenizer.sos_id, tokenizer.eos_id):
        expected = bundle.model.decoder.output.bias[special]
        assert torch.equal(model.decoder.output.bias[special], expected)


def test_several_ctc_labels_a_frame_are_taken_label_by_label(
    configure: Configure, tmp_path: Path
) -> None:
    config = configure()
    config = replace(config, model=replace(config.model, ctc_labels_per_frame=2))
    model, features, tokenizer = build_model(config)
    save_model(tmp_path / "two", model, features, tokenizer, config)
    other, features, longer = build_model(with_alphabet(config, "abcde"))
    take_weights(load_model(tmp_path / "two"), other, features, longer)
    frame = torch.randn(config.model.encoder_width * 2)
    ours = other.ctc_head(frame).unflatten(0, (2, -1))[:, : tokenizer.size]
    torch.testing.assert_close(ours, model.ctc_head(frame).unflatten(0, (2, -1)))


def test_new_blocks_of_the_front_end_change_nothing_and_learned_ones_stay(
    configure: Configure, start: Path, tmp_path: Path
) -> None:
    config = configure(init_from=str(start))
    grown = replace(config, model=replace(config.model, conv_blocks=(1, 2)))
    trainer = Trainer(grown, CPU)
    features, lengths = torch.randn(2, 50, config.features.num_mels), torch.tensor([50, 31])
    with torch.no_grad():
        before = load_model(start).model.encode(features, lengths)
        after = trainer.model.eval().encode(features, lengths)
    assert torch.allclose(before.encoder_out, after.encoder_out, atol=1e-6)
    for blocks in trainer.model.encoder.front_end.blocks:
        for block in blocks:  # learns something
            torch.nn.init.normal_(block.narrow.weight)
    parts = (trainer.model, trainer.features, trainer.tokenizer, grown)
    save_model(tmp_path / "grown", *parts)
    again = configure(init_from=str(tmp_path / "grown"))
    more = Trainer(replace(again, model=replace(again.model, conv_blocks=(2, 2))), CPU)
    assert [len(blocks) for blocks in more.model.encoder.front_end.blocks] == [2, 2]
    with torch.no_grad():
        learned = trainer.model.encode(features, lengths).encoder_out
        kept = more.model.eval().encode(features, lengths).encoder_out
    assert not torch.allclose(learned, after.encoder_out, atol=1e-2)
    assert torch.allclose(kept, learned, atol=1e-5)
    for fewer in ((), (2, 1)):
        with pytest.raises(ValueError, match="another network; wanted model.conv_blocks"):
            Trainer(replace(again, model=replace(again.model, conv_blocks=fewer)), CPU)


def test_another_network_is_refused_and_named(configure: Configure, start: Path) -> None:
    config = configure(init_from=str(start))
    config = replace(config, model=replace(config.model, encoder_width=64, encoder_dropout=0.5))
    assert network_differences(config, load_model(start).config) == ["model.encoder_width=32"]
    with pytest.raises(ValueError, match="another network; wanted model.encoder_width=32"):
        Trainer(config, CPU)


def test_parts_are_taken_and_all_else_may_be_another_network(
    configure: Configure, start: Path
) -> None:
    config = configure(init_from=str(start), init_only=("encoder", "ctc_head"))
    other = replace(config, model=replace(config.model, decoder_width=24, decoder_layers=1))
    trainer = Trainer(other, CPU)
    assert "(encoder, ctc_head)" in trainer.messages[0]
    expected = load_model(start).model.state_dict()
    state = trainer.model.state_dict()
    for name, tensor in state.items():
        if name.startswith(("encoder.", "ctc_head.")):
            assert torch.equal(tensor, expected[name]), name
    assert not torch.equal(state["decoder.embedding.weight"], expected["decoder.embedding.weight"])


@pytest.mark.parametrize(
    ("only", "changes", "message"),
    [
        (("encoder",), {"encoder_width": 24}, "encoder.layers.0.*found weights of .* wanted"),
        (("ctc_head",), {"encoder_width": 24}, "train.init_only: ctc_head.weight: found"),
        (("ctc_head",), {"ctc_labels_per_frame": 3}, "ctc_head.weight: found weights of"),
        (("encode",), {}, "train.init_only: found no weights 'encode', wanted names as 'encoder'"),
    ],
)
def test_parts_that_do_not_fit_are_named(
    configure: Configure, start: Path, only: tuple[str, ...], changes: dict[str, Any], message: str
) -> None:
    config = configure(init_from=str(start), init_only=only)
    with pytest.raises(ValueError, match=message):
        Trainer(replace(config, model=replace(config.model, **changes)), CPU)


def test_parts_of_nothing_are_refused(configure: Configure) -> None:
    with pytest.raises(ValueError, match="train.init_only: found names without train.init_from"):
        Trainer(configure(init_only=("encoder",)), CPU)


def test_frozen_parts_stay_and_the_rest_learns(configure: Configure, start: Path) -> None:
    config = configure("frozen", init_from=str(start), max_steps=3)
    config = replace(
        config, train=replace(config.train, freeze=("encoder.front_end", "decoder.rnn"))
    )
    before = load_model(start).model.state_dict()
    train(config)
    after = load_model(Path(config.train.output_dir) / "last").model.state_dict()
    for name, tensor in after.items():
        frozen = name.startswith(("encoder.front_end.", "decoder.rnn."))
        # The position's part of a key learns nothing from so few steps of bare tones.
        if frozen or "bias" not in name:
            assert torch.equal(tensor, before[name]) == frozen, name


def test_a_resumed_run_starts_from_its_own_state(configure: Configure, start: Path) -> None:
    config = configure("run", init_from=str(start), max_steps=2)
    train(config)
    resumed = replace(config, train=replace(config.train, resume=True, max_steps=3))
    trainer = Trainer(resumed, CPU)
    assert trainer.progress.step == 2 and not trainer.messages
    state = load_state(Path(config.train.output_dir) / "state.pt")[0]["model"]
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize(
    ("prefixes", "message"),
    [
        (("encoder.frontend",), "no weights 'encoder.frontend', wanted .* 'encoder.front_end'"),
        (("encoder.front",), "found no weights 'encoder.front'"),
        (("encoder", "decoder", "ctc_head"), "found every weight frozen"),
    ],
)
def test_what_cannot_be_frozen_is_said(
    configure: Configure, prefixes: tuple[str, ...], message: str
) -> None:
    model, _, _ = build_model(configure())
    with pytest.raises(ValueError, match=message):
        freeze(model, prefixes)


def test_the_language_model_of_the_start_goes_along(configure: Configure, start: Path) -> None:
    shutil.copy(DEFAULT_MODEL / LANGUAGE_MODEL, start)
    config = configure("same", init_from=str(start), max_steps=1)
    train(config)
    assert load_model(Path(config.train.output_dir) / "last").language_model is not None
    other = with_alphabet(configure("other", init_from=str(start), max_steps=1), "abcde")
    train(other)
    assert load_model(Path(other.train.output_dir) / "last").language_model is None
