"""What hot words win in the search over words: entries of its vocabulary, each with a bonus.

`asr.hotwords` is their scorer in the search along characters. Here the language model says what
a word costs, and three things keep a list of names from being heard everywhere:

- A word that the model does not know costs what its rarest words do. <unk> stands for all unknown
  words together, so that each alone would be far too likely.
- A bonus grows with the length of a word, as the evidence that is wanted does.
- It lifts a word to a common one, and from there on only by one character's worth: else the same
  word would be heard again and again.

Beside a phrase stands its possessive, and with half the bonus those of its words that the model
does not know: who asks for "Rachel Lynde" will also be told of "Lynde" and "Rachel Lynde's".
"""

from __future__ import annotations

from collections.abc import Sequence

from asr.hotwords import HotwordError, check_spelling, check_weight
from asr.lexicon import Lexicon
from asr.word_lm import WordNgramLM, append_word

_SCALE = 1.3  # nats for each that a character wins in the search along characters
_COMMON = -6.0  # log-probability of a common word, as "said" and "where"
_PART = 0.5  # of a phrase's bonus a character, for its words alone
_POSSESSIVE = "'s"


def hotword_bonuses(
    phrases: Sequence[str],
    weight: float,
    lm_weight: float,
    lexicon: Lexicon,
    model: WordNgramLM,
    alphabet: str,
) -> dict[str, float]:
    """Return the texts that become entries, each with its bonus in nats.

    Args:
        phrases: In the alphabet, words apart by single spaces.
        weight: Of each character, on the scale of the search along characters.
        lm_weight: Of the language model in the search.
        lexicon: Says how they sound.
        model: The language model.
        alphabet: Characters that a transcript can have.

    Raises:
        HotwordError: A phrase cannot be spelled or said, or the weight is out of range.
    """
    check_weight(weight)
    worth = _SCALE * weight
    wins: dict[str, float] = {}
    for phrase in phrases:
        check_spelling(phrase, alphabet)
        if not lexicon.encode(phrase):
            raise HotwordError(f"hot word {phrase!r}: found no letter, wanted at least 1 to say")
        for text, won in _entries(phrase, worth, model, alphabet).items():
            wins[text] = max(won, wins.get(text, 0.0))
    rarest = float(model.unigrams[1 : model.unknown_id].min())
    bonuses = {}
    for text, won in wins.items():
        said, cost = _log_probs(text, model, rarest)
        room = max(0.0, lm_weight * (_COMMON - cost)) + worth
        bonuses[text] = lm_weight * (cost - said) + min(won, room)
    return bonuses


def _entries(phrase: str, worth: float, model: WordNgramLM, alphabet: str) -> dict[str, float]:
    """Return a phrase and what comes with it, and what each would win without a bound."""
    entries = {phrase: worth * len(phrase)}
    if set(_POSSESSIVE) <= set(alphabet) and not phrase.endswith((_POSSESSIVE, "'")):
        entries[phrase + _POSSESSIVE] = worth * len(phrase)
    for word in phrase.split():
        if model.word_id(word) == model.unknown_id:
            entries.setdefault(word, _PART * worth * len(word))
    return entries


def _log_probs(text: str, model: WordNgramLM, rarest: float) -> tuple[float, float]:
    """Return a text's log-probability, and the same with unknown words like the rarest known."""
    history, said, cost = 0, 0.0, 0.0
    for word in map(model.word_id, text.split()):
        log_prob = model.log_prob(history, word)
        said += log_prob
        cost += min(log_prob, rarest) if word == model.unknown_id else log_prob
        history = append_word(history, word)
    return said, cost
