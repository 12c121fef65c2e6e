"""Decoding by words: the vocabulary proposes, decoder and CTC over characters choose."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from random_model import equal_words

from asr import word_decoder
from asr.config import FeatureConfig, ModelConfig, SearchConfig
from asr.decode import decode_batch
from asr.features import LogMel
from asr.hotwords import HotwordError
from asr.lexicon import Lexicon
from asr.model import EncoderOutput, SpeechModel
from asr.recurrent_lm import RecurrentWordLM
from asr.rescore import MixedWordLM, pick_utterance, score_by_attention, score_by_ctc
from asr.tokenizer import CharTokenizer
from asr.word_decoder import WordDecoder

LISTED = {"a": [1], "ab": [1, 2], "bad": [2, 1, 3], "dab": [3, 1, 2], "add": [1, 3]}
TOKENIZER = CharTokenizer(" abd")
SEARCH = SearchConfig(
    method="words", beam_size=200, lm_weight=0.8, word_bonus=0.5, rescore=6, rescore_weight=0.5
)


@pytest.fixture(scope="module")
def decoder() -> WordDecoder:
    return WordDecoder(Lexicon.fit("abd", LISTED), equal_words(tuple(LISTED)), TOKENIZER)


@pytest.fixture(scope="module")
def model() -> SpeechModel:
    torch.manual_seed(0)
    config = ModelConfig(
        conv_channels=(4, 4), encoder_layers=1, encoder_width=16, attention_width=8,
        attention_heads=2, embedding_width=8, decoder_width=16, phone_labels=4,
    )  # fmt: skip
    model = SpeechModel(config, num_mels=80, vocab_size=TOKENIZER.size)
    with torch.no_grad():  # a fresh network is sure of nothing
        for weights in model.parameters():
            weights.mul_(3.0)
    return model.eval()


@pytest.fixture(scope="module")
def encoded(model: SpeechModel) -> EncoderOutput:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        return model.encode(torch.randn(2, 60, 80, generator=generator), torch.tensor([60, 37]))


@torch.no_grad()
def test_the_list_is_weighed_by_decoder_and_ctc(
    decoder: WordDecoder, model: SpeechModel, encoded: EncoderOutput
) -> None:
    first = decoder(model, encoded, replace(SEARCH, rescore=0, nbest=6))
    second = decoder(model, encoded, replace(SEARCH, nbest=6))
    for index, (before, after) in enumerate(zip(first, second, strict=True)):
        alone = pick_utterance(encoded, index)
        rows = [h.tokens for h in before]
        log_probs = model.ctc_log_probs(alone)[0][0]
        said = 0.7 * score_by_attention(model.decoder, alone, rows)
        said += 0.3 * score_by_ctc(log_probs, rows)
        wanted = {h.tokens: h.score + 0.5 * s for h, s in zip(before, said.tolist(), strict=True)}
        assert {h.tokens for h in after} == set(wanted)
        assert [h.score for h in after] == pytest.approx(sorted(wanted.values(), reverse=True))
        assert [h.score for h in after] == pytest.approx([wanted[h.tokens] for h in after])


@torch.no_grad()
def test_texts_far_behind_are_not_weighed_again(
    decoder: WordDecoder, model: SpeechModel, encoded: EncoderOutput, monkeypatch: Any
) -> None:
    before = decoder(model, encoded, replace(SEARCH, rescore=0, nbest=6))[0]
    every = {h.tokens: h.score for h in decoder(model, encoded, replace(SEARCH, nbest=6))[0]}
    behind = before[0].score - (before[2].score + before[3].score) / 2  # three are nearer
    monkeypatch.setattr(word_decoder, "_HOPELESS", behind)
    some = {h.tokens: h.score for h in decoder(model, encoded, replace(SEARCH, nbest=6))[0]}
    near, far = before[:3], before[3:]
    assert far
    assert [some[h.tokens] for h in near] == pytest.approx([every[h.tokens] for h in near])
    worst = min(every[h.tokens] - h.score for h in near)
    assert [some[h.tokens] for h in far] == pytest.approx([h.score + worst for h in far])


@torch.no_grad()
def test_the_list_is_weighed_by_a_recurrent_model(
    decoder: WordDecoder, model: SpeechModel, encoded: EncoderOutput
) -> None:
    torch.manual_seed(1)
    recurrent = RecurrentWordLM(tuple(LISTED)[:3], 8, 8).eval()
    with_recurrent = replace(decoder, recurrent=recurrent)
    alone = replace(SEARCH, rescore_weight=0.0, recurrent_share=0.6, nbest=6)
    mixed = MixedWordLM(decoder.model, recurrent)
    before = decoder(model, encoded, alone)  # it has none
    for first, after in zip(before, with_recurrent(model, encoded, alone), strict=True):
        gains = mixed.gains([TOKENIZER.decode(h.tokens) for h in first], 0.6)
        wanted = {h.tokens: h.score + 0.8 * g for h, g in zip(first, gains, strict=True)}
        assert [h.score for h in after] == pytest.approx(sorted(wanted.values(), reverse=True))
        assert [h.score for h in after] == pytest.approx([wanted[h.tokens] for h in after])
    unheard = replace(alone, recurrent_share=0.0)
    assert with_recurrent(model, encoded, unheard) == before
    best = replace(alone, rescore=1)  # nothing to choose from
    assert with_recurrent(model, encoded, best) == decoder(model, encoded, best)


@torch.no_grad()
def test_texts_beyond_the_weighed_ones_stay_behind_in_their_order(
    decoder: WordDecoder, model: SpeechModel, encoded: EncoderOutput
) -> None:
    first = decoder(model, encoded, replace(SEARCH, rescore=0, nbest=8))
    second = decoder(model, encoded, replace(SEARCH, rescore=3, nbest=8))
    for before, after in zip(first, second, strict=True):
        order = [h.tokens for h in after]
        left = [h.tokens for h in before[3:]]
        assert len(order) == len(before)
        assert [tokens for tokens in order if tokens in left] == left


@torch.no_grad()
def test_hot_words_are_preferred(
    decoder: WordDecoder, model: SpeechModel, encoded: EncoderOutput
) -> None:
    plain = TOKENIZER.decode(decoder(model, encoded, SEARCH)[0][0].tokens)
    wish = next(word for word in LISTED if word not in plain.split())
    hot = replace(SEARCH, hotwords=(wish,), hotword_weight=20.0)
    assert wish in TOKENIZER.decode(decoder(model, encoded, hot)[0][0].tokens).split()


@torch.no_grad()
def test_hot_words_that_cannot_be_are_refused(
    decoder: WordDecoder, model: SpeechModel, encoded: EncoderOutput
) -> None:
    for wrong, message in ((" ", "no letter"), ("Dab", "character 'D'")):
        with pytest.raises(HotwordError, match=message):
            decoder(model, encoded, replace(SEARCH, hotwords=("dab", wrong)))


def test_hot_words_of_unknown_sound_join_the_vocabulary(decoder: WordDecoder) -> None:
    vocabulary = decoder.vocabulary_for(replace(SEARCH, hotwords=("dadab", "ab dab")))
    assert vocabulary.texts == (*LISTED, "dadab", "ab dab")
    assert decoder.vocabulary_for(SEARCH) is decoder.vocabulary


def test_unknown_words_of_the_own_spelling_cost_their_letters(decoder: WordDecoder) -> None:
    tokens = TOKENIZER.encode("bad dbab  a dbab abb")
    sure = [-0.1] * len(tokens)
    costs = {"dbab": pytest.approx(0.5 * -2.0 * 5), "abb": pytest.approx(0.5 * -2.0 * 4)}
    assert decoder._unknown(tokens, sure, 0.5) == costs
    assert decoder._unknown([TOKENIZER.sos_id, *tokens], [-9.0, *sure], 0.5) == costs
    doubted = [*sure[:-3], -0.1, -0.3, -0.1]  # the last word
    assert decoder._unknown(tokens, doubted, 0.5) == {"dbab": costs["dbab"]}


def test_a_batch_is_decoded_by_words(decoder: WordDecoder, model: SpeechModel) -> None:
    generator = torch.Generator().manual_seed(1)
    waveform = 0.3 * torch.randn(2, 16000, generator=generator)
    arguments = model, LogMel(FeatureConfig()), TOKENIZER, waveform, torch.tensor([16000, 9000])
    found = decode_batch(*arguments, replace(SEARCH, nbest=3), word_decoder=decoder, words=True)
    for heard in found:
        assert set(heard.text.split()) <= set(LISTED)
        assert [word.text for word in heard.words] == heard.text.split()
        assert heard.nbest[0].text == heard.text
        assert 1 <= len(heard.nbest) <= 3
    with pytest.raises(ValueError, match="no lexicon"):
        decode_batch(*arguments, SEARCH)
