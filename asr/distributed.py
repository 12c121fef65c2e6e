"""One process or many, started by ``torchrun``: who am I, and what do we agree on."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def rank() -> int:
    """Return this process's number, 0 without ``torchrun``."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes, 1 without ``torchrun``."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Tell whether this process is the one that writes files."""
    return rank() == 0


def start(device: str) -> torch.device:
    """Join the process group that ``torchrun`` describes, if any.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        The device of this process: its own GPU if there are several.

    Raises:
        ValueError: A GPU was asked for and none is there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("train.device: found no CUDA device, wanted one; use device=cpu")
    on_gpu = device != "cpu" and torch.cuda.is_available()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if on_gpu:
        torch.cuda.set_device(local_rank)
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        # Its functions have the group of the time of its import as their default and would keep
        # it for ever: a thread of gloo's that outlives the interpreter aborts the process.
        importlib.import_module("torch.distributed.nn")
        # Counts and flags go through gloo from the CPU, so that no GPU has to wait for them.
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    return torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")


def stop() -> None:
    """Leave the process group, if there is one; whoever holds on to it keeps its threads."""
    if dist.is_initialized():
        dist.destroy_process_group()


def lost_a_process(error: RuntimeError) -> bool:
    """Tell whether an error comes from another process that is gone or does not answer."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def wait_for_all() -> None:
    """Return when every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def mean(values: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes."""
    if world_size() > 1:
        dist.all_reduce(values)
        values = values / world_size()
    return values


def total(values: Sequence[float]) -> list[float]:
    """Return the sum of each value over all processes; nothing on a GPU is waited for."""
    if world_size() == 1:
        return list(values)
    summed = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(summed)
    return summed.tolist()


def share(function: Callable[[Tensor], Tensor], items: Tensor) -> Tensor:
    """Return a function of items (N, …) that keeps their shape; each process works out a part.

    All processes must have the same items; all get the same result.
    """
    processes = world_size()
    if processes == 1:
        return function(items)
    each = -(-len(items) // processes)
    own = torch.zeros_like(items[:each])
    mine = items[rank() * each :][:each]
    if len(mine):
        own[: len(mine)] = function(mine)
    parts = [torch.empty_like(own) for _ in range(processes)]
    dist.all_gather(parts, own)
    return torch.cat(parts)[: len(items)]


def gather(item: Any) -> list[Any]:
    """Return every process's picklable item, in the order of ranks, on every process."""
    if world_size() == 1:
        return [item]
    items: list[Any] = [None] * world_size()
    dist.all_gather_object(items, item)
    return items
