"""The machine: its memory, and how a tensor gets to its device without a wait."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

SHARE_OF_MEMORY = 0.25  # of a device's, that one thing which is kept may take


def measure_peak_memory(device: torch.device) -> int:
    """Return the largest memory that was used so far, in bytes: the GPU's, else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure_total_memory(device: torch.device) -> int:
    """Return how much memory there is where a device computes, in bytes; a container's limit."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    import psutil

    limits = [psutil.virtual_memory().total]
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroups v2, v1
        try:
            limits.append(int((Path("/sys/fs/cgroup") / file).read_text()))
        except (OSError, ValueError):  # none, or "max"
            continue
    return min(limits)


def fits(size: int, device: torch.device) -> bool:
    """Tell whether so many bytes may be kept on a device; on the CPU they lie there already."""
    return device.type in ("cpu", "meta") or size <= SHARE_OF_MEMORY * measure_total_memory(device)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, without waiting for what that is doing.

    A GPU copies in the background from pinned memory only; from any other it stops the program
    until all its work is done.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type != "mps")
