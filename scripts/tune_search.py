"""Find search settings by word error rate, on data that is not the reported test set.

    python scripts/tune_search.py runs/cpu_19h/last runs/manifests/dev-other-part.jsonl --limit 100
    python scripts/tune_search.py MODEL MANIFEST --ctc-weights 0.3 0.5 1 --lm-weights 0 0.4

Every combination is tried on the same utterances. The table is sorted by error rate; the last line
is what `scripts/ship_model.py` takes.
"""

from __future__ import annotations

import itertools
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from asr.arguments import Parser
from asr.audio import load_audio
from asr.checkpoint import load_model
from asr.config import SearchConfig
from asr.lm import CharNgramLM
from asr.manifest import read_manifest
from asr.normalize import normalize_text
from asr.pieces import recognize
from asr.score import score_utterances


def main() -> int:
    """Try all combinations; return 2 after an error of the user's."""
    parser = Parser(description=__doc__)
    parser.add_argument("model", help="model directory")
    parser.add_argument("manifest")
    parser.add_argument("--lm", type=Path, help="language model (default: the model's own)")
    parser.add_argument("--limit", type=int, default=100, help="utterances, evenly picked")
    parser.add_argument("--beam-sizes", type=int, nargs="+", default=[8])
    parser.add_argument("--ctc-weights", type=float, nargs="+", default=[0.3, 0.5, 0.7, 1.0])
    parser.add_argument("--lm-weights", type=float, nargs="+", default=[0.0, 0.3, 0.5])
    parser.add_argument("--length-bonuses", type=float, nargs="+", default=[0.0, 0.5, 1.0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        bundle = load_model(options.model)
        if options.lm is not None:
            bundle = replace(bundle, language_model=CharNgramLM.load(options.lm))
        utterances = read_manifest(options.manifest)
        step = max(1, len(utterances) // options.limit)
        utterances = utterances[::step][: options.limit]
        waveforms = [load_audio(u.audio_filepath) for u in utterances]
    except ValueError as error:
        print(f"tune_search: {error}", file=sys.stderr)
        return 2
    seconds = sum(len(waveform) for waveform in waveforms) / 16000
    searches = [SearchConfig(method=method) for method in ("ctc", "greedy")]
    for beam, ctc, lm, bonus in itertools.product(
        options.beam_sizes, options.ctc_weights, options.lm_weights, options.length_bonuses
    ):
        searches.append(SearchConfig("beam", beam, ctc, lm, bonus))
    results = []
    for search in searches:
        started = time.perf_counter()
        texts = [heard.text for heard in recognize(bundle, waveforms, search, words=False)]
        rtfx = seconds / (time.perf_counter() - started)
        references = [normalize_text(u.text) for u in utterances]
        triples = zip(map(str, range(len(texts))), references, texts, strict=True)
        score = score_utterances(triples)
        results.append((score.wer, score.cer, rtfx, search))
        print(describe(*results[-1]), flush=True)
    results.sort(key=lambda result: result[0])
    print("\nbest first:")
    for result in results[:10]:
        print(describe(*result))
    best = results[0][3]
    print(
        f"\nsearch.method={best.method} search.beam_size={best.beam_size} "
        f"search.ctc_weight={best.ctc_weight} search.lm_weight={best.lm_weight} "
        f"search.length_bonus={best.length_bonus}"
    )
    return 0


def describe(wer: float, cer: float, rtfx: float, search: SearchConfig) -> str:
    """Return a line of the table."""
    settings = (
        f"beam {search.beam_size:2d} ctc {search.ctc_weight:.2f} lm {search.lm_weight:.2f} "
        f"bonus {search.length_bonus:.2f}"
        if search.method == "beam"
        else search.method
    )
    return f"WER {100 * wer:6.2f}  CER {100 * cer:6.2f}  {rtfx:6.1f} x real time  {settings}"


if __name__ == "__main__":
    sys.exit(main())
