"""Kill training runs at random moments; every one must end as if nothing had happened.

    python tools/torture/kill_training.py [--kills 20] [--seed 1] [--method coop] [--signal INT]

A run is killed, begun again by the same command, killed again, and comes to its end at last; then
its delta is compared, bit by bit, with that of a run that was never interrupted, and its folder
must hold the same files. Then it begins from nothing, until there were as many kills as asked for.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from safetensors.numpy import load_file

SMALL = ["dataset=eyes", "model=lite", "shots=1", "batch_size=4", "drop_last=false"]
SMALL += [f"dataset.per_class.{split}=2" for split in ("train", "val", "test")]
RUNS = {
    "coop": [*SMALL, "epochs=100", "views=2"],
    "lora": [*SMALL, "epochs=6"],
}
MOST = 3  # kills of one run, then it may come to its end
EVERY = 0.2  # seconds between two checkpoints
PATIENCE = 60.0  # seconds in which a run that is asked to stop must have stopped
SIGNALS = {"KILL": signal.SIGKILL, "INT": signal.SIGINT, "TERM": signal.SIGTERM}


@dataclass
class Tally:
    """What came of the kills of one method."""

    kills: int = 0
    resumed: int = 0  # starts that went on in the middle of a training
    finished: int = 0
    different: int = 0
    files_left: int = 0
    hung: int = 0  # did not stop when asked to
    said_badly: int = 0  # with another code, or a traceback
    slowest: float = 0.0  # seconds from the signal to the end


@dataclass(frozen=True)
class Blow:
    """When a run is killed, by what, and where it is noted how it took that."""

    seconds: float
    number: signal.Signals
    tally: Tally


def train(method: str, folder: Path, place: Path, blow: Blow | None = None) -> str | None:
    """Run a training, and kill it after some seconds.

    Returns:
        what it printed; None when it was killed.
    """
    options = [f"method={method}", *RUNS[method], f"checkpoint={EVERY}", f"output={folder}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "clip_adapt.train", *options],
        cwd=place,
        env={**os.environ, "CLIP_ADAPT_CACHE": str(place / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        printed, _ = process.communicate(timeout=blow and blow.seconds)
    except subprocess.TimeoutExpired:
        assert blow is not None, "nothing else has a time"
        strike(process, blow)
        return None
    if process.returncode:
        raise SystemExit(f"a run failed with code {process.returncode}:\n{printed}")
    return printed


def strike(process: subprocess.Popen[str], blow: Blow) -> None:
    """Send the signal and note what comes of it; before torch is imported nobody listens yet."""
    process.send_signal(blow.number)
    begin = time.perf_counter()
    try:
        printed, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        blow.tally.hung += 1
        process.kill()
        process.communicate()
        return
    blow.tally.slowest = max(blow.tally.slowest, time.perf_counter() - begin)
    if blow.number != signal.SIGKILL:
        as_agreed = process.returncode == 128 + blow.number and "Traceback" not in printed
        is_done = "saved: " in printed  # all was written, and the interpreter was about to end
        if not (as_agreed or is_done):
            blow.tally.said_badly += 1
            print(f"after {blow.seconds:.2f} s: {process.returncode} {printed[-600:]}", flush=True)


def list_files(folder: Path) -> set[str]:
    """Return the names of all files of a run; those of TensorBoard have a time in theirs."""
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {re.sub(r"tfevents\..*", "tfevents", name) for name in names}


def read_delta(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every tensor of a run's delta."""
    tensors = load_file(folder / "adapter/adapter.safetensors")
    return {name: tensor.tobytes() for name, tensor in tensors.items()}


def torture(method: str, kills: int, seed: int, number: signal.Signals, place: Path) -> Tally:
    """Kill the runs of one method."""
    stream, tally = random.Random(f"{method} {seed}"), Tally()
    whole, folder = place / f"{method}-whole", place / method
    train(method, place / "warm", place)  # draws the images and fills the caches
    shutil.rmtree(place / "warm")
    begin = time.perf_counter()
    train(method, whole, place)
    longest = time.perf_counter() - begin
    expected = read_delta(whole)
    in_a_row = 0
    while tally.kills < kills:
        blow = Blow(stream.uniform(0, longest), number, tally)
        printed = train(method, folder, place, blow)
        if printed is None:
            tally.kills, in_a_row = tally.kills + 1, in_a_row + 1
            if tally.kills < kills and in_a_row < MOST:
                continue
            printed = train(method, folder, place)
        tally.resumed += "going on from step" in (printed or "")
        tally.finished += 1
        tally.different += read_delta(folder) != expected
        tally.files_left += len(list_files(folder) ^ list_files(whole))
        shutil.rmtree(folder)
        in_a_row = 0
    return tally


def main() -> int:
    """Print one line a method; return 1 when anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--method", choices=RUNS, action="append")
    parser.add_argument("--signal", choices=SIGNALS, default="KILL")
    given = parser.parse_args()
    wrong = 0
    for method in given.method or RUNS:
        with tempfile.TemporaryDirectory() as name:
            tally = torture(method, given.kills, given.seed, SIGNALS[given.signal], Path(name))
        wrong += tally.different + tally.files_left + tally.hung + tally.said_badly
        print(
            f"{method}: {tally.kills} kills; {tally.finished} runs finished, {tally.resumed} of "
            f"them went on from a checkpoint; {tally.different} other deltas, "
            f"{tally.files_left} files too many or too few; {tally.hung} hung, "
            f"{tally.said_badly} ended otherwise than agreed, the slowest after "
            f"{tally.slowest:.1f} s",
            flush=True,
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
