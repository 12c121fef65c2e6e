"""From a batch of waveforms to texts: features, encoder, search, characters, words.

Validation in training, `asr.transcribe` and `asr.benchmark` all decode here, so that a figure
measured by one holds for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from asr.align import WordSpan, align_recordings
from asr.confidence import ConfidenceModel, word_features
from asr.config import SearchConfig
from asr.ctc import CTCPrefixScorer, greedy_decode
from asr.features import LogMel
from asr.hotwords import HotwordScorer
from asr.lm import CharNgramLM, LanguageModelScorer
from asr.model import EncoderOutput, SpeechModel
from asr.precision import recognition_dtype
from asr.search import Hypothesis, Scorer, beam_search, greedy_search
from asr.stepper import AttentionScorer
from asr.tokenizer import CharTokenizer
from asr.transcript import Alternative, Segment, Word
from asr.word_decoder import WordDecoder

# A prefix so many nats behind a finished text does not catch up; without this bound, a length
# bonus keeps the search going to `max_tokens`.
_END_MARGIN = 20.0
NO_WORDS = "the model has no lexicon or no language model of words, wanted both"


@dataclass(frozen=True, slots=True)
class Recognition:
    """What was heard in one short recording.

    Attributes:
        text: The best text.
        words: Its words, in seconds from the start of the recording; empty if not asked for.
        nbest: The best texts, `text` first, each once; empty unless `search.nbest` is above 1.
    """

    text: str
    words: tuple[Word, ...] = ()
    nbest: tuple[Alternative, ...] = ()

    @property
    def confidence(self) -> float | None:
        """The expected share of right words; None without words."""
        if not self.words:
            return None
        return sum(word.confidence for word in self.words) / len(self.words)

    def to_segment(self, start: float, end: float) -> Segment:
        """Return it as the piece from `start` to `end`, seconds, of a longer recording."""
        words = tuple(
            Word(
                word.text,
                min(start + word.start, end),
                min(start + word.end, end),
                word.confidence,
            )
            for word in self.words
        )
        return Segment(start, end, self.text, words, self.confidence, self.nbest)


@torch.inference_mode()
def encode_batch(
    model: SpeechModel,
    features: LogMel,
    waveform: Tensor,
    num_samples: Tensor,
    for_decoder: bool = True,
) -> EncoderOutput:
    """Encode a batch once, for `decode_batch` to decode in several ways.

    Arguments are as there, and `for_decoder` as for `SpeechModel.encode`. Dropout is off meanwhile.
    """
    was_training, dtype = model.training, recognition_dtype(waveform.device)
    model.eval()
    try:
        frames, counts = features(waveform, num_samples)
        with torch.autocast(waveform.device.type, dtype, enabled=dtype != torch.float32):
            encoded = model.encode(frames, counts, for_decoder)
    finally:
        model.train(was_training)
    read = encoded.phones_read
    return EncoderOutput(
        encoded.encoder_out.float(),
        encoded.encoder_out_lengths,
        encoded.final_state.float(),
        None if read is None else read.float(),
    )


@torch.inference_mode()
def decode_batch(
    model: SpeechModel,
    features: LogMel,
    tokenizer: CharTokenizer,
    waveform: Tensor,
    num_samples: Tensor,
    search: SearchConfig,
    language_model: CharNgramLM | None = None,
    confidence: ConfidenceModel | None = None,
    word_decoder: WordDecoder | None = None,
    *,
    words: bool = False,
    encoded: EncoderOutput | None = None,
) -> list[Recognition]:
    """Recognise a batch of short recordings.

    Dropout is off meanwhile, whatever mode the model is in.

    Args:
        model: The network.
        features: Its features, on the same device.
        tokenizer: Its characters.
        waveform: (B, N) float in -1..1, zero behind each waveform's own end, on that device.
        num_samples: (B,) samples of each waveform.
        search: "ctc" takes the best label of each frame, "greedy" the best next character of
            the decoder, "beam" weighs both along `beam_size` prefixes. With a `ctc_weight` of
            1 the decoder is not run, with 0 CTC is not run. "words" is `WordDecoder`'s.
        language_model: Joins the beam with `lm_weight`.
        confidence: Says how sure the words are. Without it, that is CTC's own opinion: the mean
            probability of a word's characters on the best path, which is no calibrated one.
        word_decoder: Searches for whole words, with the method "words".
        words: Whether to find the times and confidences of words.
        encoded: What `encode_batch` made of the batch, where it is decoded in several ways.

    Returns:
        B results.

    Raises:
        ValueError: Several texts or hot words are wanted of greedy search, words without a
            `word_decoder`, or a hot word cannot be spelled.
    """
    if search.method in ("ctc", "greedy") and (search.nbest > 1 or search.hotwords):
        wish = f"{search.nbest} texts" if search.nbest > 1 else "hot words"
        raise ValueError(f"search method {search.method!r}: found a wish for {wish}, wanted 'beam'")
    if search.method == "words" and word_decoder is None:
        raise ValueError(f"search method 'words': {NO_WORDS}")
    was_training = model.training
    model.eval()
    try:
        if encoded is None:
            decodes = _runs_decoder(search) or (words and confidence is not None)
            encoded = encode_batch(model, features, waveform, num_samples, decodes)
        seconds = num_samples / features.config.sample_rate
        # One more, so that even the shortest sound may be a character.
        max_tokens = (seconds * search.max_chars_per_second).long() + 1
        if search.method == "words" and word_decoder is not None:
            found = word_decoder(model, encoded, search)
        else:
            found = _search(model, encoded, max_tokens, tokenizer, search, language_model)
        nbest = [_alternatives(hypotheses, tokenizer) for hypotheses in found]
        texts = [alternatives[0].text for alternatives in nbest]
        said: list[tuple[Word, ...]] = [()] * len(texts)
        if words:
            spans = align_recordings(
                model, features, tokenizer, encoded, waveform, num_samples, texts
            )
            lists = None
            if search.method == "words" and search.rescore > 1:
                lists = [alternatives[: search.rescore] for alternatives in nbest]
            said = _judge_words(model, encoded, spans, tokenizer, language_model, confidence, lists)
    finally:
        model.train(was_training)
    return [
        Recognition(text, heard, alternatives[: search.nbest] if search.nbest > 1 else ())
        for text, heard, alternatives in zip(texts, said, nbest, strict=True)
    ]


def _runs_decoder(search: SearchConfig) -> bool:
    if search.method == "words":
        return search.rescore > 1 and search.rescore_weight > 0
    return search.method == "greedy" or (search.method == "beam" and search.ctc_weight < 1)


def _alternatives(
    hypotheses: list[Hypothesis], tokenizer: CharTokenizer
) -> tuple[Alternative, ...]:
    """Return the texts of an utterance, best first, each once."""
    scores: dict[str, float] = {}
    for hypothesis in hypotheses:
        # A search may put spaces where a reader would not: at an end, or two in a row.
        text = " ".join(tokenizer.decode(hypothesis.tokens).split())
        scores.setdefault(text, hypothesis.score)
    return tuple(Alternative(text, score) for text, score in scores.items())


def _judge_words(
    model: SpeechModel,
    encoded: EncoderOutput,
    utterances: list[list[WordSpan]],
    tokenizer: CharTokenizer,
    language_model: CharNgramLM | None,
    confidence: ConfidenceModel | None,
    found: Sequence[Sequence[Alternative]] | None,
) -> list[tuple[Word, ...]]:
    """Add to the words of each utterance how sure they are."""
    if confidence is None:
        scores = torch.tensor([span.score for spans in utterances for span in spans])
        sure = iter(scores.exp().clamp(max=1.0).tolist())
    else:
        table = word_features(model.decoder, encoded, utterances, tokenizer, language_model, found)
        sure = iter(confidence(table).tolist())
    return [
        tuple(Word(span.text, span.start, span.end, next(sure)) for span in spans)
        for spans in utterances
    ]


def _search(
    model: SpeechModel,
    encoded: EncoderOutput,
    max_tokens: Tensor,
    tokenizer: CharTokenizer,
    search: SearchConfig,
    language_model: CharNgramLM | None,
) -> list[list[Hypothesis]]:
    """Return the best hypotheses of each utterance, at least one."""
    batch_size = len(max_tokens)
    sos_id, eos_id, blank_id = tokenizer.sos_id, tokenizer.eos_id, tokenizer.blank_id
    if search.method == "ctc":
        rows = greedy_decode(*model.ctc_log_probs(encoded), blank_id=blank_id)
        return [[Hypothesis(tuple(tokens), 0.0)] for tokens in rows]
    if search.method == "greedy":
        scorer = AttentionScorer(model.decoder, encoded)
        best = greedy_search(scorer, batch_size, max_tokens, sos_id, eos_id, (blank_id, sos_id))
        return [[hypothesis] for hypothesis in best]
    scorers: list[tuple[Scorer, float]] = []
    if search.ctc_weight < 1.0:
        scorers.append((AttentionScorer(model.decoder, encoded), 1.0 - search.ctc_weight))
    if search.ctc_weight > 0.0:
        log_probs, lengths = model.ctc_log_probs(encoded)
        scorers.append((CTCPrefixScorer(log_probs, lengths, blank_id, eos_id), search.ctc_weight))
    if language_model is not None and search.lm_weight > 0.0:
        scorer_of_text = LanguageModelScorer(
            language_model, tokenizer, batch_size, max_tokens.device
        )
        scorers.append((scorer_of_text, search.lm_weight))
    length_bonus = search.length_bonus
    if search.hotwords:
        hotwords = HotwordScorer(
            search.hotwords, search.hotword_weight, tokenizer, batch_size, max_tokens.device
        )
        scorers.append((hotwords, 1.0))
        length_bonus += hotwords.bonus
    return beam_search(
        scorers,
        batch_size,
        max_tokens,
        beam_size=search.beam_size,
        sos_id=sos_id,
        eos_id=eos_id,
        blocked_ids=(blank_id, sos_id),
        length_bonus=length_bonus,
        nbest=search.nbest,
        end_margin=_END_MARGIN,
    )
