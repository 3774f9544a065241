"""How processes that ``torchrun`` or ``accelerate launch`` has started become those of a run."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from clip_adapt.errors import InputError
from clip_adapt.system.launch.processes import Group, QuietError, is_alone, set_group
from clip_adapt.system.quiet import ignore_warnings

# How many processes a launcher has started: torchrun, accelerate launch; the kinds of MPI.
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
PATIENCE = datetime.timedelta(hours=6)  # the longest step that one process takes and others await

_joins = itertools.count(1)
_has_joined = threading.Event()
_is_watching = threading.Event()


@contextlib.contextmanager
def join_processes(*, cpu: bool) -> Iterator[None]:
    """Do the block as one of the processes that a launcher has started; alone without a launcher.

    Only the main process logs. What stops one process stops all of them, and is said by one.

    Args:
        cpu: whether the processes compute on CPUs.

    Raises:
        InputError: when the processes do not find one another.
        LostProcessError: when another process is gone.
        QuietError: in place of a refusal that another process has spoken of.
    """
    if not is_alone() or count_launched() == 1:
        yield
        return
    group, store = _start_group(cpu)
    _has_joined.set()
    logger = logging.getLogger("clip_adapt")
    level = logger.level
    if group.rank:
        logger.setLevel(logging.CRITICAL)
    try:
        with set_group(group):
            yield
    except InputError as error:
        if isinstance(error, QuietError) or not _is_first(store):
            raise QuietError(str(error)) from error
        raise
    finally:
        logger.setLevel(level)


def speaks(error: InputError) -> bool:
    """Tell whether this process is the one that tells a user of a refusal.

    Before the processes of a launch have joined, each is refused for the same reason.
    """
    return not isinstance(error, QuietError) and (_has_joined.is_set() or is_first())


def is_first() -> bool:
    """Tell whether this process is the first that a launcher has started, or the only one."""
    try:
        return int(os.environ.get("RANK") or 0) == 0
    except ValueError:  # no launcher's; a refusal is said all the same
        return True


def count_launched() -> int:
    """Return how many processes a launcher says that it has started.

    Raises:
        InputError: when that is no number.
    """
    return max(parse_number(name, os.environ.get(name, ""), 1) for name in SIZES)


def parse_number(name: str, text: str, default: int) -> int:
    """Return the number in a variable of the environment that a launcher sets.

    Raises:
        InputError: when it is none.
    """
    try:
        return int(text or default)
    except ValueError:
        raise InputError(
            f"the environment says {name}={text[:40]!r}, which launchers set to a whole number: "
            f"unset {name}, or start the processes with torchrun"
        ) from None


def end_with_launcher() -> None:
    """End this process soon after torchrun or accelerate, should one have started it and be killed.

    Nothing works on unseen: the process gets SIGTERM, and ten seconds to clean up.
    """
    is_launched = os.name == "posix" and "TORCHELASTIC_RUN_ID" in os.environ
    if is_launched and not _is_watching.is_set():
        _is_watching.set()
        watch = threading.Thread(target=_watch_launcher, args=(os.getppid(),), daemon=True)
        watch.start()


def _watch_launcher(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
    os.kill(os.getpid(), signal.SIGKILL)


def _start_group(cpu: bool) -> tuple[Group, Any]:
    import torch
    import torch.distributed as dist

    with ignore_warnings():
        from accelerate import PartialState

    if "OMP_NUM_THREADS" not in os.environ:  # torchrun sets it to 1; others leave it open
        beside = int(os.environ.get("LOCAL_WORLD_SIZE") or count_launched())
        threads = max(1, (os.cpu_count() or 1) // beside)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
    try:
        # A launch may be of another kind than the processes compute on.
        state = PartialState(cpu=cpu, timeout=PATIENCE)
        channel = dist.new_group(backend="gloo", timeout=PATIENCE)
        server = dist.TCPStore(
            os.environ.get("MASTER_ADDR", "127.0.0.1"),
            int(os.environ.get("MASTER_PORT", 29500)),
            is_master=False,
            timeout=datetime.timedelta(seconds=60),
        )
    except (RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{count_launched()} processes were launched and do not find one another ({reason}). "
            "Launch them with torchrun --nproc_per_node N -m clip_adapt.train ..."
        ) from error
    end_with_launcher()
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"clip_adapt/{restart}/{next(_joins)}", server)
    return Group(state.process_index, state.num_processes, channel), store


def _is_first(store: Any) -> bool:
    # Who comes first speaks; when the store has died with its process, whoever is left does.
    try:
        return store.add("stopped", 1) == 1
    except RuntimeError:
        return True
