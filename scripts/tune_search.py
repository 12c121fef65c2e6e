"""Find search settings by word error rate, on data that is not the reported test set.

    python scripts/tune_search.py MODEL runs/manifests/dev-other-part.jsonl --limit 150 \\
        lm_weight=0.8,1,1.2 word_bonus=0,1 blank_penalty=1,2,3
    python scripts/tune_search.py MODEL MANIFEST method=beam ctc_weight=0.3,0.5 --random 20

Each setting of [search] may have several values; all combinations, or `--random` ones of them, are
tried on the same utterances, which are encoded only once. What is not named is as in the model.
The table is sorted by error rate; the last line is what `scripts/ship_model.py` takes.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace

import torch

from asr.arguments import Parser
from asr.checkpoint import ModelBundle, load_model
from asr.config import SearchConfig, load_config
from asr.dataset import SpeechDataset, load_utterances
from asr.decode import decode_batch, encode_batch
from asr.order import DurationBatches
from asr.score import Score, score_utterances
from asr.validate import pick_evenly

BATCH_SECONDS, BATCH_SIZE = 120.0, 32


def combine(own: SearchConfig, choices: Sequence[str]) -> list[tuple[str, SearchConfig]]:
    """Return every combination of the values in ``key=value,value`` arguments, with its name.

    Raises:
        ValueError: A key or value is none of [search].
    """
    given = [(key, values.split(",")) for key, _, values in (c.partition("=") for c in choices)]
    kept = [f"search.{k}={v}" for k, v in asdict(own).items() if k != "hotwords"]
    combinations = []
    for values in itertools.product(*(values for _, values in given)):
        named = [f"search.{key}={v}" for (key, _), v in zip(given, values, strict=True)]
        search = load_config(None, [*kept, *named]).search
        combinations.append((" ".join(named), search))
    return combinations


class Trial:
    """Utterances, encoded once and decoded as often as wanted."""

    def __init__(self, bundle: ModelBundle, manifest: str, limit: int) -> None:
        self.bundle = bundle
        every = replace(bundle.config.data, max_seconds=float("inf"), cache_dir="")
        self.utterances = pick_evenly(load_utterances([manifest], every)[0], limit)
        self.seconds = sum(u.duration for u in self.utterances)
        rate = bundle.config.features.sample_rate
        dataset = SpeechDataset(self.utterances, bundle.tokenizer, rate)
        durations = [u.duration for u in self.utterances]
        order = DurationBatches(durations, BATCH_SECONDS, BATCH_SIZE, seed=0).epoch(0)
        batches = [dataset[indices].to(bundle.device) for indices in order]
        self.batches = [
            (b, encode_batch(bundle.model, bundle.features, b.waveform, b.num_samples))
            for b in batches
        ]

    def score(self, search: SearchConfig) -> tuple[Score, float]:
        """Return the score of a search, and how many times faster than speech it was."""
        bundle, started = self.bundle, time.perf_counter()
        triples = []
        for batch, encoded in self.batches:
            found = decode_batch(
                bundle.model, bundle.features, bundle.tokenizer, batch.waveform,
                batch.num_samples, search, bundle.language_model,
                word_decoder=bundle.word_decoder, encoded=encoded,
            )  # fmt: skip
            for index, heard in zip(batch.indices, found, strict=True):
                triples.append((str(index), self.utterances[index].text, heard.text))
        return score_utterances(triples), self.seconds / (time.perf_counter() - started)


def main(argv: Sequence[str] | None = None) -> int:
    """Try all combinations; return 2 after an error of the user's."""
    parser = Parser(description=__doc__)
    parser.add_argument("model", help="model directory")
    parser.add_argument("manifest")
    parser.add_argument("choices", nargs="*", metavar="key=value,value")
    parser.add_argument("--limit", type=int, default=100, help="utterances, evenly picked")
    parser.add_argument("--random", type=int, metavar="N", help="try N of the combinations")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_intermixed_args(argv)
    torch.set_num_threads(options.threads)
    try:
        bundle = load_model(options.model)
        combinations = combine(bundle.config.search, options.choices)
        trial = Trial(bundle, options.manifest, options.limit)
        if options.random is not None and options.random < len(combinations):
            combinations = random.Random(0).sample(combinations, options.random)
        results = []
        for name, search in combinations:
            score, rtfx = trial.score(search)
            results.append((score.wer, f"{describe(score, rtfx)}  {name}", name))
            print(results[-1][1], flush=True)
    except ValueError as error:
        print(f"tune_search: {error}", file=sys.stderr)
        return 2
    results.sort(key=lambda result: result[0])
    print("\nbest first:")
    for _, line, _ in results[:10]:
        print(line)
    print(f"\n{results[0][2]}")
    return 0


def describe(score: Score, rtfx: float) -> str:
    """Return a line of the table; speed is that of the search alone."""
    return f"WER {100 * score.wer:6.2f}  CER {100 * score.cer:6.2f}  {rtfx:6.1f} x real time"


if __name__ == "__main__":
    sys.exit(main())
