"""The second CTC head: its targets, its loss, and how it comes and goes with the lexicon."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from random_model import heard_words
from torch.nn import functional as F

from asr.batch import make_batch
from asr.checkpoint import build_model, load_model
from asr.config import Config, ModelConfig, TrainConfig
from asr.crf import crf_loss, label_trigram
from asr.ctc import greedy_decode
from asr.finetune import network_differences, take_weights
from asr.lexicon import Lexicon
from asr.loss import JointLoss, UpdateSize
from asr.model import SpeechModel
from asr.tokenizer import CharTokenizer
from asr.train import main
from asr.trainer import Trainer

Configure = Callable[..., Config]
CPU = torch.device("cpu")
# One phone a tone, and words as tones come in the corpus of the tests: any of a to d.
TONES = "a one\nb two\nc three\nd four\nab one two\nba two one\ncab three one two\n"


@pytest.fixture
def lexicon(tmp_path: Path) -> Path:
    path = tmp_path / "lexicon.txt"
    path.write_text(TONES, encoding="utf-8")
    return path


def test_batches_get_the_phones_of_their_texts(lexicon: Path) -> None:
    tokenizer, sounds = CharTokenizer(" abcd"), Lexicon.open(lexicon)
    waveforms = {0: torch.zeros(10), 1: torch.zeros(5)}
    batch = make_batch(waveforms, ["ab d", "c"], tokenizer, 16000)
    spoken = batch.with_phones(sounds, tokenizer)
    assert batch.phones is None
    names = [[sounds.phones[i - 1] for i in row if i] for row in spoken.phones.tolist()]
    assert names == [["one", "two", "four"], ["three"]]
    assert spoken.phone_lengths.tolist() == [3, 1]
    assert spoken.to(CPU).phones.equal(spoken.phones)


def test_the_loss_of_phones_joins_with_its_weight() -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        conv_channels=(4,), encoder_layers=1, encoder_width=8, attention_width=8,
        attention_heads=2, embedding_width=4, decoder_width=8, encoder_dropout=0.0,
        decoder_dropout=0.0, ctc_labels_per_frame=2, phone_labels=6,
    )  # fmt: skip
    train = TrainConfig(phone_weight=0.3)
    model = SpeechModel(config, num_mels=8, vocab_size=7)
    features, lengths = torch.randn(2, 40, 8), torch.tensor([40, 40])
    tokens, token_lengths = torch.tensor([[3, 4], [5, 0]]), torch.tensor([2, 1])
    phones, phone_lengths = torch.tensor([[1, 5, 2], [3, 0, 0]]), torch.tensor([3, 1])
    given = (features, lengths, tokens, token_lengths)
    end = (torch.tensor([True, True]), UpdateSize.of(3, 2, 1))
    trigram = label_trigram([[1, 5, 2], [3]], 6)
    for loss, decoder in itertools.product(
        (JointLoss(model, train), JointLoss(model, train, trigram)), (True, False)
    ):
        without = loss(*given, decoder, *end)
        losses = loss(*given, decoder, *end, phones, phone_lengths)
        log_probs, frames = model.phone_log_probs(model.encode(features, lengths))
        wanted = F.ctc_loss(
            log_probs.transpose(0, 1), phones, frames, phone_lengths, reduction="sum"
        )
        if loss.phone_trigram is not None:
            field = crf_loss(log_probs, frames, phones, phone_lengths, trigram)
            wanted = field.sum() + 0.1 * wanted
        assert losses.phone.item() == pytest.approx(wanted.item() / 3, rel=1e-4)
        assert without.phone.item() == 0.0
        added = losses.total.item() - without.total.item()
        assert added == pytest.approx(0.3 * losses.phone.item(), rel=1e-4)


def test_a_network_without_phones_says_so() -> None:
    model = SpeechModel(ModelConfig(encoder_layers=1, encoder_width=8), 80, 7)
    encoded = model.encode(torch.zeros(1, 20, 80), torch.tensor([20]))
    with pytest.raises(ValueError, match="knows no phones"):
        model.phone_log_probs(encoded)


def run(config: Config) -> Trainer:
    Path(config.train.output_dir).mkdir()
    trainer = Trainer(config, CPU)
    assert trainer.run() == 0
    return trainer


def with_lexicon(config: Config, lexicon: Path | str) -> Config:
    return replace(config, data=replace(config.data, lexicon=str(lexicon)))


def test_a_run_learns_phones_and_its_model_keeps_the_lexicon(
    configure: Configure, lexicon: Path
) -> None:
    config = with_lexicon(configure(max_steps=150, ctc_only_steps=150), lexicon)
    trainer = run(config)
    bundle = load_model(Path(config.train.output_dir) / "last")
    assert bundle.lexicon is not None
    assert bundle.lexicon.phones == ("four", "one", "three", "two")
    assert bundle.config.model.phone_labels == 5
    batch = trainer.dev_set[range(8)].with_phones(bundle.lexicon, trainer.tokenizer)
    with torch.no_grad():
        encoded = bundle.model.encode(*bundle.features(batch.waveform, batch.num_samples))
        heard = greedy_decode(*bundle.model.phone_log_probs(encoded))
    assert batch.phones is not None
    wanted = [[p for p in row if p] for row in batch.phones.tolist()]
    right = sum(one == other for one, other in zip(heard, wanted, strict=True))
    assert right >= 6, (heard, wanted)


def test_phones_are_trained_against_the_trigram_of_the_training_texts(
    configure: Configure, lexicon: Path
) -> None:
    config = with_lexicon(configure(), lexicon)
    trainer = Trainer(config, CPU)
    assert trainer.lexicon is not None
    texts = trainer.source.texts(1000)
    wanted = label_trigram(map(trainer.lexicon.encode, texts), 5)
    assert torch.equal(trainer.loss.phone_trigram, wanted)
    plain = Trainer(replace(config, train=replace(config.train, phone_loss="ctc")), CPU)
    assert plain.loss.phone_trigram is None


def test_the_head_may_join_stay_and_be_left_out(
    configure: Configure, lexicon: Path, tmp_path: Path
) -> None:
    plain = configure("plain", max_steps=1)
    run(plain)
    joined = with_lexicon(
        configure("joined", max_steps=1, init_from=f"{plain.train.output_dir}/last"), lexicon
    )
    run(joined)
    start = f"{joined.train.output_dir}/last"
    stays = Trainer(configure("stays", max_steps=1, init_from=start), CPU)  # lexicon of the start
    assert stays.lexicon is not None
    assert stays.model.phone_head is not None
    kept = load_model(start).model.phone_head
    assert kept is not None
    assert torch.equal(stays.model.phone_head.weight, kept.weight)
    other = configure("other", max_steps=1, init_from=start)
    other = replace(other, data=replace(other.data, alphabet="abcde"))
    assert Trainer(other, CPU).model.phone_head is None


def test_phones_that_begin_words_start_from_what_was_learned_of_them(
    configure: Configure, lexicon: Path, tmp_path: Path
) -> None:
    config = with_lexicon(configure("plain", max_steps=1), lexicon)
    config = replace(config, model=replace(config.model, phone_reader_width=8))
    run(config)
    start = load_model(f"{config.train.output_dir}/last")
    assert start.model.phone_reader is not None
    torch.nn.init.normal_(start.model.phone_reader.output.weight)
    Lexicon.open(lexicon).mark_initials().save(tmp_path / "marked.safetensors")
    marked = Lexicon.open(tmp_path / "marked.safetensors")
    changed = with_lexicon(config, tmp_path / "marked.safetensors")
    changed = replace(changed, model=replace(config.model, phone_labels=marked.num_labels))
    model, features, tokenizer = build_model(changed)
    take_weights(start, model, features, tokenizer, lexicon=marked)
    torch.manual_seed(1)
    heard = torch.randn(2, 60, changed.features.num_mels), torch.tensor([60, 40])
    with torch.no_grad():
        before, after = start.model.encode(*heard), model.eval().encode(*heard)
        wanted, lengths = start.model.phone_log_probs(before)
        found, found_lengths = model.phone_log_probs(after)
    assert network_differences(changed, start.config) == ["data.lexicon of 4 phones"]
    assert network_differences(changed, configure("none")) == [
        "data.lexicon=", "model.phone_reader_width=0"
    ]  # fmt: skip
    together = found[:, :, :5].exp()
    together[:, :, 1:] += found[:, :, 5:].exp()
    assert torch.equal(lengths, found_lengths)
    assert torch.allclose(together, wanted.exp(), atol=1e-6)
    assert before.phones_read is not None and after.phones_read is not None
    assert before.phones_read.any()
    assert torch.allclose(before.phones_read, after.phones_read, atol=1e-5)


def test_a_missing_lexicon_is_one_line(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure()
    (manifest,) = config.data.train_manifests
    settings = tmp_path / "config.toml"
    settings.write_text(
        f'[data]\ntrain_manifests = ["{manifest}"]\nalphabet = "abcd"\n'
        f'lexicon = "{tmp_path}/none.txt"\n[train]\noutput_dir = "{tmp_path}/run"\n',
        encoding="utf-8",
    )
    assert main([str(settings)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "none.txt" in error


def test_a_run_learns_from_texts_and_goes_on_from_them(
    configure: Configure, lexicon: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("ab cab\nd ba a\n" * 20, encoding="utf-8")
    config = with_lexicon(configure(max_steps=3, ctc_only_steps=1, log_every=1), lexicon)
    heard = tmp_path / "heard.safetensors"
    heard_words(Lexicon.open(lexicon), ["ab cab", "d ba a"]).save(heard)
    config = replace(
        config,
        data=replace(config.data, spoken_texts=(str(text),), heard_phones=str(heard)),
        model=replace(config.model, phone_reader_width=8),
        train=replace(config.train, text_characters=60),
    )
    run(config)
    log = (Path(config.train.output_dir) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [row["text"] for row in map(json.loads, log) if row["kind"] == "train"]
    assert losses[0] == 0 and losses[1] > 0  # nothing while the decoder waits
    bundle = load_model(Path(config.train.output_dir) / "last")
    assert bundle.model.phone_reader is not None
    assert bundle.model.phone_reader.output.weight.any()
    again = replace(
        config.train, max_steps=4, init_from=str(bundle.directory), output_dir=f"{tmp_path}/b"
    )
    without = replace(config, train=again, data=replace(config.data, spoken_texts=()))
    run(without)
    blind = replace(config, model=replace(config.model, phone_reader_width=0))
    with pytest.raises(ValueError, match="data.spoken_texts: found .* wanted model.phone_reader"):
        Trainer(blind, CPU)
    for change, message in (
        ({"spoken_texts": (f"{tmp_path}/none.txt",)}, "data.spoken_texts: .*none.txt"),
        ({"heard_phones": ""}, "wanted a file of scripts/collect_heard.py"),
        ({"heard_phones": str(text)}, "text.txt: not a file of heard phones"),
    ):
        missing = replace(config.data, **change)
        with pytest.raises(ValueError, match=message):
            Trainer(replace(config, data=missing), CPU)
