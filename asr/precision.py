"""Whether a processor computes in bfloat16, or only imitates it."""

from __future__ import annotations

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 in hardware.

    An x86 CPU without that turns every number around on the way: training in bfloat16 is then tens
    of times slower than in single precision, and some layers cannot be run at all.
    """
    if device.type != "cpu":
        return True
    found = torch.cpu.get_capabilities()
    if found.get("architecture") != "x86_64":
        return True
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
