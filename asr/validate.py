"""How good a network is while it trains: error rates on the dev utterances, found greedily."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from asr import distributed
from asr.config import DataConfig, SearchConfig, SearchMethod
from asr.dataset import SpeechDataset, load_utterances, make_loader
from asr.decode import decode_batch, encode_batch
from asr.features import LogMel
from asr.manifest import Utterance
from asr.model import SpeechModel
from asr.order import DurationBatches
from asr.score import score_utterances
from asr.tokenizer import CharTokenizer

EXAMPLES = 5  # utterances whose transcripts are logged, the same ones every time
BATCH_SECONDS, BATCH_SIZE = 240.0, 64


def pick_evenly(items: Sequence[Utterance], count: int) -> list[Utterance]:
    """Return ``count`` items at equal distances, all of them for 0."""
    if not count or count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def load_dev_set(data: DataConfig, tokenizer: CharTokenizer, sample_rate: int) -> SpeechDataset:
    """Return the utterances that a run is judged by, long ones included; none is allowed.

    Raises:
        ValueError: A manifest cannot be read, or nothing usable is in them.
    """
    utterances: list[Utterance] = []
    if data.dev_manifests:
        every = replace(data, max_seconds=float("inf"))
        utterances = pick_evenly(load_utterances(data.dev_manifests, every)[0], data.dev_utterances)
    return SpeechDataset(utterances, tokenizer, sample_rate, data.cache_dir)


def validate(
    model: SpeechModel,
    features: LogMel,
    dev_set: SpeechDataset,
    methods: Sequence[SearchMethod],
    device: torch.device,
) -> dict[str, Any]:
    """Decode the dev utterances; all processes share the work and get the result.

    Returns:
        For each method ``wer_…`` with its 95 % interval ``wer_…_low`` and ``…_high``, ``cer_…`` and
        ``examples_…``, lists of (id, reference, hypothesis); ``utterances``, how many could be
        read, and ``problems``, what was wrong with the others. Empty without dev utterances.
    """
    utterances = dev_set.utterances
    if not utterances:
        return {}
    durations = [u.duration for u in utterances]
    order = DurationBatches(durations, BATCH_SECONDS, BATCH_SIZE, seed=0).epoch(0)
    mine = order[distributed.rank() :: distributed.world_size()]
    texts: dict[str, dict[int, str]] = {method: {} for method in methods}
    problems: list[str] = []
    for batch in make_loader(dev_set, mine, 0, pin=False):
        problems += batch.problems
        batch = batch.to(device)
        encoded = encode_batch(model, features, batch.waveform, batch.num_samples)
        for method in methods:
            found = decode_batch(
                model, features, dev_set.tokenizer, batch.waveform, batch.num_samples,
                replace(SearchConfig(), method=method), encoded=encoded,
            )  # fmt: skip
            read = zip(batch.indices, found, batch.counts.tolist(), strict=True)
            texts[method].update({index: heard.text for index, heard, counts in read if counts})
    every = distributed.gather(problems)
    results: dict[str, Any] = {"problems": [line for lines in every for line in lines]}
    for part in distributed.gather(texts):
        for method in methods:
            texts[method].update(part[method])
    for method in methods:
        # Files that could not be read are left out, and missed in the count of utterances.
        triples = [(str(i), utterances[i].text, text) for i, text in sorted(texts[method].items())]
        if not triples:
            continue
        score = score_utterances(triples)
        low, high = score.wer_interval
        results |= {
            f"wer_{method}": score.wer,
            f"wer_{method}_low": low,
            f"wer_{method}_high": high,
            f"cer_{method}": score.cer,
            f"examples_{method}": [list(t) for t in triples[:: max(1, len(triples) // EXAMPLES)]],
            "utterances": len(triples),
        }
    return results
