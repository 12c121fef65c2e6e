"""Collect how phones look that a recogniser hears, for a decoder that learns from texts.

    python scripts/collect_heard.py runs/manifests/train-*.jsonl --output runs/heard.safetensors
    python scripts/collect_heard.py A.jsonl --model runs/mini_5h/last --output heard.safetensors

The known texts are aligned by the model's CTC over phones, and the probabilities of all labels are
kept (`asr/heard.py`): `data.heard_phones` takes the file. The network knows the recordings that it
was trained on better than others. So that it errs as it does elsewhere, its dropout stays on, and
half of the recordings are changed as in training, though less.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from asr.arguments import EXIT_ERROR, Parser, number, positive
from asr.augment import augmented_features
from asr.batch import Batch
from asr.checkpoint import ModelBundle, load_model
from asr.ctc import best_paths
from asr.dataset import SpeechDataset, load_utterances
from asr.heard import HeardPhones, HeardRecording
from asr.lexicon import Lexicon
from asr.order import DurationBatches

sys.path.insert(0, str(Path(__file__).parent))  # where a test imports this file

from align_manifests import read_batches

BATCH_SECONDS = 120.0
CHANGED = 0.5  # share of the batches that are changed as in training
LESS = {"noise_probability": 0.1, "room_probability": 0.1, "time_masks": 1, "frequency_masks": 1}


@torch.no_grad()
def hear_batch(
    bundle: ModelBundle, lexicon: Lexicon, batch: Batch, texts: Sequence[str], chance: random.Random
) -> Iterator[HeardRecording]:
    """Yield the recordings of a batch as the network hears them."""
    config = bundle.config
    batch = batch.with_phones(lexicon, bundle.tokenizer)
    assert batch.phones is not None and batch.phone_lengths is not None
    torch.manual_seed(chance.getrandbits(60))
    if chance.random() < CHANGED:
        features, lengths = augmented_features(
            bundle.features, batch.waveform, batch.num_samples,
            replace(config.augment, splice_probability=0.0, **LESS), config.features, chance,
        )  # fmt: skip
    else:
        features, lengths = bundle.features(batch.waveform, batch.num_samples)
    encoded = bundle.model.encode(features, lengths, for_decoder=False)
    log_probs, lengths = bundle.model.phone_log_probs(encoded)
    paths = best_paths(log_probs, lengths, batch.phones, batch.phone_lengths)
    for row, path, length, text in zip(log_probs, paths, lengths.tolist(), texts, strict=True):
        words = [(lexicon.pronounce(word), word) for word in text.split()]
        probabilities = row[:length].exp().numpy().astype(np.float16)
        yield HeardRecording(probabilities, path[:length].numpy().astype(np.int64), words)


def collect(manifests: Sequence[str], model: str, hours: float, seed: int) -> HeardPhones:
    """Return what a model hears in so many hours of recordings, drawn by chance.

    Raises:
        ValueError: A manifest or the model cannot be used.
    """
    bundle = load_model(model)
    if bundle.lexicon is None:
        raise ValueError(f"{model}: found no phones, wanted a model trained with data.lexicon")
    bundle.model.encoder.layers.train()  # dropout
    utterances, _ = load_utterances(manifests, bundle.config.data)
    dataset = SpeechDataset(utterances, bundle.tokenizer, bundle.features.config.sample_rate)
    order = list(DurationBatches(utterances.durations, BATCH_SECONDS, 64, seed, True).epoch(0))
    chance = random.Random(seed)
    chance.shuffle(order)
    order = order[: max(1, round(hours * 3600 / BATCH_SECONDS))]
    recordings: list[HeardRecording] = []
    for batch in read_batches(dataset, order):
        texts = [utterances[index].text for index in batch.indices]
        recordings += hear_batch(bundle, bundle.lexicon, batch, texts, chance)
    return HeardPhones.collect(recordings)


def main(argv: list[str] | None = None) -> int:
    """Collect; return 2 after an error of the user's."""
    parser = Parser(description=__doc__)
    parser.add_argument("manifests", nargs="+", help="JSON-lines manifests")
    parser.add_argument("--model", default="asr/models/default", help="model directory")
    parser.add_argument("--output", type=Path, required=True, help="safetensors file")
    parser.add_argument(
        "--hours", type=number("a number above 0", 1e-9), default=5.0, help="(default: 5)"
    )
    parser.add_argument("--seed", type=positive, default=1, help="of the choice (default: 1)")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        heard = collect(options.manifests, options.model, options.hours, options.seed)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        heard.save(options.output)
    except (ValueError, OSError) as error:
        print(f"collect_heard: {error}", file=sys.stderr)
        return EXIT_ERROR
    print(f"{options.output}: {len(heard.words):,} words, {len(heard.phones):,} phones")
    return 0


if __name__ == "__main__":
    sys.exit(main())
