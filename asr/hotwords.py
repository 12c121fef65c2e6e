"""Words to listen for: names and terms that the recogniser would not expect by itself.

A scorer of the search gives each character of a phrase a bonus as it is spelled, so that the
phrase survives the beam from its first character on, and takes it back when the phrase does not
come whole, so that nothing is gained by a part of it. Phrases begin and end where words do.

All phrases are one automaton (Aho and Corasick, "Efficient string matching", 1975): a state is the
longest beginning of a phrase that the text now ends with. A row of its table holds the bonus of
every next character, so that a step of the search is one look-up, whatever the phrases are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asr.normalize import normalize_text
from asr.tokenizer import SPECIAL_TOKENS, CharTokenizer


class HotwordError(ValueError):
    """A hot word is empty or cannot be spelled, or their file cannot be read."""


def parse_hotwords(value: str, alphabet: str, normalize: str = "english") -> tuple[str, ...]:
    """Read phrases from a file, one a line, or from the text itself, with commas between them.

    Args:
        value: Name of a file, or phrases.
        alphabet: Of the model.
        normalize: "english" spells phrases as transcripts are spelled; "none" leaves them.

    Returns:
        The phrases in the model's spelling, each once, in their order.

    Raises:
        HotwordError: There is none, or one holds a character outside the alphabet.
    """
    path = Path(value)
    try:
        is_file = path.is_file()
        lines = path.read_text(encoding="utf-8").splitlines() if is_file else value.split(",")
    except (OSError, ValueError) as error:
        raise HotwordError(f"hot words: {value}: cannot be read as text: {error}") from error
    phrases: dict[str, None] = {}
    for line in lines:
        spelled = normalize_text(line) if normalize == "english" else line
        phrase = " ".join(spelled.split())
        if phrase:
            check_spelling(phrase, alphabet)
            phrases[phrase] = None
        elif line.strip():
            raise HotwordError(f"hot word {line.strip()!r}: found nothing that is spoken in it")
    if not phrases:
        where = f"the file {value}" if is_file else f"{value!r}"
        raise HotwordError(f"hot words: found none in {where}, wanted at least 1")
    return tuple(phrases)


def check_spelling(phrase: str, alphabet: str) -> None:
    """Raise a `HotwordError` if a phrase holds a character outside the alphabet."""
    for character in phrase:
        if character not in alphabet:
            raise HotwordError(
                f"hot word {phrase!r}: found character {character!r}, wanted one of the alphabet "
                f"{alphabet!r}"
            )


def check_weight(weight: float) -> None:
    """Raise a `HotwordError` if the weight of hot words is out of range."""
    if not 0.0 <= weight < float("inf"):
        raise HotwordError(f"hot words: found weight {weight}, wanted 0 or more")


class HotwordScorer:
    """Hot words as a scorer of the search (see `asr.search.Scorer`).

    Each character of a phrase that stands whole in the text wins `weight` nats; phrases that
    overlap each win their own. What the search wants is increments of at most 0, so every
    character also loses `bonus`: add that to the search's length bonus.

    Args:
        phrases: In the tokenizer's alphabet.
        weight: Nats a character, at least 0.
        tokenizer: Ids of the search.
        num_utterances: B.
        device: Where the search runs.

    Attributes:
        bonus: The most that a character can win, nats.

    Raises:
        HotwordError: A phrase is empty or cannot be spelled, or the weight is out of range.
    """

    def __init__(
        self,
        phrases: Sequence[str],
        weight: float,
        tokenizer: CharTokenizer,
        num_utterances: int,
        device: torch.device,
    ) -> None:
        check_weight(weight)
        for phrase in phrases:
            check_spelling(phrase, tokenizer.alphabet)
        targets, gains = _tables(tuple(phrases), tokenizer.alphabet)
        self.bonus = weight * max(0.0, float(gains[:, :-1].max()))
        self.num_utterances = num_utterances
        states = len(targets)
        # By token: what cannot follow (blank, sos) never does, eos ends a word like a space.
        first = len(SPECIAL_TOKENS)
        self._targets = torch.zeros(states, tokenizer.size, dtype=torch.int64)
        self._targets[:, first:] = targets
        self._increments = torch.full((states, tokenizer.size), -self.bonus, dtype=torch.float64)
        self._increments[:, first:] += weight * gains[:, :-1]
        self._increments[:, tokenizer.eos_id] = weight * gains[:, -1]
        # A text begins like a word.
        space = first + tokenizer.alphabet.index(" ")
        self._targets[:, tokenizer.sos_id] = self._targets[:, space]
        self._targets = self._targets.to(device)
        self._increments = self._increments.to(device)

    def initial_state(self, beam_size: int) -> Tensor:
        """Return the states (B·beam_size,) before the start mark."""
        return torch.zeros(
            self.num_utterances * beam_size, dtype=torch.int64, device=self._targets.device
        )

    def score(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return increments (N, V) for the characters after ``tokens`` (N,)."""
        state = self._targets[state, tokens]
        return self._increments[state], state

    def reorder(self, state: Tensor, index: Tensor) -> Tensor:
        """Let row n continue row ``index[n]``."""
        return state[index]


@lru_cache(maxsize=4)  # every batch of a run has the same
def _tables(phrases: tuple[str, ...], alphabet: str) -> tuple[Tensor, Tensor]:
    return _Automaton.build(phrases, alphabet).table(alphabet)


@dataclass
class _Node:
    """A beginning of a phrase, with the space before it."""

    length: int = -1  # characters without the space in front; -1 at the root, which is nothing
    covered: int = 0  # bit i: the i-th character from the end lies in a phrase that is whole
    phrase: int = 0  # length of the longest phrase that the text ends with here, 0 for none
    suffix: int = 0  # the longest other node that the text ends with
    children: dict[str, int] = field(default_factory=dict)

    @property
    def owed(self) -> int:
        """Characters whose bonus was given and not yet earned."""
        return max(self.length, 0) - self.covered.bit_count()


class _Automaton:
    """The nodes of all phrases; 0 is the root, 1 a word's beginning."""

    def __init__(self) -> None:
        self.nodes = [_Node()]
        self.order: list[int] = []  # from short to long

    @classmethod
    def build(cls, phrases: Sequence[str], alphabet: str) -> _Automaton:
        """Make the nodes of phrases and link them."""
        automaton = cls()
        nodes = automaton.nodes
        if " " not in alphabet:
            raise HotwordError(f"hot words: found alphabet {alphabet!r}, wanted one with a space")
        for phrase in phrases:
            words = " ".join(phrase.split())
            if not words:
                raise HotwordError("hot words: found an empty one, wanted at least one character")
            place = 0
            for character in " " + words:
                if character not in nodes[place].children:
                    nodes[place].children[character] = len(nodes)
                    nodes.append(_Node(nodes[place].length + 1))
                place = nodes[place].children[character]
            nodes[place].phrase = len(words)
        automaton._link()
        return automaton

    def _link(self) -> None:
        """Find the suffix of every node, short ones first, and what is covered."""
        nodes = self.nodes
        self.order = [0]
        for place in self.order:  # grows meanwhile
            node = nodes[place]
            for character, child in node.children.items():
                if place:
                    nodes[child].suffix = self._follow(node.suffix, character)
                below = nodes[nodes[child].suffix]
                nodes[child].phrase = max(nodes[child].phrase, below.phrase)
                nodes[child].covered = self._cover(place, character)
                self.order.append(child)

    def _follow(self, place: int, character: str) -> int:
        """Return the node behind a node and a character."""
        while character not in self.nodes[place].children:
            if place == 0:
                return 0
            place = self.nodes[place].suffix
        return self.nodes[place].children[character]

    def _cover(self, place: int, character: str) -> int:
        """Return which characters are covered once `character` has come behind a node."""
        node = self.nodes[place]
        if node.length < 0:
            return 0
        whole = ((1 << node.phrase) - 1) if character == " " else 0
        return (node.covered | whole) << 1

    def table(self, alphabet: str) -> tuple[Tensor, Tensor]:
        """Return what follows each node and what it gains, in characters.

        Returns:
            The next nodes (nodes, A), and the gains (nodes, A + 1); the last is that of the end.
        """
        targets = np.zeros((len(self.nodes), len(alphabet)), dtype=np.int64)
        for place in self.order:
            node = self.nodes[place]
            targets[place] = targets[node.suffix]
            for character, child in node.children.items():
                targets[place, alphabet.index(character)] = child
        owed = np.array([node.owed for node in self.nodes], dtype=np.float64)
        earned = np.array(
            [
                self._cover(place, " ").bit_count() - node.covered.bit_count()
                for place, node in enumerate(self.nodes)
            ],
            dtype=np.float64,
        )
        gains = np.zeros((len(self.nodes), len(alphabet) + 1))
        gains[:, :-1] = owed[targets] - owed[:, None]
        gains[:, alphabet.index(" ")] += earned
        gains[:, -1] = earned - owed
        return torch.from_numpy(targets), torch.from_numpy(gains)
