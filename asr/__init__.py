"""Open-source speech recognition with recurrent encoders and an attention decoder.

Axis letters used in shape comments everywhere: B batch, N samples, T frames, S encoder
frames, F mel bands, U tokens, K beam, V vocabulary, D encoder width, H decoder width.

Nothing heavy is imported before it is asked for, so that ``import asr`` is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr.audio import AudioError as AudioError
    from asr.recognizer import Recognizer as Recognizer
    from asr.recognizer import load_model as load_model
    from asr.transcript import Segment as Segment
    from asr.transcript import Transcript as Transcript
    from asr.transcript import Word as Word

__version__ = "0.1.0"

_MODULE_OF = {
    "load_model": "recognizer",
    "Recognizer": "recognizer",
    "Transcript": "transcript",
    "Segment": "transcript",
    "Word": "transcript",
    "AudioError": "audio",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for by its first use (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"asr.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    """Return the names that are to be had."""
    return sorted([*globals(), *_MODULE_OF])
