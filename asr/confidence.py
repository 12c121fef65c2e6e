"""How sure the recogniser is of each word: a probability from what the parts of it say.

The log-probabilities of a network are no probabilities of being right: it is too sure of what it
mishears. A logistic regression over a few of them is, once `scripts/calibrate_confidence.py` has
fitted it to words of which it is known whether they are right. What tells most is how many of the
other texts that the search found have the word. Its weights lie in the model
directory, and hold for the network, language model and search settings that they were fitted to;
where the language model is not loaded, because the search needs none, they are a little worse.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr.align import WordSpan
from asr.lm import CharNgramLM
from asr.model import Decoder, EncoderOutput
from asr.tokenizer import CharTokenizer
from asr.transcript import Alternative

# Per word, natural logarithms. "Characters" are the word's own and what follows: space or end.
_OWN = (
    "decoder",  # mean log-probability of the characters
    "entropy",  # mean entropy of the decoder's choice of each
    "ctc",  # log-probability of the CTC path, for each character
    "lm",  # log-probability of the characters together; 0 without a language model
)
_LENGTH = ("length", "short")  # log of the number of characters; 1 if they are one or two
# A word in an utterance that goes badly is less likely to be right.
_OF_UTTERANCE = tuple(f"{name}_of_utterance" for name in _OWN)
_OF_LIST = "agreement"  # log-odds that the word stands there, after all texts of the search
# 1 without a language model; 1 where the search gives but one text.
FEATURES = (*_OWN, *_LENGTH, *_OF_UTTERANCE, "no_lm", _OF_LIST, "no_list")
_SUREST = 0.999  # of a word that all texts have
_NEGLIGIBLE = 1e-5  # probability of a text from which on none matters


class ConfidenceError(ValueError):
    """A file with a confidence model is damaged or of another version."""


@dataclass(frozen=True)
class ConfidenceModel:
    """Logistic regression from `FEATURES` to the probability that a word is right.

    Attributes:
        weights: One for each feature.
        bias: Log-odds where all features are 0.
    """

    weights: tuple[float, ...]
    bias: float

    def __call__(self, features: Tensor) -> Tensor:
        """Return probabilities (W,) of features (W, F)."""
        return (features @ torch.tensor(self.weights) + self.bias).sigmoid()

    @classmethod
    def fit(cls, features: Tensor, right: Tensor, penalty: float = 1.0) -> ConfidenceModel:
        """Fit it to words of which it is known whether they are right.

        Args:
            features: (W, F) of W words.
            right: (W,) 1 where a word is right, 0 where not.
            penalty: Of large weights (ridge, features scaled to deviation 1), against all words
                together: it matters only where they are few.
        """
        features, right = features.double(), right.double()
        mean, deviation = features.mean(0), features.std(0).clamp(min=1e-6)
        scaled = (features - mean) / deviation
        weights = torch.zeros(len(FEATURES) + 1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            logits = scaled @ weights[1:] + weights[0]
            errors = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, right, reduction="sum"
            )
            total = (errors + penalty / 2 * (weights[1:] ** 2).sum()) / len(right)
            total.backward()
            return total

        optimizer.step(loss)
        found = weights.detach()
        plain = found[1:] / deviation
        return cls(tuple(plain.tolist()), float(found[0] - (plain * mean).sum()))

    def save(self, path: str | Path, fitted: str = "") -> None:
        """Write it as JSON; `fitted` says how it was made."""
        weights = dict(zip(FEATURES, self.weights, strict=True))
        data = {"type": "logistic", "weights": weights, "bias": self.bias, "fitted": fitted}
        temporary = Path(f"{path}.tmp")
        temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> ConfidenceModel:
        """Read it from JSON.

        Raises:
            ConfidenceError: The file is no confidence model's, or has other features.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            weights, bias = dict(data["weights"]), float(data["bias"])
            if set(weights) != set(FEATURES):
                raise ValueError(f"found weights of {sorted(weights)}, wanted {sorted(FEATURES)}")
            values = tuple(float(weights[name]) for name in FEATURES)
            if not all(math.isfinite(value) for value in (*values, bias)):
                raise ValueError("found NaN or infinite weights")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfidenceError(f"{path}: not a confidence model: {error}") from error
        return cls(values, bias)


def without_list(features: Tensor) -> Tensor:
    """Return features (W, F) as they would be if the search gave but one text."""
    return _hide(features, (_OF_LIST,), "no_list")


def as_if_greedy(features: Tensor) -> Tensor:
    """Return features (W, F) as they would be without language model and other texts."""
    return _hide(without_list(features), ("lm", "lm_of_utterance"), "no_lm")


def _hide(features: Tensor, names: Sequence[str], sign: str) -> Tensor:
    hidden = features.clone()
    hidden[:, [FEATURES.index(name) for name in names]] = 0.0
    hidden[:, FEATURES.index(sign)] = 1.0
    return hidden


def agreement(texts: Sequence[Alternative]) -> list[float]:
    """Return the log-odds that each word of the first text stands there.

    The probability of a text is the softmax of the scores (Wessel et al., "Confidence measures for
    large vocabulary continuous speech recognition", 2001); a word has that of all texts that
    have it in the same place of the alignment with the least edits. No word is surer than 0.999.

    Args:
        texts: What a search found, best first, with natural-log scores.
    """
    from rapidfuzz.distance import Levenshtein  # 0.04 s

    shares = torch.tensor([text.score for text in texts], dtype=torch.float64).softmax(0).tolist()
    best = texts[0].text.split()
    sums = [0.0] * len(best)
    for text, share in zip(texts, shares, strict=True):
        if share < _NEGLIGIBLE:
            break
        for block in Levenshtein.opcodes(best, text.text.split()):
            if block.tag == "equal":
                for place in range(block.src_start, block.src_end):
                    sums[place] += share
    sure = torch.tensor(sums, dtype=torch.float64).clamp(1 - _SUREST, _SUREST)
    return torch.logit(sure).tolist()


def calibration_error(confidences: Tensor, right: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error (Naeini et al., 2015), 0 at best, 1 at worst.

    Words are sorted into bins of equal width by their confidence; in each, the mean confidence
    should be the share of right words. The differences are weighed by the words in them.

    Args:
        confidences: (W,) from 0 to 1.
        right: (W,) 1 where a word is right, 0 where not.
        bins: Number of bins.
    """
    place = (confidences * bins).long().clamp(max=bins - 1)
    surplus = torch.zeros(bins, dtype=torch.float64)
    surplus.index_add_(0, place, confidences.double() - right.double())
    return float(surplus.abs().sum() / max(len(right), 1))


@torch.no_grad()
def word_features(
    decoder: Decoder,
    encoded: EncoderOutput,
    utterances: Sequence[Sequence[WordSpan]],
    tokenizer: CharTokenizer,
    language_model: CharNgramLM | None = None,
    found: Sequence[Sequence[Alternative]] | None = None,
) -> Tensor:
    """Return the `FEATURES` of all words of a batch, one after the other: (W, F) on the CPU.

    Args:
        decoder: Reads each text once, with all characters given.
        encoded: The encoder's output for the B utterances.
        utterances: Words of the B texts.
        tokenizer: Ids of the decoder.
        language_model: Of the same alphabet.
        found: All texts of each utterance that the search found, that of its words first.
    """
    texts = [" ".join(word.text for word in words) for words in utterances]
    encoded_texts = [torch.tensor([*tokenizer.encode(t), tokenizer.eos_id]) for t in texts]
    targets = pad_sequence(encoded_texts, batch_first=True)  # (B, U)
    chosen, entropy = _decoder_scores(decoder, encoded, targets, tokenizer.sos_id)
    of_text, no_lm = torch.zeros_like(chosen), float(language_model is None)
    if language_model is not None:
        of_text = language_model.score_texts(texts)
    sums = torch.stack([chosen, entropy, of_text]).double().cumsum(2)  # (3, B, U)
    sums = torch.nn.functional.pad(sums, (1, 0))
    rows: list[list[float]] = []
    for number, words in enumerate(utterances):
        place, own = 0, []
        for word in words:
            count = len(word.text)
            characters = sums[:, number, place + count + 1] - sums[:, number, place]
            decoder_sum, entropy_sum, lm_sum = characters.tolist()
            ends = count + 1
            own.append([decoder_sum / ends, entropy_sum / ends, word.score, lm_sum])
            place += ends
        means = [sum(column) / len(own) for column in zip(*own, strict=True)]
        odds = agreement(found[number]) if found else [0.0] * len(words)
        for word, values, odd in zip(words, own, odds, strict=True):
            length = (math.log(len(word.text)), float(len(word.text) <= 2))
            rows.append([*values, *length, *means, no_lm, odd, float(not found)])
    return torch.tensor(rows).view(len(rows), len(FEATURES))


def _decoder_scores(
    decoder: Decoder, encoded: EncoderOutput, targets: Tensor, sos_id: int
) -> tuple[Tensor, Tensor]:
    """Return the log-probability of each target (B, U) and the entropy of its choice, (B, U)."""
    device = encoded.encoder_out.device
    given = torch.nn.functional.pad(targets[:, :-1], (1, 0), value=sos_id).to(device)
    log_probs = decoder(given, encoded)[0].float().log_softmax(2)  # (B, U, V)
    chosen = log_probs.gather(2, targets.to(device)[..., None])[..., 0]
    entropy = -(log_probs.exp() * log_probs).sum(2)
    return chosen.cpu(), entropy.cpu()
