"""Make a trained model the default one, which lies inside the package.

    python scripts/ship_model.py runs/cpu_19h/last --lm runs/lm/lm.safetensors \\
        --word-lm runs/lm/words.safetensors search.method=words search.lm_weight=1.1
    python scripts/calibrate_confidence.py asr/models/default DEV_MANIFEST …
    python recipes/librispeech/evaluate.py asr/models/default --name default

Weights are stored in eight bits, or with `--storage fp16` in half precision; computing stays in
single precision. Language models and lexicon that the model has go along. The model card beside
them is kept as it is; the third command fills in its figures. The calibration of confidences
belongs to the old weights and is deleted; the second command makes a new one. `--output-dir`
writes elsewhere, to look at a model before it is shipped.

Each `--average MODEL` joins the mean of several runs' weights. They must have begun from the same
ones, with other chance or settings: then the mean is often better than each (Wortsman et al.,
"Model soups", 2022). They may also be those that the run began from, which may lack its last
residual blocks (`model.conv_blocks`): these added nothing then.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from asr.arguments import Parser
from asr.checkpoint import (
    CONFIDENCE,
    DEFAULT_MODEL,
    LANGUAGE_MODEL,
    LEXICON,
    RECURRENT_MODEL,
    WORD_MODEL,
    ModelBundle,
    load_model,
    save_model,
)
from asr.config import load_config
from asr.finetune import has_blocks_of, network_differences
from asr.lexicon import Lexicon
from asr.lm import CharNgramLM
from asr.recurrent_lm import RecurrentWordLM
from asr.word_lm import WordNgramLM

STORAGE = {"int8": torch.int8, "fp16": torch.float16}


def average(bundle: ModelBundle, others: Sequence[ModelBundle]) -> None:
    """Replace the weights of a model by the mean of them and those of others.

    Raises:
        ValueError: One is another network, or has another alphabet.
    """
    states = [bundle.model.state_dict()]
    for other in others:
        fewer = ["conv_blocks"] if has_blocks_of(bundle.config, other.config) else []
        found = network_differences(bundle.config, other.config, *fewer)
        if other.tokenizer.alphabet != bundle.tokenizer.alphabet:
            found.append(f"data.alphabet={other.tokenizer.alphabet!r}")
        if found:
            raise ValueError(
                f"--average: {other.directory} is another network than {bundle.directory}: "
                f"found {' '.join(found)}"
            )
        state = other.model.state_dict()
        for name in states[0].keys() - state.keys():  # of a block, which ends in `narrow`
            weights = states[0][name]
            state[name] = torch.zeros_like(weights) if ".narrow." in name else weights
        states.append(state)
    for name, weights in states[0].items():
        weights.copy_(torch.stack([state[name] for state in states]).mean(0))


def main(argv: Sequence[str] | None = None) -> int:
    """Convert and copy; return 2 after an error of the user's."""
    parser = Parser(description=__doc__)
    parser.add_argument("model", help="model directory")
    parser.add_argument(
        "--average",
        action="append",
        default=[],
        metavar="MODEL",
        help="another, to take the mean with; may be given several times",
    )
    parser.add_argument("--lm", type=Path, help="its language model")
    parser.add_argument("--lexicon", type=Path, help="its pronunciations, as text or as saved")
    parser.add_argument("--word-lm", type=Path, help="its language model of words")
    parser.add_argument("--recurrent-lm", type=Path, help="its recurrent language model of words")
    parser.add_argument("--storage", choices=STORAGE, default="int8", help="type of large weights")
    parser.add_argument("--output-dir", type=Path, default=DEFAULT_MODEL)
    parser.add_argument("overrides", nargs="*", metavar="search.key=value")
    options = parser.parse_intermixed_args(argv)
    try:
        bundle = load_model(options.model)
        average(bundle, [load_model(name, language_model=False) for name in options.average])
        language_model = CharNgramLM.load(options.lm) if options.lm else bundle.language_model
        lexicon = Lexicon.open(options.lexicon) if options.lexicon else bundle.lexicon
        word_model = bundle.word_model
        if options.word_lm:
            word_model = WordNgramLM.load(options.word_lm)
        recurrent_model = bundle.recurrent_model
        if options.recurrent_lm:
            recurrent_model = RecurrentWordLM.load(options.recurrent_lm)
        search = load_config(None, options.overrides).search if options.overrides else None
        config = replace(bundle.config, search=search or bundle.config.search)
        folder = options.output_dir
        save_model(
            folder, bundle.model, bundle.features, bundle.tokenizer, config,
            STORAGE[options.storage],
        )  # fmt: skip
        (folder / CONFIDENCE).unlink(missing_ok=True)
        if not config.model.phone_labels:  # no use for those of a model that lay here before
            (folder / LEXICON).unlink(missing_ok=True)
            (folder / WORD_MODEL).unlink(missing_ok=True)
            (folder / RECURRENT_MODEL).unlink(missing_ok=True)
        if language_model is not None:
            language_model.save(folder / LANGUAGE_MODEL)
        if lexicon is not None:
            lexicon.save(folder / LEXICON)
        if word_model is not None:
            word_model.save(folder / WORD_MODEL)
        if recurrent_model is not None:
            recurrent_model.save(folder / RECURRENT_MODEL)
    except (ValueError, OSError) as error:
        print(f"ship_model: {error}", file=sys.stderr)
        return 2
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"{folder}: {size:.1f} MB, search {config.search}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
