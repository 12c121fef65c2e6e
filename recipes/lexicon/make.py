"""Make a pronunciation lexicon: words of texts, said by espeak-ng, in phones as few as help.

    python recipes/lexicon/make.py --words train.jsonl books.txt.xz --output lexicon.txt.xz
    python recipes/lexicon/make.py --from-text lexicon.txt.xz --output MODEL/lexicon.safetensors
    python recipes/lexicon/make.py --from-text lexicon.txt.xz --word-initial \\
        --output MODEL/lexicon.safetensors
    python recipes/lexicon/make.py --measure lexicon.txt.xz

Words come from text files (.xz and .gz are unpacked) and from the texts of manifests (.jsonl). The
first command needs the program espeak-ng; what it writes is Kaldi's ``lexicon.txt``, so that a
lexicon of other origin serves the second command as well, and so does a compact one. In the third,
phones that begin a word become other ones than those inside: a network hears where words begin. The
last tells how well letter-to-sound says the words that it was not shown.
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import jiwer

from asr.arguments import Parser, complain
from asr.lexicon import Lexicon, LexiconError
from asr.manifest import parse_object
from asr.normalize import normalize_text
from asr.texts import READ_ERRORS, open_text

ESPEAK = ("espeak-ng", "-q", "-v", "en-us", "--ipa", "--sep=_")
WORDS_A_CALL = 500
HELD_OUT_EVERY = 50

# What espeak-ng tells apart and the recogniser does not: diphthongs before r and l, which are two
# phones in sequence, sounds of other languages, and reduced vowels that are hardly to be heard.
FOLDS = {
    **{"ɑːɹ": "ɑː ɹ", "ɔːɹ": "ɔː ɹ", "oːɹ": "ɔː ɹ", "ɛɹ": "ɛ ɹ", "ɪɹ": "ɪ ɹ", "ʊɹ": "ʊ ɹ"},
    **{"əl": "ə l", "n̩": "ə n", "iə": "i ə", "aɪɚ": "aɪ ɚ", "aɪə": "aɪ ə", "ɜː": "ɚ"},
    **{"oː": "oʊ", "ɔ": "ɔː", "ɑ̃": "ɑː n", "ɔ̃": "ɔː n", "e": "eɪ", "ææ": "æ", "ɐ": "ə", "ᵻ": "ɪ"},
    **{"iː": "i", "iːː": "i"},
    **{"ʔ": "t", "x": "k", "r": "ɹ", "ɬ": "l", "ɡʲ": "ɡ", "ç": "ʃ"},
}


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, or the texts of a manifest.

    Raises:
        ValueError: A line of a manifest has no text.
    """
    manifest = ".jsonl" in path.suffixes
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if manifest and line.strip():
                where = f"{path}:{number}"
                text = parse_object(line.encode(), where).get("text")
                if not isinstance(text, str):
                    raise ValueError(f"{where}: found no text, wanted an utterance with one")
                yield text
            else:
                yield line


def read_words(paths: Iterable[Path]) -> list[str]:
    """Return the words of some files, sorted, none twice; what is written in digits is left out."""
    words: set[str] = set()
    for path in paths:
        for line in read_lines(path):
            text = line.lower()
            # Normalised text stays as it is: in a list of words nothing tells quotes from others.
            if not re.fullmatch(r"[a-z'\s]*", text):
                text = normalize_text(re.sub(r"\S*\d\S*", " ", line))
            words.update(text.split())
    return sorted(word for word in words if re.search("[a-z]", word))


def ask_espeak(words: Sequence[str]) -> list[str]:
    """Return what espeak-ng says of words, a line each, or other lines if it joined or split some.

    Raises:
        ValueError: The program is missing, or failed.
    """
    try:
        done = subprocess.run(
            ESPEAK,
            input="\n\n".join(words) + "\n",
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
    except FileNotFoundError as error:
        raise ValueError(
            f"{ESPEAK[0]}: not found, wanted for pronunciations; Debian's package is {ESPEAK[0]}"
        ) from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip() or f"exit code {error.returncode}"
        raise ValueError(f"{ESPEAK[0]}: failed: {reason}") from error
    return [line.strip() for line in done.stdout.split("\n") if line.strip()]


def transcribe(words: Sequence[str]) -> list[str]:
    """Return what espeak-ng says of each word, with as few calls as give a line for each."""
    lines = ask_espeak(words)
    if len(lines) == len(words):
        return lines
    if len(words) == 1:
        return [" ".join(lines)]
    half = len(words) // 2
    return transcribe(words[:half]) + transcribe(words[half:])


def fold(transcription: str) -> list[str]:
    """Return the phones of what espeak-ng wrote, without stress."""
    phones = re.sub("[ˈˌ]", "", transcription).replace(" ", "_").split("_")
    return [part for phone in phones if phone for part in FOLDS.get(phone, phone).split()]


def make_lexicon(words: Sequence[str]) -> dict[str, list[str]]:
    """Return the phones of each word that can be said."""
    lexicon: dict[str, list[str]] = {}
    for first in range(0, len(words), WORDS_A_CALL):
        batch = words[first : first + WORDS_A_CALL]
        for word, transcription in zip(batch, transcribe(batch), strict=True):
            if phones := fold(transcription):
                lexicon[word] = phones
    return lexicon


def write_text(path: Path, lexicon: Mapping[str, Sequence[str]]) -> None:
    """Write a word and its phones a line, sorted; .xz and .gz are packed."""
    lines = (f"{word}\t{' '.join(lexicon[word])}\n" for word in sorted(lexicon))
    data = "".join(lines).encode()
    if path.suffix == ".xz":
        data = lzma.compress(data, preset=9)
    elif path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    temporary = Path(f"{path}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def measure(lexicon: Lexicon, every: int = HELD_OUT_EVERY) -> dict[str, float]:
    """Return how well letter-to-sound says every so-manieth word when it learns from the others.

    All words count alike.
    """
    words = lexicon.words
    listed = {word: lexicon.pronounce(word) for word in words}
    held_out = words[::every]
    shown = [word for index, word in enumerate(words) if index % every]
    guesser = Lexicon.fit(lexicon.phones, {word: listed[word] for word in shown})

    def spelled(phones: Sequence[int]) -> str:
        return " ".join(map(str, phones))

    references = [spelled(listed[word]) for word in held_out]
    guesses = [spelled(guesser.pronounce(word)) for word in held_out]
    right = sum(a == b for a, b in zip(references, guesses, strict=True))
    return {
        "words": len(held_out),
        "phone_error_rate": jiwer.wer(references, guesses),
        "word_accuracy": right / len(held_out),
    }


def run(options: argparse.Namespace) -> None:
    """Do what the command line asks.

    Raises:
        ValueError: Something of it cannot be done.
    """
    started = time.monotonic()
    if options.measure:
        print(json.dumps(measure(Lexicon.read(options.measure)), indent=2))
        return
    options.output.parent.mkdir(parents=True, exist_ok=True)
    if options.from_text:
        lexicon = Lexicon.open(options.from_text)
        if options.word_initial:
            lexicon = lexicon.mark_initials()
        lexicon.save(options.output)
        count, phones = len(lexicon), lexicon.num_labels - 1
    else:
        words = read_words(options.words)
        if not words:
            raise ValueError("--words: found no words, wanted some")
        made = make_lexicon(words)
        write_text(options.output, made)
        count, phones = len(made), len({phone for said in made.values() for phone in said})
    size = options.output.stat().st_size / 1e6
    seconds = time.monotonic() - started
    print(f"{options.output}: {count:,} words, {phones} phones, {size:.2f} MB, {seconds:.0f} s")


def main(argv: list[str] | None = None) -> int:
    """Run the program; return 2 after an error of the user's."""
    parser = Parser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--words", nargs="+", type=Path, metavar="FILE")
    what.add_argument("--from-text", type=Path, metavar="LEXICON")
    what.add_argument("--measure", type=Path, metavar="LEXICON")
    parser.add_argument(
        "--word-initial", action="store_true", help="phones that begin a word become other ones"
    )
    parser.add_argument("--output", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    if bool(options.output) == bool(options.measure):
        parser.error("--output: wanted with --words and --from-text, and only there")
    if options.word_initial and not options.from_text:
        parser.error("--word-initial: wanted with --from-text, and only there")
    try:
        run(options)
    except (*READ_ERRORS, LexiconError, ValueError) as error:
        complain(error)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
