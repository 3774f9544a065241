"""Whether threads of OpenMP spin or sleep while they wait, which is settled when torch is imported.

Threads that spin slow each other down by a factor of 50 as soon as another program takes a core
(measured on 2 cores).
"""

from __future__ import annotations

import logging
import os
import sys
import threading

POLICY = "OMP_WAIT_POLICY"
LATE = (
    "torch was imported before clip_adapt, so its threads spin while they wait, and a run may take "
    "many times as long when another program takes a core: import clip_adapt first, or set "
    f"{POLICY}=PASSIVE"
)

log = logging.getLogger(__name__)
_is_late = threading.Event()


def let_threads_sleep() -> None:
    """Let threads sleep while they wait, unless the user has said what they do."""
    if POLICY not in os.environ and "torch" in sys.modules:
        _is_late.set()
    os.environ.setdefault(POLICY, "PASSIVE")


def tell_of_spinning() -> None:
    """Say once that threads spin, where several of them compute."""
    if _is_late.is_set():
        _is_late.clear()
        import torch

        if torch.get_num_threads() > 1:
            log.info(LATE)
