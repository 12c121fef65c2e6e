"""What the search over words can say: the language model's words, and others that are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from asr.lexicon import Lexicon
from asr.prefix_tree import Array, PrefixTree
from asr.word_lm import WordNgramLM


class EntryTables(NamedTuple):
    """Words, and phrases that are searched for as one.

    Attributes:
        first_word: (E + 1,) int32: entry e is ``word[first_word[e]:first_word[e + 1]]``.
        word: Ids of the language model.
        bonus: (E,) float32, added to the score of an entry, in nats.
    """

    first_word: Array
    word: Array
    bonus: Array


@dataclass(frozen=True)
class Vocabulary:
    """Texts with their pronunciations in a forest and their words in the language model.

    Attributes:
        texts: (E,) of each entry.
        forest: Its trees, the one of the model's words first.
        roots: Of the trees.
        entries: See `EntryTables`.
    """

    texts: tuple[str, ...]
    forest: PrefixTree
    roots: Array
    entries: EntryTables

    @classmethod
    def of_model(cls, lexicon: Lexicon, model: WordNgramLM) -> Vocabulary:
        """Return all words of a language model."""
        count = len(model.words)
        phones, lengths = lexicon.pronunciations(model.words)
        scores = model.unigrams[1 : count + 1].astype(np.float32)
        entries = EntryTables(
            np.arange(count + 1, dtype=np.int32),
            np.arange(1, count + 1, dtype=np.int32),
            np.zeros(count, dtype=np.float32),
        )
        forest = PrefixTree.build(phones, lengths.astype(np.int64), scores)
        return cls(tuple(model.words), forest, np.zeros(1, dtype=np.int32), entries)

    def extend(
        self, bonuses: Mapping[str, float], lexicon: Lexicon, model: WordNgramLM
    ) -> Vocabulary:
        """Return a vocabulary with more words and phrases.

        Args:
            bonuses: What is added to the score of each text, in nats, beside what the language
                model says of its words.
            lexicon: Says, or guesses, how they sound.
            model: Knows some of their words.
        """
        if not bonuses:
            return self
        spoken = [np.array(lexicon.encode(text), dtype=np.uint8) for text in bonuses]
        lengths = np.array([len(phones) for phones in spoken], dtype=np.int64)
        phones = np.zeros((len(spoken), max(1, lengths.max())), dtype=np.uint8)
        for row, one in zip(phones, spoken, strict=True):
            row[: len(one)] = one
        ids = [[model.word_id(word) for word in text.split()] for text in bonuses]
        bonus = np.array(list(bonuses.values()), dtype=np.float32)
        scores = bonus + np.array([sum(model.unigrams[i]) for i in ids], dtype=np.float32)
        ends = np.array([len(row) for row in ids]).cumsum() + len(self.entries.word)
        return Vocabulary(
            self.texts + tuple(bonuses),
            self.forest.join(PrefixTree.build(phones, lengths, scores)),
            np.append(self.roots, np.int32(len(self.forest.tables.best))),
            EntryTables(
                np.append(self.entries.first_word, ends.astype(np.int32)),
                np.append(self.entries.word, np.concatenate(ids).astype(np.int32)),
                np.append(self.entries.bonus, bonus),
            ),
        )
