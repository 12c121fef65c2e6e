"""Take some utterances of a manifest, at equal distances: a small corpus to try things with.

python recipes/finetune/pick.py data/tiny/train.jsonl --count 10 --output runs/finetune/ten.jsonl
"""

from __future__ import annotations

import sys
from pathlib import Path

from asr.arguments import Parser
from asr.manifest import read_manifest, write_manifest


def main(argv: list[str] | None = None) -> int:
    """Run the program; return 2 after an error of the user's."""
    parser = Parser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(argv)
    try:
        utterances = read_manifest(options.manifest)
        if not 1 <= options.count <= len(utterances):
            raise ValueError(f"--count: found {options.count}, wanted 1 to {len(utterances)}")
        picked = [utterances[i * len(utterances) // options.count] for i in range(options.count)]
        write_manifest(options.output, picked)
    except (ValueError, OSError) as error:
        print(f"pick: {error}", file=sys.stderr)
        return 2
    seconds = sum(utterance.duration for utterance in picked)
    print(f"{options.output}: {len(picked)} utterances, {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
