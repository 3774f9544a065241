"""Locks: one holder, a message that names it, and none that outlives its process."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from clip_adapt.system import locks

HOLD = """
import pathlib, sys, time
from clip_adapt.system import locks
with locks.hold_lock(pathlib.Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock file ``held``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out" / locks.NAME)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_lock_leaves_no_file(tmp_path):
    path = tmp_path / "deep" / "er" / ".lock"
    with locks.hold_lock(path, "it"):
        assert path.read_text() == f"process {os.getpid()} on {os.uname().nodename}"
    assert not path.exists()
    with locks.hold_lock(path, "it"):
        pass


def test_a_lock_is_let_go_by_an_error(tmp_path):
    path = tmp_path / ".lock"
    with pytest.raises(ZeroDivisionError), locks.hold_lock(path, "it"):
        1 / 0  # noqa: B018
    with locks.hold_lock(path, "it"):
        pass


def test_another_process_is_named(holder, tmp_path):
    path = tmp_path / "out" / locks.NAME
    with pytest.raises(locks.BusyError) as caught, locks.hold_lock(path, "the output folder out"):
        pass
    assert str(caught.value) == (
        f"the output folder out is in use by process {holder.pid} on {os.uname().nodename}: "
        "wait until it ends, or choose another place with output=DIR"
    )
    assert path.exists()


def test_a_killed_process_holds_nothing(holder, tmp_path):
    path = tmp_path / "out" / locks.NAME
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert path.exists()
    with locks.hold_lock(path, "it"):
        assert str(os.getpid()) in path.read_text()


def test_of_many_threads_one_holds_at_a_time(tmp_path):
    path, holding, most, got = tmp_path / ".lock", [], [], []

    def work():
        for _ in range(200):
            try:
                with locks.hold_lock(path, "it"):
                    holding.append(1)
                    most.append(len(holding))
                    holding.pop()
                    got.append(1)
            except locks.BusyError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1} and len(got) == len(most)


def test_a_run_into_a_folder_in_use_is_refused(
    holder, train_tiny, animals, tmp_path, everything_in
):
    code, _, err = train_tiny(animals, "method=zero_shot")
    assert code == 2
    assert err.endswith(
        f"error: the output folder out is in use by process {holder.pid} on "
        f"{os.uname().nodename}: wait until it ends, or choose another place with output=DIR\n"
    )
    assert everything_in(tmp_path / "out") == [locks.NAME]
