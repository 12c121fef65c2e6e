"""Put language models into a trained model's directory, and let it search along words by default.

    python recipes/librispeech/equip.py runs/mini_5h/model \\
        --lm runs/mini_5h/lm.safetensors --word-lm runs/mini_5h/words.safetensors

The settings of the search are those of the shipped model. A network without phones, trained
without `data.lexicon`, cannot be searched along words: it gets the character model alone and keeps
its settings. Weights stay as they are. Stopped at any point, the same command goes on.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from asr.arguments import Parser, complain
from asr.checkpoint import (
    CONFIG,
    DEFAULT_MODEL,
    LANGUAGE_MODEL,
    LEXICON,
    RECURRENT_MODEL,
    WORD_MODEL,
    load_model,
)
from asr.config import SearchConfig, config_from_dict, config_to_dict
from asr.lexicon import Lexicon
from asr.lm import CharNgramLM
from asr.recurrent_lm import RecurrentWordLM
from asr.report import write_whole
from asr.word_lm import WordNgramLM


def shipped_search() -> SearchConfig:
    """Return the settings that the shipped model is searched with along words."""
    tables = json.loads((DEFAULT_MODEL / CONFIG).read_text(encoding="utf-8"))
    return replace(config_from_dict(tables).search, method="words")


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file so that it appears whole or not at all.

    What a killed attempt leaves is overwritten by the next one: its name is always the same.
    """
    temporary = Path(f"{target}.tmp")
    try:
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def equip(folder: Path, lm: Path, word_lm: Path, recurrent_lm: Path | None = None) -> str:
    """Add what a model directory lacks; return a line on how it is searched.

    Args:
        folder: Model directory.
        lm: Character language model.
        word_lm: Language model of words.
        recurrent_lm: A recurrent one, to weigh the best texts of the search, or none.

    Raises:
        ValueError: The directory or a language model is missing or damaged; nothing is written.
        OSError: A file cannot be written.
    """
    CharNgramLM.load(lm)
    WordNgramLM.load(word_lm)
    if recurrent_lm is not None:
        RecurrentWordLM.load(recurrent_lm)
    # Without what is replaced below, which an earlier attempt may have left damaged.
    config = load_model(folder, language_model=False).config
    if not config.model.phone_labels:
        for name in (WORD_MODEL, RECURRENT_MODEL, LEXICON):  # of a model that lay here before
            (folder / name).unlink(missing_ok=True)
        copy_whole(lm, folder / LANGUAGE_MODEL)
        return f"{folder}: knows no phones, is searched along characters"
    Lexicon.load(folder / LEXICON)
    copy_whole(lm, folder / LANGUAGE_MODEL)
    copy_whole(word_lm, folder / WORD_MODEL)
    if recurrent_lm is not None:
        copy_whole(recurrent_lm, folder / RECURRENT_MODEL)
    config = replace(config, search=shipped_search())
    # Last: only what has all its files says that it is searched along words.
    write_whole(folder / CONFIG, json.dumps(config_to_dict(config), indent=1) + "\n")
    return f"{folder}: is searched along words, {config.search}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return 2 after an error of the user's."""
    parser = Parser(description=__doc__)
    parser.add_argument("model", type=Path, help="model directory")
    parser.add_argument("--lm", type=Path, required=True, help="character language model")
    parser.add_argument("--word-lm", type=Path, required=True, help="language model of words")
    parser.add_argument("--recurrent-lm", type=Path, help="recurrent language model of words")
    options = parser.parse_args(argv)
    try:
        print(equip(options.model, options.lm, options.word_lm, options.recurrent_lm))
    except (ValueError, OSError) as error:
        complain(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
