"""Make the confidences of a model's words probabilities, and report how good they are.

    python scripts/calibrate_confidence.py asr/models/default \
        runs/manifests/dev-clean.jsonl runs/manifests/dev-other-part.jsonl
    python scripts/calibrate_confidence.py MODEL MANIFEST --limit 200 --output-dir runs/conf

All utterances are recognised with the model's own search settings. Of each manifest, every second
speaker is fitted to, and the others are reported: `confidence.json` in the model directory is
replaced, and the output directory gets a table, its numbers and a picture. Run it again whenever
the weights, the language model or the search settings of the model change.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asr.arguments import Parser
from asr.audio import load_audio
from asr.checkpoint import CONFIDENCE, ModelBundle, load_model
from asr.confidence import (
    FEATURES,
    ConfidenceModel,
    as_if_greedy,
    calibration_error,
    without_list,
)
from asr.manifest import Utterance, read_manifest
from asr.normalize import normalize_text
from asr.pieces import recognize
from asr.report import describe_machine
from asr.score import score_utterance

OUTPUT = Path("recipes/librispeech/confidence")
BINS = 15
RESAMPLES = 500


@dataclass(frozen=True)
class Words:
    """Recognised words of some utterances.

    Attributes:
        features: (W, F).
        scores: (W,) confidences without calibration.
        right: (W,) 1 where a word is right.
        utterance: (W,) number of its utterance.
    """

    features: Tensor
    scores: Tensor
    right: Tensor
    utterance: Tensor

    def select(self, chosen: Tensor) -> Words:
        """Return the words where `chosen` (W,) is true."""
        return Words(
            self.features[chosen], self.scores[chosen], self.right[chosen], self.utterance[chosen]
        )


class Recorder:
    """Stands in for a confidence model, keeps what it is shown and is sure of nothing."""

    def __init__(self) -> None:
        self.tables: list[Tensor] = []

    def __call__(self, features: Tensor) -> Tensor:
        """Keep features (W, F)."""
        self.tables.append(features)
        return torch.zeros(len(features))


def recognise(bundle: ModelBundle, utterances: Sequence[Utterance]) -> Words:
    """Recognise a set and say of each word what is known of it and whether it is right."""
    recorder = Recorder()
    bundle = replace(bundle, confidence=recorder)
    order = sorted(range(len(utterances)), key=lambda number: -utterances[number].duration)
    right, places, done, started = [], [], 0.0, time.monotonic()
    for batch in batches(order, utterances):
        waveforms = [load_audio(utterances[number].audio_filepath) for number in batch]
        # The recogniser takes the longest first, and decoded lengths may differ from the manifest.
        pairs = sorted(zip(waveforms, batch, strict=True), key=lambda pair: -len(pair[0]))
        waveforms, batch = [w for w, _ in pairs], [n for _, n in pairs]
        heard = recognize(bundle, waveforms, batch_seconds=float("inf"))
        for number, result in zip(batch, heard, strict=True):
            reference = utterances[number].text
            if bundle.config.data.normalize == "english":
                reference = normalize_text(reference)
            steps = score_utterance("", reference, result.text).alignment
            right += [float(step == "hit") for step, _, word in steps if word]
            places += [number] * len(result.words)
        done += sum(map(len, waveforms)) / 16000
        print(f"{done:8.0f} s heard in {time.monotonic() - started:.0f} s", file=sys.stderr)
    features = torch.cat(recorder.tables)
    scores = features[:, FEATURES.index("ctc")].exp().clamp(max=1.0)
    return Words(features, scores, torch.tensor(right), torch.tensor(places))


def batches(order: Sequence[int], utterances: Sequence[Utterance]) -> Iterator[list[int]]:
    """Cut an order, longest first, into batches of at most 240 s padded."""
    batch: list[int] = []
    for number in order:
        if batch and (len(batch) + 1) * utterances[batch[0]].duration > 240.0:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def in_fit(utterances: Sequence[Utterance]) -> Tensor:
    """Return for each utterance whether its speaker is one that is fitted to."""
    speakers = [u.speaker or str(number) for number, u in enumerate(utterances)]
    chosen = set(sorted(set(speakers))[::2])
    return torch.tensor([speaker in chosen for speaker in speakers])


def describe(words: Words, model: ConfidenceModel) -> dict[str, object]:
    """Measure confidences on words that were not fitted to."""
    confidences = model(words.features)
    error = calibration_error(confidences, words.right, BINS)
    return {
        "words": len(words.right),
        "right": round(float(words.right.mean()), 4),
        "mean_confidence": round(float(confidences.mean()), 4),
        "calibration_error": round(error, 4),
        "calibration_error_interval": interval(confidences, words),
        "calibration_error_of_ctc": round(calibration_error(words.scores, words.right, BINS), 4),
        "auc": round(area_under_curve(confidences, words.right), 4),
        "auc_of_ctc": round(area_under_curve(words.scores, words.right), 4),
        "bins": reliability(confidences, words.right),
    }


def interval(confidences: Tensor, words: Words) -> list[float]:
    """Return the 95 % interval of the calibration error: bootstrap over utterances."""
    numbers, place = words.utterance.unique(return_inverse=True)
    order = place.argsort()
    groups = order.split(place.bincount().tolist())
    chance = np.random.default_rng(0)
    errors = []
    for _ in range(RESAMPLES):
        drawn = torch.cat([groups[i] for i in chance.integers(0, len(numbers), len(numbers))])
        errors.append(calibration_error(confidences[drawn], words.right[drawn], BINS))
    return [round(float(value), 4) for value in np.percentile(errors, [2.5, 97.5])]


def area_under_curve(confidences: Tensor, right: Tensor) -> float:
    """Return how likely a right word has a higher confidence than a wrong one."""
    _, place, counts = confidences.unique(return_inverse=True, return_counts=True)
    ranks = counts.cumsum(0) - (counts - 1) / 2  # the mean rank of equal ones
    good = right > 0
    num_good, num_bad = int(good.sum()), int((~good).sum())
    total = float(ranks.double()[place][good].sum()) - num_good * (num_good + 1) / 2
    return total / max(num_good * num_bad, 1)


def reliability(confidences: Tensor, right: Tensor) -> list[dict[str, float]]:
    """Return of each bin with words: their number, mean confidence and share of right ones."""
    place = (confidences * BINS).long().clamp(max=BINS - 1)
    rows = []
    for number in place.unique().tolist():
        inside = place == number
        rows.append(
            {
                "words": int(inside.sum()),
                "confidence": round(float(confidences[inside].mean()), 4),
                "right": round(float(right[inside].mean()), 4),
            }
        )
    return rows


def write_results(folder: Path, results: dict[str, dict], about: dict[str, object]) -> None:
    """Write the numbers, a table and a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**about, "sets": results}, indent=1, ensure_ascii=False)
    (folder / "confidence.json").write_text(text + "\n", encoding="utf-8")
    lines = [
        "# Confidence of words",
        "",
        "Speakers that were not fitted to. The calibration error (15 bins; 95 % interval by",
        "bootstrap over utterances) is how far confidences are from shares of right words; the",
        "area under the curve is how likely a right word has more confidence than a wrong one.",
        "In brackets, the same of CTC's own opinion, without calibration.",
        "",
        "| set | words | right % | calibration error % (CTC) | area under the curve (CTC) |",
        "|---|---|---|---|---|",
    ]
    for name, found in results.items():
        low, high = (100 * value for value in found["calibration_error_interval"])
        lines.append(
            f"| {name} | {found['words']} | {100 * found['right']:.1f} "
            f"| {100 * found['calibration_error']:.1f} ({low:.1f}–{high:.1f}) "
            f"({100 * found['calibration_error_of_ctc']:.1f}) "
            f"| {found['auc']:.3f} ({found['auc_of_ctc']:.3f}) |"
        )
    lines += ["", "![reliability](reliability.png)", "", f"Command: `{about['command']}`", ""]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")
    draw(folder / "reliability.png", results)


def draw(path: Path, results: dict[str, dict]) -> None:
    """Draw the share of right words against the confidence, and how many words there are."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(results), figsize=(3.6 * len(results), 4.1), squeeze=False, layout="constrained"
    )
    for axis, (name, found) in zip(axes[0], results.items(), strict=True):
        bins = found["bins"]
        x = [row["confidence"] for row in bins]
        total = max(row["words"] for row in bins)
        axis.bar(
            x, [0.3 * row["words"] / total for row in bins], 0.8 / BINS, color="#dbe4ee", zorder=1
        )
        axis.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--", zorder=2)
        axis.plot(x, [row["right"] for row in bins], "o-", color="#1b6ca8", markersize=4, zorder=3)
        axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", aspect="equal")
        axis.set_title(
            f"{name}\n{found['words']} words, error {100 * found['calibration_error']:.1f} %",
            fontsize=10,
        )
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("share of right words")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> int:
    """Recognise, fit, report; return 2 after an error of the user's."""
    parser = Parser(description=__doc__)
    parser.add_argument("model", type=Path, help="model directory")
    parser.add_argument("manifests", nargs="+", type=Path)
    parser.add_argument("--limit", type=int, help="utterances of each manifest, evenly picked")
    parser.add_argument("--output-dir", type=Path, default=OUTPUT)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    fitted: list[Words] = []
    held: dict[str, Words] = {}
    try:
        bundle = load_model(options.model)
        for manifest in options.manifests:
            utterances = read_manifest(manifest)
            limit = min(options.limit or len(utterances), len(utterances))
            utterances = [utterances[n * len(utterances) // limit] for n in range(limit)]
            words = recognise(bundle, utterances)
            chosen = in_fit(utterances)[words.utterance]
            fitted.append(words.select(chosen))
            held[manifest.stem] = words.select(~chosen)
    except ValueError as error:
        print(f"calibrate_confidence: {error}", file=sys.stderr)
        return 2
    features = torch.cat([words.features for words in fitted])
    features = torch.cat([features, without_list(features), as_if_greedy(features)])
    model = ConfidenceModel.fit(features, torch.cat([words.right for words in fitted] * 3))
    command = shlex.join(["python", *sys.argv])
    model.save(options.model / CONFIDENCE, command)
    results = {name: describe(words, model) for name, words in held.items()}
    for name, words in held.items():
        for hide in (without_list, as_if_greedy):
            hidden = replace(words, features=hide(words.features))
            results[name][hide.__name__] = describe(hidden, model)
    write_results(options.output_dir, results, {"command": command, **describe_machine()})
    print((options.output_dir / "README.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
