"""Measure what hot words win, and what they cost, on speech with words that are seldom read.

    python scripts/bench_hotwords.py runs/manifests/dev-clean.jsonl \
        --vocabulary ../shared/text/librispeech_vocab_counts.txt.xz
    python scripts/bench_hotwords.py MANIFEST --vocabulary COUNTS --hotwords 50 --weights 0 1 2
    python scripts/bench_hotwords.py MANIFEST --vocabulary COUNTS --method beam

The hot words are the most frequent words of the manifest's texts that are not among the
`--frequent` most frequent of the vocabulary: names, mostly. Heard are all utterances that hold
one, and as many that hold none, all with the whole list. Printed are, for each weight:

    recall      share of the hot words that were said and are in the transcript
    false       hot words in the transcript that were not said, for each 1000 words
    WER         of all words, and of those that are not hot words
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from asr.arguments import Parser
from asr.audio import load_audio
from asr.checkpoint import ModelBundle, load_model
from asr.config import SearchConfig
from asr.decode import NO_WORDS
from asr.manifest import Utterance, read_manifest
from asr.normalize import normalize_text
from asr.options import CHARACTER_SEARCH
from asr.pieces import recognize
from asr.score import score_utterance
from asr.texts import READ_ERRORS, open_text

MIN_LETTERS = 4


@dataclass(frozen=True)
class Result:
    """Counts over all utterances.

    Attributes:
        said: Hot words in the references.
        found: Those of them that are in the transcript.
        false: Hot words in the transcript that were not said.
        words: Words of the references.
        errors: Errors in all words.
        other_errors: Errors that involve no hot word on either side.
        seconds: Time of the recognition.
    """

    said: int
    found: int
    false: int
    words: int
    errors: int
    other_errors: int
    seconds: float

    def __str__(self) -> str:
        """Return a row of the table."""
        return (
            f"{100 * self.found / self.said:6.1f} % {1000 * self.false / self.words:7.2f} "
            f"{100 * self.errors / self.words:7.2f} % "
            f"{100 * self.other_errors / (self.words - self.said):7.2f} % {self.seconds:8.0f} s"
        )


def frequent_words(path: Path, count: int) -> set[str]:
    """Return the first words of a list that has a word and its count a line, sorted by counts."""
    with open_text(path) as lines:
        return {line.split()[0].lower() for line in islice(lines, count)}


def choose(utterances: Sequence[Utterance], frequent: set[str], count: int) -> list[str]:
    """Return the most frequent rare words of some texts."""
    words = Counter(word for u in utterances for word in normalize_text(u.text).split())
    rare = [w for w in words if w not in frequent and len(w) >= MIN_LETTERS and "'" not in w]
    return sorted(rare, key=lambda word: (-words[word], word))[:count]


def with_and_without(
    utterances: Sequence[Utterance], hotwords: set[str], limit: int | None
) -> list[Utterance]:
    """Pick utterances evenly: half of them with a hot word, half without."""
    has = [u for u in utterances if hotwords & set(normalize_text(u.text).split())]
    has_not = [u for u in utterances if not hotwords & set(normalize_text(u.text).split())]
    each = min(len(has), len(has_not), (limit or 2 * len(has)) // 2)
    return [group[n * len(group) // each] for group in (has, has_not) for n in range(each)]


def count(utterances: Sequence[Utterance], texts: Sequence[str], hot: set[str]) -> Result:
    """Compare texts with their references, word by word."""
    said = found = false = words = errors = other = 0
    for utterance, text in zip(utterances, texts, strict=True):
        for step, before, after in score_utterance(
            "", normalize_text(utterance.text), text
        ).alignment:
            words += bool(before)
            errors += step != "hit"
            said += before in hot
            found += before in hot and step == "hit"
            false += after in hot and step != "hit"
            other += step != "hit" and before not in hot and after not in hot
    return Result(said, found, false, words, errors, other, 0.0)


def settings(bundle: ModelBundle, method: str | None) -> SearchConfig:
    """Return the settings of a method, those of the model where it was tuned for it.

    Raises:
        ValueError: The model cannot be searched so.
    """
    search = bundle.config.search
    if method == "words" and bundle.word_decoder is None:
        raise ValueError(f"--method words: {bundle.directory}: {NO_WORDS}")
    if method == "words" and search.method != "words":
        raise ValueError(f"--method words: {bundle.directory}: found settings of {search.method}")
    return replace(search, **CHARACTER_SEARCH) if method == "beam" != search.method else search


def main() -> int:
    """Recognise with each weight; return 2 after an error of the user's."""
    parser = Parser(description=__doc__)
    parser.add_argument("manifest")
    parser.add_argument("--vocabulary", type=Path, required=True, help="xz file of words, counts")
    parser.add_argument("--frequent", type=int, default=20000, help="words that are not rare")
    parser.add_argument("--hotwords", type=int, default=75, help="length of the list")
    parser.add_argument("--limit", type=int, help="utterances, half of them with a hot word")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.0, 0.5, 1.0, 1.5, 2.0])
    parser.add_argument("--model", help="model directory (default: the built-in one)")
    parser.add_argument("--method", choices=("words", "beam"), help="default: the model's own")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        bundle = load_model(options.model)
        own = settings(bundle, options.method)
        utterances = read_manifest(options.manifest)
        frequent = frequent_words(options.vocabulary, options.frequent)
        hotwords = choose(utterances, frequent, options.hotwords)
        chosen = with_and_without(utterances, set(hotwords), options.limit)
        waveforms = [load_audio(u.audio_filepath) for u in chosen]
    except (ValueError, *READ_ERRORS) as error:
        print(f"bench_hotwords: {error}", file=sys.stderr)
        return 2
    seconds = sum(map(len, waveforms)) / 16000
    print(f"{len(chosen)} utterances, {seconds:.0f} s; hot words: {', '.join(hotwords)}\n")
    print("weight   recall   false     WER   of others      time")
    for weight in options.weights:
        hot = tuple(hotwords) if weight else ()
        search = replace(own, hotwords=hot, hotword_weight=weight)
        started = time.perf_counter()
        texts = [heard.text for heard in recognize(bundle, waveforms, search, words=False)]
        result = count(chosen, texts, set(hotwords))
        result = replace(result, seconds=time.perf_counter() - started)
        print(f"{weight:6.2f} {result}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
