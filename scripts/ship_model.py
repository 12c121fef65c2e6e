"""Make a trained model the default one, which lies inside the package.

    python scripts/ship_model.py runs/cpu_19h/last --lm runs/lm/lm.safetensors \\
        search.method=beam search.ctc_weight=0.5 search.lm_weight=0.4
    python scripts/calibrate_confidence.py asr/models/default DEV_MANIFEST …
    python recipes/librispeech/evaluate.py asr/models/default --name default

Weights are stored in half precision; computing stays in single precision. The model card beside
them is kept as it is; the third command fills in its figures. The calibration of confidences
belongs to the old weights and is deleted; the second command makes a new one.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from asr.arguments import Parser
from asr.checkpoint import CONFIDENCE, DEFAULT_MODEL, LANGUAGE_MODEL, load_model, save_model
from asr.config import load_config
from asr.lm import CharNgramLM


def main() -> int:
    """Convert and copy; return 2 after an error of the user's."""
    parser = Parser(description=__doc__)
    parser.add_argument("model", help="model directory")
    parser.add_argument("--lm", type=Path, help="its language model")
    parser.add_argument("overrides", nargs="*", metavar="search.key=value")
    options = parser.parse_intermixed_args()
    try:
        bundle = load_model(options.model)
        language_model = CharNgramLM.load(options.lm) if options.lm else None
        search = load_config(None, options.overrides).search if options.overrides else None
    except ValueError as error:
        print(f"ship_model: {error}", file=sys.stderr)
        return 2
    config = replace(bundle.config, search=search or bundle.config.search)
    save_model(
        DEFAULT_MODEL, bundle.model, bundle.features, bundle.tokenizer, config, torch.float16
    )
    (DEFAULT_MODEL / CONFIDENCE).unlink(missing_ok=True)
    if language_model is not None:
        language_model.save(DEFAULT_MODEL / LANGUAGE_MODEL)
    size = sum(path.stat().st_size for path in DEFAULT_MODEL.iterdir()) / 1e6
    print(f"{DEFAULT_MODEL}: {size:.1f} MB, search {config.search}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
