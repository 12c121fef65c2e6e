"""From a batch of waveforms to texts: features, encoder, search, characters.

Validation in training, `asr.transcribe` and `asr.benchmark` all decode here, so that a figure
measured by one holds for the others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from asr.config import SearchConfig
from asr.ctc import CTCPrefixScorer, greedy_decode
from asr.features import LogMel
from asr.lm import CharNgramLM, LanguageModelScorer
from asr.model import AttentionScorer, EncoderOutput, SpeechModel
from asr.search import Scorer, beam_search, greedy_search
from asr.tokenizer import CharTokenizer

# A prefix so many nats behind a finished text does not catch up; without this bound, a length
# bonus keeps the search going to `max_tokens`.
_END_MARGIN = 20.0


@torch.inference_mode()
def decode_batch(
    model: SpeechModel,
    features: LogMel,
    tokenizer: CharTokenizer,
    waveform: Tensor,
    num_samples: Tensor,
    search: SearchConfig,
    language_model: CharNgramLM | None = None,
) -> list[str]:
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
            1 the decoder is not run, with 0 CTC is not run.
        language_model: Joins the beam with `lm_weight`.

    Returns:
        B texts.
    """
    was_training = model.training
    model.eval()
    try:
        encoded = model.encode(*features(waveform, num_samples))
        seconds = num_samples / features.config.sample_rate
        # One more, so that even the shortest sound may be a character.
        max_tokens = (seconds * search.max_chars_per_second).long() + 1
        tokens = _search_tokens(model, encoded, max_tokens, tokenizer, search, language_model)
    finally:
        model.train(was_training)
    # A search may put spaces where a reader would not: at an end, or two in a row.
    return [" ".join(tokenizer.decode(ids).split()) for ids in tokens]


def _search_tokens(
    model: SpeechModel,
    encoded: EncoderOutput,
    max_tokens: Tensor,
    tokenizer: CharTokenizer,
    search: SearchConfig,
    language_model: CharNgramLM | None,
) -> list[list[int]]:
    """Return the best token ids of each utterance."""
    batch_size = len(max_tokens)
    sos_id, eos_id, blank_id = tokenizer.sos_id, tokenizer.eos_id, tokenizer.blank_id
    if search.method == "ctc":
        return greedy_decode(*model.ctc_log_probs(encoded), blank_id=blank_id)
    if search.method == "greedy":
        scorer = AttentionScorer(model.decoder, encoded)
        best = greedy_search(scorer, batch_size, max_tokens, sos_id, eos_id, (blank_id, sos_id))
        return [list(hypothesis.tokens) for hypothesis in best]
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
    nbest = beam_search(
        scorers,
        batch_size,
        max_tokens,
        beam_size=search.beam_size,
        sos_id=sos_id,
        eos_id=eos_id,
        blocked_ids=(blank_id, sos_id),
        length_bonus=search.length_bonus,
        end_margin=_END_MARGIN,
    )
    return [list(hypotheses[0].tokens) for hypotheses in nbest]
