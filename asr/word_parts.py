"""What a search over words needs beside the network, read while torch is being imported.

That import takes over a second of one core. Lexicon, language model and vocabulary want nothing
of it but only NumPy, which lets others run while it computes; so a thread reads them meanwhile.
Then it fetches the compiled search, for which nobody has to wait before sound was read and encoded.
"""

from __future__ import annotations

import importlib
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from asr.lexicon import Lexicon
from asr.vocabulary import Vocabulary
from asr.word_lm import WordNgramLM
from asr.word_search import prepare_search

DEFAULT_MODEL = Path(__file__).parent / "models" / "default"
LEXICON, WORD_MODEL = "lexicon.safetensors", "words.safetensors"


@dataclass(frozen=True)
class WordParts:
    """What a model directory knows of words.

    Attributes:
        lexicon: Pronunciations, if the network was trained with them.
        model: The language model of whole words, if there is one.
        vocabulary: All words of that model, if there are both.
    """

    lexicon: Lexicon | None = None
    model: WordNgramLM | None = None
    vocabulary: Vocabulary | None = None

    @classmethod
    def load(cls, folder: Path) -> WordParts:
        """Read what is there.

        Raises:
            LexiconError, LanguageModelError: A file is damaged.
        """
        words, sounds = folder / WORD_MODEL, folder / LEXICON
        model = WordNgramLM.load(words) if words.is_file() else None
        lexicon = Lexicon.load(sounds) if sounds.is_file() else None
        if lexicon is None or model is None:
            return cls(lexicon, model)
        return cls(lexicon, model, Vocabulary.of_model(lexicon, model))


def start_loading(directory: str | Path | None, alone: bool = False) -> Future[WordParts]:
    """Read what a model directory knows of words in a thread, from now on.

    Args:
        directory: Where it lies; ``None`` is the model inside the package.
        alone: Whether nobody else in this process multiplies matrices in code that Numba compiles.
    """
    thread = ThreadPoolExecutor(1, "asr-words")
    parts = thread.submit(WordParts.load, DEFAULT_MODEL if directory is None else Path(directory))
    if alone:
        thread.submit(_import_without_blas)
    thread.submit(_prepare, parts)
    thread.shutdown(wait=False)
    return parts


def _import_without_blas() -> None:
    """Import what Numba needs of NumPy's functions, but for SciPy's linear algebra.

    Numba only asks whether that is there, for products of matrices; the import is a twelfth of the
    time to start.
    """
    name = "scipy.linalg"
    if name in sys.modules:
        return
    sys.modules[name] = None  # type: ignore[assignment]  # whoever asks is told that it is absent
    try:
        importlib.import_module("numba.np.arraymath")
    finally:
        del sys.modules[name]


def _prepare(loaded: Future[WordParts]) -> None:
    """Fetch the compiled search; what is damaged is told to those who ask for the parts."""
    if loaded.exception() is None:
        parts = loaded.result()
        if parts.model is not None and parts.vocabulary is not None:
            prepare_search(parts.vocabulary, parts.model)
