"""Train on LibriSpeech with one of the configurations beside this file.

    python recipes/librispeech/train.py mini_5h
    python recipes/librispeech/train.py clean_100h train.batch_seconds=120
    python recipes/librispeech/train.py cpu_19h train.device=cpu train.resume=true
    torchrun --nproc-per-node 4 recipes/librispeech/train.py full_960h

Manifests come from `prepare.py`; every setting of the configuration can be overridden with
`section.key=value`. A name is a file in `configs/`, a path any other file.
"""

from __future__ import annotations

import sys
from pathlib import Path

from asr.arguments import Parser

CONFIGS = Path(__file__).parent / "configs"


def find_config(name: str) -> Path:
    """Return the file of a configuration.

    Args:
        name: A name in `configs/` without its ending, or a path.

    Raises:
        ValueError: There is no such configuration.
    """
    for path in (CONFIGS / f"{name}.toml", Path(name)):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.toml"))) or "none"
    raise ValueError(f"configuration {name!r} not found: known are {known}, or give a file")


def main(argv: list[str] | None = None) -> int:
    """Train; return 2 after an error of the user's."""
    parser = Parser(description=__doc__)
    parser.add_argument("config", help="name in configs/, or a file")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    arguments = parser.parse_args(argv)
    try:
        config = find_config(arguments.config)
    except ValueError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    from asr import train  # after the arguments are known to be right: torch takes its time

    return train.main([str(config), *arguments.overrides])


if __name__ == "__main__":
    raise SystemExit(main())
