"""What the processes of one run do together.

Every process goes through the same steps with the same numbers. What only one of them may do
(folders, files, locks) the main process does, and the others get what came of it; work of many
like parts is shared out. All of this holds inside ``joining.join_processes`` and in the thread that
called it; anywhere else a process is alone, whatever runs beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from clip_adapt.errors import InputError

A = TypeVar("A")
B = TypeVar("B")

LOST = (
    "another process of this run has ended, killed or out of memory, so this one ends as well; "
    "run the same command again"
)


class LostProcessError(InputError):
    """Another process of the run is gone."""


class QuietError(InputError):
    """The run is refused, and another process has said why: nobody prints this one."""


@dataclass(frozen=True)
class Group:
    """The processes of a run.

    Attributes:
        rank: the number of this one; 0 is the main process.
        count: how many there are.
        channel: the group of torch.distributed by which values of Python are exchanged.
    """

    rank: int
    count: int
    channel: Any


ALONE = Group(0, 1, None)
_group: ContextVar[Group] = ContextVar("group", default=ALONE)


def count_processes() -> int:
    """Return how many processes share the run of this thread; 1 outside ``join_processes``."""
    return _group.get().count


def read_rank() -> int:
    """Return the number of this process among those of the run; 0 is the main process."""
    return _group.get().rank


def is_alone() -> bool:
    """Tell whether no other process shares the run of this thread."""
    return _group.get() is ALONE


@contextlib.contextmanager
def set_group(group: Group) -> Iterator[None]:
    """Let the block be the work of a group's processes."""
    token = _group.set(group)
    try:
        yield
    finally:
        _group.reset(token)


def is_main() -> bool:
    """Tell whether this process is the one that writes and speaks."""
    return _group.get().rank == 0


@contextlib.contextmanager
def stay_alone() -> Iterator[None]:
    """Do the block as if there were no other process."""
    with set_group(ALONE):
        yield


def run_on_main(work: Callable[[], A]) -> A:
    """Return what the main process gets; the others wait for it.

    Raises:
        QuietError: in the other processes, when the main one raises.
    """
    group = _group.get()
    if group.count == 1:
        return work()
    if group.rank:
        told: Any = broadcast(None)
        if told[0] is not None:
            raise QuietError(told[0])
        return told[1]
    try:
        with stay_alone():
            value = work()
    except Exception as error:
        broadcast((str(error), None))
        raise
    broadcast((None, value))
    return value


@contextlib.contextmanager
def hold_on_main(context: contextlib.AbstractContextManager[A]) -> Iterator[A | None]:
    """Enter a context in the main process only, and yield what it gives there (None elsewhere).

    Raises:
        QuietError: in the other processes, when the main one cannot enter it.
    """
    with contextlib.ExitStack() as stack:
        held: list[A] = []
        run_on_main(lambda: held.append(stack.enter_context(context)))
        yield held[0] if held else None


def run_main_first(work: Callable[[], A]) -> A:
    """Return what each process gets, the main one before the others: they find what it has made.

    Raises:
        QuietError: in the other processes, when the main one raises.
    """
    done: list[A] = []
    run_on_main(lambda: done.append(work()))
    with stay_alone():
        return done[0] if done else work()


def share_work(work: Callable[[Sequence[A]], Sequence[B]], items: Sequence[A]) -> list[B]:
    """Return the results of all items, in their order, each process having done a part of them.

    Args:
        work: gives the results of some items, in their order.
        items: the same in every process.

    Raises:
        Exception: the first that ``work`` raises; ``QuietError`` in the processes beside.
    """
    group = _group.get()
    if group.count == 1:
        return list(work(items))
    mine: tuple[Exception | None, list[B]] = (None, [])
    try:
        with stay_alone():
            mine = (None, list(work(items[group.rank :: group.count])))
    except Exception as error:
        mine = (error, [])
    parts = gather((None if mine[0] is None else str(mine[0]), mine[1]))
    if mine[0] is not None:
        raise mine[0]
    failures = [failure for failure, _ in parts if failure is not None]
    if failures:
        raise QuietError(failures[0])
    return [parts[i % group.count][1][i // group.count] for i in range(len(items))]


def find_channel(device: Any) -> Any:
    """Return the group of torch.distributed by which tensors on a torch.device are exchanged."""
    return _group.get().channel if device.type == "cpu" else None


def broadcast(value: A) -> A:
    """Return the main process's value in every process."""
    import torch.distributed as dist

    group = _group.get()
    if group.count == 1:
        return value
    box = [value]
    with watch_others():
        dist.broadcast_object_list(box, src=0, group=group.channel)
    return box[0]


def gather(value: A) -> list[A]:
    """Return the values of all processes, by their numbers."""
    import torch.distributed as dist

    group = _group.get()
    if group.count == 1:
        return [value]
    box: list[Any] = [None] * group.count
    with watch_others():
        dist.all_gather_object(box, value, group=group.channel)
    return box


@contextlib.contextmanager
def watch_others() -> Iterator[None]:
    """Do the block, in which processes exchange tensors.

    Raises:
        LostProcessError: when one of them is gone.
    """
    try:
        yield
    except RuntimeError as error:
        # torch.distributed has no exception of its own for this: gloo's are plain RuntimeErrors.
        raise LostProcessError(LOST) from error
