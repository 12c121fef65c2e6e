"""Decoding a batch: every method, and no utterance depends on its neighbours."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.confidence import FEATURES, ConfidenceModel
from asr.config import FeatureConfig, ModelConfig, SearchConfig
from asr.decode import decode_batch, encode_batch
from asr.features import LogMel
from asr.lm import CharNgramLM, Contexts
from asr.model import SpeechModel
from asr.precision import has_bfloat16, recognition_dtype
from asr.tokenizer import CharTokenizer

SEARCHES = {
    "ctc": SearchConfig(method="ctc"),
    "greedy": SearchConfig(method="greedy"),
    "beam": SearchConfig(method="beam", beam_size=3),
    "beam of CTC alone": SearchConfig(method="beam", beam_size=3, ctc_weight=1.0),
    "beam of attention alone": SearchConfig(method="beam", beam_size=3, ctc_weight=0.0),
}


@pytest.fixture(scope="module")
def parts() -> tuple[SpeechModel, LogMel, CharTokenizer]:
    torch.manual_seed(0)
    tokenizer = CharTokenizer(" abc")
    config = ModelConfig(
        conv_channels=(4, 4),
        encoder_layers=1,
        encoder_width=16,
        attention_width=8,
        attention_heads=2,
        embedding_width=8,
        decoder_width=16,
    )
    model = SpeechModel(config, num_mels=20, vocab_size=tokenizer.size)
    with torch.no_grad():  # a fresh network is sure of nothing; ties would hide differences
        for weights in model.parameters():
            weights.mul_(3.0)
    return model.eval(), LogMel(FeatureConfig(num_mels=20)), tokenizer


@pytest.fixture(scope="module")
def waveforms() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [0.3 * torch.randn(n, generator=generator) for n in (9000, 16000, 21337, 1)]


def pad(waveforms: list[Tensor]) -> tuple[Tensor, Tensor]:
    padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    return padded, torch.tensor([len(w) for w in waveforms])


def texts_of(*arguments: Any) -> list[str]:
    return [heard.text for heard in decode_batch(*arguments)]


@pytest.mark.parametrize("name", SEARCHES)
def test_a_batch_gives_what_single_utterances_give(
    name: str, parts: tuple[SpeechModel, LogMel, CharTokenizer], waveforms: list[Tensor]
) -> None:
    together = texts_of(*parts, *pad(waveforms), SEARCHES[name])
    alone = [texts_of(*parts, *pad([w]), SEARCHES[name])[0] for w in waveforms]
    assert together == alone
    assert len(together) == len(waveforms)
    assert any(together)
    assert all(set(text) <= set(" abc") and text == text.strip() for text in together)


@pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="no bfloat16 in this CPU")
def test_the_encoder_may_compute_in_bfloat16(
    parts: tuple[SpeechModel, LogMel, CharTokenizer], waveforms: list[Tensor], monkeypatch: Any
) -> None:
    model, features, _ = parts
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr("asr.decode.recognition_dtype", lambda _, dtype=dtype: dtype)
        found[dtype] = encode_batch(model, features, *pad(waveforms)).encoder_out
    single, half = found.values()
    assert half.dtype == torch.float32
    assert not torch.equal(single, half)
    assert (half - single).abs().mean() < 0.01 * single.abs().mean()


@pytest.mark.parametrize(
    ("device", "processor", "wanted"),
    [
        ("cpu", {"architecture": "x86_64", "avx512_bf16": True}, torch.bfloat16),
        ("cpu", {"architecture": "x86_64", "avx512_bf16": False}, torch.float32),
        ("cpu", {"architecture": "aarch64"}, torch.float32),
        ("cuda", {"architecture": "x86_64", "avx512_bf16": True}, torch.float32),
    ],
)
def test_bfloat16_is_for_cpus_that_have_it(
    device: str, processor: dict[str, Any], wanted: torch.dtype, monkeypatch: Any
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    assert recognition_dtype(torch.device(device)) == wanted


@pytest.mark.parametrize("name", [name for name in SEARCHES if name != "ctc"])
def test_texts_are_never_longer_than_speech_can_be(
    name: str, parts: tuple[SpeechModel, LogMel, CharTokenizer], waveforms: list[Tensor]
) -> None:
    search = replace(SEARCHES[name], max_chars_per_second=2.0)
    texts = texts_of(*parts, *pad(waveforms), search)
    for text, waveform in zip(texts, waveforms, strict=True):
        assert len(text) <= 2.0 * len(waveform) / 16000 + 1


def test_a_weight_of_zero_or_one_runs_one_scorer_only(
    parts: tuple[SpeechModel, LogMel, CharTokenizer],
    waveforms: list[Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = parts[0]

    def never(*_: object) -> None:
        raise AssertionError("not wanted here")

    with monkeypatch.context() as patch:
        patch.setattr(model.decoder, "forward", never)
        patch.setattr(model.decoder, "start", never)
        texts_of(*parts, *pad(waveforms), SEARCHES["beam of CTC alone"])
        texts_of(*parts, *pad(waveforms), SEARCHES["ctc"])
    with monkeypatch.context() as patch:
        patch.setattr(model, "ctc_log_probs", never)
        texts_of(*parts, *pad(waveforms), SEARCHES["beam of attention alone"])
        texts_of(*parts, *pad(waveforms), SEARCHES["greedy"])


def test_dropout_is_off_and_the_mode_comes_back(
    parts: tuple[SpeechModel, LogMel, CharTokenizer], waveforms: list[Tensor]
) -> None:
    model = parts[0]
    wanted = texts_of(*parts, *pad(waveforms), SEARCHES["greedy"])
    model.train()
    try:
        assert texts_of(*parts, *pad(waveforms), SEARCHES["greedy"]) == wanted
        assert model.training
    finally:
        model.eval()
    texts_of(*parts, *pad(waveforms), SEARCHES["greedy"])
    assert not model.training


def test_a_wide_beam_is_no_worse_than_greedy_by_its_own_score(
    parts: tuple[SpeechModel, LogMel, CharTokenizer], waveforms: list[Tensor]
) -> None:
    model, features, tokenizer = parts

    def score(texts: list[str]) -> list[float]:
        """Sum the decoder's log-probabilities of each text, teacher forced."""
        totals = []
        for text, waveform in zip(texts, waveforms, strict=True):
            encoded = model.encode(*features(*pad([waveform])))
            ids = [*tokenizer.encode(text), tokenizer.eos_id]
            given = torch.tensor([[tokenizer.sos_id, *ids[:-1]]])
            log_probs = model.decoder(given, encoded)[0].log_softmax(2)
            totals.append(sum(float(log_probs[0, i, token]) for i, token in enumerate(ids)))
        return totals

    with torch.inference_mode():
        greedy = score(texts_of(*parts, *pad(waveforms), SEARCHES["greedy"]))
        wide = replace(SEARCHES["beam of attention alone"], beam_size=20)
        beam = score(texts_of(*parts, *pad(waveforms), wide))
    # Texts that were cut at the longest length, or cleaned of spaces, leave a little play.
    assert all(b >= g - 1.0 for g, b in zip(greedy, beam, strict=True))


def test_the_language_model_pulls_towards_its_text(
    parts: tuple[SpeechModel, LogMel, CharTokenizer], waveforms: list[Tensor]
) -> None:
    steps = torch.tensor([240, 240, 240, 1], dtype=torch.uint8)  # " abc": hardly anything but c
    unigrams = Contexts(
        torch.zeros(1, dtype=torch.int64),
        torch.tensor([15], dtype=torch.int32),
        torch.zeros(1, dtype=torch.uint8),
        steps,
    )
    language_model = CharNgramLM(" abc", [unigrams])
    search = replace(SEARCHES["beam"], lm_weight=1.0, length_bonus=1.0)
    plain = "".join(texts_of(*parts, *pad(waveforms), search))
    texts = texts_of(*parts, *pad(waveforms), search, language_model)
    pulled = "".join(texts)
    assert pulled.count("c") > 0.9 * len(pulled) > 0
    assert plain.count("c") < 0.9 * len(plain)
    alone = [texts_of(*parts, *pad([w]), search, language_model)[0] for w in waveforms]
    assert alone == texts


def test_the_n_best_texts_come_in_order_and_once(
    parts: tuple[SpeechModel, LogMel, CharTokenizer], waveforms: list[Tensor]
) -> None:
    search = replace(SEARCHES["beam"], beam_size=8, nbest=5)
    best = texts_of(*parts, *pad(waveforms), replace(search, nbest=1))
    for heard, text in zip(decode_batch(*parts, *pad(waveforms), search), best, strict=True):
        texts = [other.text for other in heard.nbest]
        scores = [other.score for other in heard.nbest]
        assert heard.text == texts[0] == text
        assert 1 <= len(texts) <= 5 and len(set(texts)) == len(texts)
        assert scores == sorted(scores, reverse=True)
    assert all(r.nbest == () for r in decode_batch(*parts, *pad(waveforms), SEARCHES["beam"]))


def test_hot_words_are_heard(
    parts: tuple[SpeechModel, LogMel, CharTokenizer], waveforms: list[Tensor]
) -> None:
    search = SEARCHES["beam"]
    plain = " ".join(texts_of(*parts, *pad(waveforms), search)).split()
    hot = replace(search, hotwords=("cab", "ba cab"), hotword_weight=6.0)
    texts = texts_of(*parts, *pad(waveforms), hot)
    assert " ".join(texts).split().count("cab") > plain.count("cab")
    assert texts == [texts_of(*parts, *pad([w]), hot)[0] for w in waveforms]
    weightless = replace(hot, hotword_weight=0.0)
    assert " ".join(texts_of(*parts, *pad(waveforms), weightless)).split() == plain


@pytest.mark.parametrize("wish", [{"nbest": 3}, {"hotwords": ("cab",)}])
@pytest.mark.parametrize("method", ["ctc", "greedy"])
def test_only_a_beam_has_alternatives_and_hot_words(
    method: str,
    wish: dict[str, Any],
    parts: tuple[SpeechModel, LogMel, CharTokenizer],
    waveforms: list[Tensor],
) -> None:
    with pytest.raises(ValueError, match=rf"method '{method}': found a wish for .*, wanted 'beam'"):
        decode_batch(*parts, *pad(waveforms), replace(SEARCHES[method], **wish))


@pytest.mark.parametrize("name", SEARCHES)
def test_words_have_times_and_confidences(
    name: str, parts: tuple[SpeechModel, LogMel, CharTokenizer], waveforms: list[Tensor]
) -> None:
    model = ConfidenceModel((0.5,) + (0.0,) * (len(FEATURES) - 1), 1.0)
    for confidence in (None, model):
        found = decode_batch(
            *parts, *pad(waveforms), SEARCHES[name], confidence=confidence, words=True
        )
        for heard, waveform in zip(found, waveforms, strict=True):
            assert " ".join(word.text for word in heard.words) == heard.text
            times = [time for word in heard.words for time in (word.start, word.end)]
            assert times == sorted(times) and all(0 <= t <= len(waveform) / 16000 for t in times)
            assert all(0 < word.confidence < 1 for word in heard.words)
            if heard.words:
                mean = sum(word.confidence for word in heard.words) / len(heard.words)
                assert heard.confidence == pytest.approx(mean)
