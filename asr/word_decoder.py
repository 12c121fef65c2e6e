"""From encoder frames to words: the search over a vocabulary, then others weigh its list.

They are a recurrent language model, whose probabilities are mixed with those of the search, and
decoder and CTC over characters.

The network's own spelling of an utterance, the best character of each moment, is read as well:
words of it that no dictionary knows and of which it is sure join the vocabulary of that utterance,
so that names and new words remain possible. They cost what the word model says of an unknown word
and what the character model says of its spelling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from asr.config import SearchConfig
from asr.ctc import greedy_decode_scored
from asr.hotword_bonuses import hotword_bonuses
from asr.lexicon import Lexicon
from asr.lm import CharNgramLM
from asr.model import EncoderOutput, SpeechModel
from asr.recurrent_lm import RecurrentWordLM
from asr.rescore import MixedWordLM, pick_utterance, score_by_attention, score_by_ctc
from asr.search import Hypothesis
from asr.tokenizer import CharTokenizer
from asr.vocabulary import Vocabulary
from asr.word_lists import WordHypothesis
from asr.word_lm import WordNgramLM
from asr.word_search import Weights, search_words

_BEHIND = 8.0  # nats behind another one that goes on alike at which a text may be in a list
_NATS_A_CHARACTER = 2.0  # of an unknown word's spelling, where no character model is there
_HOPELESS = 5.0  # nats behind the best text from which on none is weighed again
_SURE = -0.15  # mean log-probability of a word's characters from which on it is thought of


@dataclass(frozen=True, eq=False)  # compared and cached by identity
class WordDecoder:
    """What a search over words needs beside the network.

    Attributes:
        lexicon: How words sound.
        model: Which words follow which, in the search.
        tokenizer: Of the network.
        spelling: How words are spelled, for those that `model` does not know.
        known: The vocabulary of `model`, if it was made already.
        recurrent: Knows more of which words follow which, if it is there.
    """

    lexicon: Lexicon
    model: WordNgramLM
    tokenizer: CharTokenizer
    spelling: CharNgramLM | None = None
    known: Vocabulary | None = None
    recurrent: RecurrentWordLM | None = None

    def __call__(
        self,
        network: SpeechModel,
        encoded: EncoderOutput,
        search: SearchConfig,
    ) -> list[list[Hypothesis]]:
        """Return the texts that were found of each utterance, at least one, best first.

        Args:
            network: In evaluation mode.
            encoded: B utterances.
            search: `beam_size` hypotheses live after each frame, none `margin` nats behind the
                best. The `rescore` best texts are weighed again: the recurrent model has
                `recurrent_share` in the probabilities of words; decoder and CTC over characters
                say what they think, with `rescore_weight` and, of that, `ctc_weight` for CTC.
        """
        wanted = max(search.nbest, search.rescore)
        weights = Weights(
            search.lm_weight, search.word_bonus, search.blank_penalty, search.beam_size,
            search.margin, _BEHIND if wanted > 1 else 0.0,
        )  # fmt: skip
        log_probs, lengths = network.ctc_log_probs(encoded)
        vocabulary = self.vocabulary_for(search)
        spelled = greedy_decode_scored(log_probs, lengths, self.tokenizer.blank_id)
        vocabularies = [
            vocabulary.extend(self._unknown(*own, search.lm_weight), self.lexicon, self.model)
            for own in spelled
        ]
        found = search_words(
            *network.phone_log_probs(encoded), vocabularies, self.model, weights,
            wanted, torch.get_num_threads(),
        )  # fmt: skip
        gains = self._gains(found, search)
        ranked = []
        for index, texts in enumerate(found):
            utterance, frames = pick_utterance(encoded, index), log_probs[index, : lengths[index]]
            ranked.append(self._weigh(network, utterance, frames, texts, gains[index], search))
        return ranked

    def _unknown(
        self, tokens: Sequence[int], scores: Sequence[float], lm_weight: float
    ) -> dict[str, float]:
        """Return the words of a spelled text that are in no dictionary, and their bonuses."""
        text, start = self.tokenizer.decode(tokens), 0
        scores = [s for t, s in zip(tokens, scores, strict=True) if self.tokenizer.decode([t])]
        words: dict[str, None] = {}
        for word in text.split(" "):
            end = start + len(word)
            if word and sum(scores[start:end]) > _SURE * len(word):
                words[word] = None
            start = end + 1
        unknown = [w for w in words if self.model.word_id(w) == self.model.unknown_id]
        costs = [-_NATS_A_CHARACTER * (len(word) + 1) for word in unknown]
        if self.spelling is not None and unknown:
            costs = self.spelling.score_texts(unknown).sum(1).tolist()
        return {word: lm_weight * cost for word, cost in zip(unknown, costs, strict=True)}

    def vocabulary_for(self, search: SearchConfig) -> Vocabulary:
        """Return the vocabulary with the hot words of a search.

        Raises:
            HotwordError: One cannot be spelled or said, or their weight is out of range.
        """
        if not search.hotwords:
            return self.vocabulary
        return _extended(self, search.hotwords, search.hotword_weight, search.lm_weight)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """All words of the language model."""
        return self.known or Vocabulary.of_model(self.lexicon, self.model)

    @cached_property
    def _mixed(self) -> MixedWordLM | None:
        return None if self.recurrent is None else MixedWordLM(self.model, self.recurrent)

    def _gains(
        self, found: Sequence[Sequence[WordHypothesis]], search: SearchConfig
    ) -> list[list[float]]:
        """Return what the recurrent model adds to those texts that are weighed again.

        It is asked about all utterances at once: a step costs the time of reading its weights, to
        which more texts add little.
        """
        said = []
        for texts in found:  # best first
            least = texts[0].score - _HOPELESS
            said.append([text.text for text in texts[: search.rescore] if text.score > least])
        asked = [text for texts in said if len(texts) > 1 for text in texts]
        if self._mixed is None or not search.recurrent_share:
            return [[0.0] * len(texts) for texts in said]
        gains = iter(self._mixed.gains(asked, search.recurrent_share))
        return [
            [search.lm_weight * next(gains) if len(texts) > 1 else 0.0 for _ in texts]
            for texts in said
        ]

    def _weigh(
        self, network: SpeechModel, encoded: EncoderOutput, log_probs: Tensor,
        texts: list[WordHypothesis], gains: list[float], search: SearchConfig,
    ) -> list[Hypothesis]:  # fmt: skip
        """Add to the score of the first texts what the others say; log_probs (T, V)."""
        rows = [tuple(self.tokenizer.encode(text.text)) for text in texts]
        count, added = len(gains), torch.tensor(gains)
        if count > 1 and search.rescore_weight:
            second = score_by_attention(network.decoder, encoded, rows[:count])
            if search.ctc_weight:
                by_ctc = score_by_ctc(log_probs, rows[:count])
                second = (1 - search.ctc_weight) * second + search.ctc_weight * by_ctc
            added = added + search.rescore_weight * second.cpu()
        worst = min(added.tolist(), default=0.0)  # of those that were weighed, for the others
        extra = [*added.tolist(), *[worst] * (len(texts) - count)]
        scores = [text.score + more for text, more in zip(texts, extra, strict=True)]
        order = sorted(range(len(texts)), key=lambda n: -scores[n])
        return [Hypothesis(rows[n], scores[n]) for n in order]


@lru_cache(maxsize=4)  # every batch of a run has the same
def _extended(
    decoder: WordDecoder, phrases: tuple[str, ...], weight: float, lm_weight: float
) -> Vocabulary:
    bonuses = hotword_bonuses(
        phrases, weight, lm_weight, decoder.lexicon, decoder.model, decoder.tokenizer.alphabet
    )
    return decoder.vocabulary.extend(bonuses, decoder.lexicon, decoder.model)
