"""What the language models of characters (`asr.lm`) and of words (`asr.word_lm`) share."""

from __future__ import annotations


class LanguageModelError(ValueError):
    """A language model's file is missing, damaged or for another alphabet."""
