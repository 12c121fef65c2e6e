"""Text to character ids and back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = ("<blank>", "<sos>", "<eos>")


class CharTokenizer:
    """One id for each character of an alphabet, behind three special ids.

    Id 0 is CTC's blank and, since text never holds it, the padding too; 1 starts and 2 ends
    a transcript; characters follow from 3 on in the order of the alphabet.

    Args:
        alphabet: Every character that a transcript may hold, each once.
    """

    blank_id = 0
    pad_id = 0
    sos_id = 1
    eos_id = 2

    def __init__(self, alphabet: str) -> None:
        if not alphabet or len(set(alphabet)) != len(alphabet):
            raise ValueError(f"alphabet: found {alphabet!r}, wanted characters, each only once")
        self.alphabet = alphabet
        self._ids = {char: i for i, char in enumerate(alphabet, start=len(SPECIAL_TOKENS))}

    @property
    def size(self) -> int:
        """Number of ids, special ones included (V)."""
        return len(SPECIAL_TOKENS) + len(self.alphabet)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without start and end.

        Raises:
            ValueError: The text holds a character outside the alphabet.
        """
        try:
            return [self._ids[char] for char in text]
        except KeyError as error:
            raise ValueError(
                f"text {text!r}: found character {error.args[0]!r}, "
                f"wanted one of the alphabet {self.alphabet!r}"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; special ids are dropped."""
        first = len(SPECIAL_TOKENS)
        return "".join(self.alphabet[i - first] for i in ids if i >= first)

    def to_dict(self) -> dict[str, Any]:
        """Return what ``tokenizer.json`` holds."""
        return {"type": "characters", "alphabet": self.alphabet, "special": list(SPECIAL_TOKENS)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CharTokenizer:
        """Rebuild a tokenizer.

        Raises:
            ValueError: The data is not a character tokenizer's.
        """
        if data.get("type") != "characters" or not isinstance(data.get("alphabet"), str):
            raise ValueError(
                f"tokenizer: found {data!r}, wanted type 'characters' with an alphabet"
            )
        return cls(data["alphabet"])

    def save(self, path: str | Path) -> None:
        """Write the tokenizer as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> CharTokenizer:
        """Read a tokenizer from JSON.

        Raises:
            ValueError: The file is no tokenizer's.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: not a tokenizer file: {error}") from error
        return cls.from_dict(data)
