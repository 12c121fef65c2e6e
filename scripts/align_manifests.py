"""Find the words of transcribed recordings, for training that puts them together anew.

    python scripts/align_manifests.py runs/manifests/train-clean-5.jsonl --output runs/words.ctm
    python scripts/align_manifests.py A.jsonl B.jsonl --model runs/mini_5h/model --output words.ctm

The known texts are aligned by the model's CTC (`asr/align.py`). The output is a CTM file, a line
for each word: utterance, channel, start and duration in seconds, word, and the mean
log-probability of its characters. `data.word_times` takes it, or one from another aligner.
Utterances whose text cannot be what is said are left out, and counted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from asr.align import WordSpan, align_recordings
from asr.arguments import EXIT_ERROR, Parser
from asr.batch import Batch
from asr.checkpoint import ModelBundle, load_model
from asr.dataset import SpeechDataset, load_utterances
from asr.order import DurationBatches
from asr.report import write_whole
from asr.screen import open_screen
from asr.splice import ctm_name

BATCH_SECONDS = 120.0
LEAST_SCORE = -3.0  # mean log-probability of an utterance's words, below which its text is wrong


def read_batches(dataset: SpeechDataset, order: Sequence[list[int]]) -> Iterator[Batch]:
    """Yield the batches of which anything can be read; show how far it is and what is left out."""
    with open_screen(len(order), quiet=False) as screen:
        for number, indices in enumerate(order, start=1):
            batch = dataset[indices]
            for problem in batch.problems:
                with screen.cleared():
                    print(f"left out: {problem}", file=sys.stderr)
            if batch.counts.any():
                yield batch
            screen.advance(number, "")


@torch.inference_mode()
def align_batch(bundle: ModelBundle, batch: Batch, texts: Sequence[str]) -> list[list[WordSpan]]:
    """Return the words of each utterance of a batch."""
    features, lengths = bundle.features(batch.waveform, batch.num_samples)
    encoded = bundle.model.encode(features, lengths, for_decoder=False)
    return align_recordings(
        bundle.model, bundle.features, bundle.tokenizer, encoded, batch.waveform,
        batch.num_samples, texts,
    )  # fmt: skip


def to_ctm(name: str, words: Sequence[WordSpan]) -> str:
    """Return the lines of an utterance, none if its text cannot be what is said."""
    if not words or sum(word.score for word in words) / len(words) < LEAST_SCORE:
        return ""
    name = ctm_name(name)
    return "".join(
        f"{name} 1 {word.start:.3f} {word.end - word.start:.3f} {word.text} {word.score:.2f}\n"
        for word in words
    )


def main(argv: list[str] | None = None) -> int:
    """Align; return 2 after an error of the user's."""
    parser = Parser(description=__doc__)
    parser.add_argument("manifests", nargs="+", help="JSON-lines manifests")
    parser.add_argument("--model", default="asr/models/default", help="model directory")
    parser.add_argument("--output", type=Path, required=True, help="CTM file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        bundle = load_model(options.model)
        bundle.model.eval()
        data = replace(bundle.config.data, max_seconds=float("inf"))
        utterances, _ = load_utterances(options.manifests, data)
        rate = bundle.features.config.sample_rate
        dataset = SpeechDataset(utterances, bundle.tokenizer, rate)
        order = DurationBatches(utterances.durations, BATCH_SECONDS, 64, 0, True).epoch(0)
        lines, kept = [], 0
        for batch in read_batches(dataset, order):
            texts = [utterances[index].text for index in batch.indices]
            aligned = align_batch(bundle, batch, texts)
            found = [to_ctm(*item) for item in zip(batch.ids, aligned, strict=True)]
            kept += sum(map(bool, found))
            lines += found
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(options.output, "".join(lines))
    except (ValueError, OSError) as error:
        print(f"align_manifests: {error}", file=sys.stderr)
        return EXIT_ERROR
    print(f"{options.output}: words of {kept} of {len(utterances)} utterances")
    return 0


if __name__ == "__main__":
    sys.exit(main())
