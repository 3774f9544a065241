"""The net under a change that is to change no number: what every kind of run gives, as digests.

    python tools/net.py record before.json       # on the commit before
    python tools/net.py compare before.json      # on the commit after; lists what is different

Runs go through the public command line alone, in one process, on tiny settings, so the tool works
on either side of any move inside the package. Digests hold on one machine with one set of
libraries: they are compared there and not committed.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
from PIL import Image
from safetensors import safe_open

from clip_adapt.cli import main as command_line

Run = tuple[str, list[str]]

EYES = [
    "dataset=eyes",
    "dataset.per_class.train=6",
    "dataset.per_class.val=3",
    "dataset.per_class.test=4",
    "dataset.size=64",
    "shots=3",
]
SHORT = ["epochs=3"]
PETS = ["dataset=pets", "shots=3"]
TABLE = ["dataset=table.csv", "shots=2"]
PAIRS = ["dataset=pairs.csv", "objective=contrastive", "batch_size=8", "epochs=3", "warmup=1"]

CASES: dict[str, Run] = {
    "zero_shot": ("train", ["method=zero_shot", *EYES]),
    "coop": ("train", ["method=coop", *EYES, *SHORT]),
    "coop-csc": ("train", ["method=coop", *EYES, *SHORT, "method.csc=true", "method.n_ctx=4"]),
    "coop-middle": (
        "train",
        ["method=coop", *EYES, *SHORT, "method.position=middle", "method.n_ctx=4", "select=val"],
    ),
    "cocoop": ("train", ["method=cocoop", *PETS, "epochs=2"]),
    "adapter": ("train", ["method=adapter", *EYES, *SHORT, "lr=0.1"]),
    "adapter-light": (
        "train",
        ["method=adapter", *PETS, *SHORT, "views=2", "augment=light", "class_balanced=true"],
    ),
    "taskres": ("train", ["method=taskres", *EYES, *SHORT]),
    "tip_adapter": ("train", ["method=tip_adapter", *EYES]),
    "tip_adapter-f": ("train", ["method=tip_adapter", *PETS, "epochs=3", "lr=0.001"]),
    "gda": ("train", ["method=gda", *EYES]),
    "linear_probe": ("train", ["method=linear_probe", *EYES]),
    "linear_probe-folds": ("train", ["method=linear_probe", *TABLE, "method.init=zero_shot"]),
    "lora": ("train", ["method=lora", *PETS, "iterations_per_shot=2"]),
    "lora-text": ("train", ["method=lora", *PETS, "iterations_per_shot=2", "method.towers=text"]),
    "auto": ("train", ["method=auto", *PETS, *SHORT]),
    "all": ("train", ["method=tip_adapter", *TABLE, "sampling=all"]),
    "natural": ("train", ["method=taskres", *TABLE, *SHORT, "sampling=natural"]),
    "guard": ("train", ["method=taskres", *PETS, *SHORT, "guard=true"]),
    "guard-folds": ("train", ["method=gda", *TABLE, "guard=true"]),
    "calibrated": ("train", ["method=taskres", *EYES, *SHORT, "calibrate=true", "conformal=0.2"]),
    "descriptions": ("train", ["method=taskres", *EYES, *SHORT, "prompts=both"]),
    "base_to_new": ("train", ["method=coop", *EYES, "epochs=2", "protocol=base_to_new"]),
    "cross_dataset": (
        "train",
        ["method=adapter", *EYES, "epochs=2", "protocol=cross_dataset", "test_on=pets"],
    ),
    "captions-coop": ("train", ["method=coop", *PAIRS, "method.n_ctx=4"]),
    "captions-lora": ("train", ["method=lora", *PAIRS, "select=val"]),
    "captions-adapter": ("train", ["method=adapter", *PAIRS, "dedup=false"]),
    "sweep": (
        "sweep",
        ["method=taskres", *PETS, *SHORT, "seed=[1,2]", "lr=[0.001,0.01]", "tensorboard=false"],
    ),
}


def main() -> int:
    """Record, or compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("verb", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", nargs="*", help="names of cases")
    args = parser.parse_args()
    file = args.file.absolute()
    found = gather(args.only or list(CASES))
    if args.verb == "record":
        file.write_text(json.dumps(found, indent=1, sort_keys=True))
        print(f"{len(found)} runs are recorded in {file}")
        return 0
    return show_differences(json.loads(file.read_text()), found)


def gather(names: list[str]) -> dict[str, dict[str, Any]]:
    """Make the runs in a scratch folder; return what each gave, by its name."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        os.environ["CLIP_ADAPT_CACHE"] = str(Path(scratch) / "cache")
        write_pictures(Path("pets"), splits=("train", "val", "test"))
        write_pictures(Path("loose"), splits=("",))
        write_tables(Path("loose"))
        for name in names:
            verb, words = CASES[name]
            code = command_line([verb, *words, f"output=out/{name}", "report=true"])
            if code:
                sys.exit(f"{name} ended with {code}")
            for metrics in sorted(Path("out", name).rglob("metrics.json")):
                key = metrics.parent.relative_to("out").as_posix()
                found[key] = describe_run(metrics.parent)
        os.chdir("/")
    return found


def describe_run(folder: Path) -> dict[str, Any]:
    """Return the digest of everything that a run wrote and that is no time."""
    with safe_open(folder / "adapter" / "adapter.safetensors", "pt") as file:
        header = json.loads(file.metadata()["clip_adapt"])
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    for key in ("support_sha256", "versions"):  # paths of the cache, of the machine
        header.pop(key)
    metrics = json.loads((folder / "metrics.json").read_text())
    support = [json.loads(line) for line in (folder / "support.jsonl").read_text().splitlines()]
    tables = {
        table: hash_text(without_folders(folder / table))
        for table in ("predictions.csv", "retrieval.csv")
        if (folder / table).is_file()
    }
    return {
        "tensors": digest.hexdigest(),
        "header": header,
        "metrics": without_times(metrics),
        "support": hash_text(json.dumps([{k: r[k] for k in r if k != "path"} for r in support])),
        **tables,
    }


def without_times(metrics: Any) -> Any:
    """Return metrics.json without what differs between two equal runs."""
    passing = {"date", "seconds", "peak_memory_bytes", "adapter_bytes", "versions"}
    if isinstance(metrics, dict):
        kept = {k: without_times(v) for k, v in metrics.items() if k not in passing}
        if "columns" in kept and "seconds" in kept["columns"]:  # the candidates of method=auto
            place = kept["columns"].index("seconds")
            kept["rows"] = [row[:place] + row[place + 1 :] for row in kept["rows"]]
        return kept
    return [without_times(v) for v in metrics] if isinstance(metrics, list) else metrics


def without_folders(table: Path) -> str:
    """Return a CSV table whose paths are cut to the last three names."""
    with table.open(newline="") as file:
        rows = [["/".join(row[0].split("/")[-3:]), *row[1:]] for row in csv.reader(file)]
    return json.dumps(rows)


def hash_text(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def show_differences(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Print every value that is different, and what is new; return 1 when a value is different."""
    count, new = 0, set()
    for name in sorted(before.keys() & after.keys()):
        then, now = flatten(before[name]), flatten(after[name])
        new |= now.keys() - then.keys()
        for key in sorted(then):
            if then[key] != now.get(key):
                count += 1
                print(f"{name}: {key}: {then[key]!r}, now {now.get(key)!r}")
    only = sorted(before.keys() ^ after.keys())
    print(f"{count} differences in {len(before.keys() & after.keys())} runs; not in both: {only}")
    print(f"new: {sorted(new)}")
    return int(count > 0)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a tree by their dotted names."""
    pairs: Any = tree.items() if isinstance(tree, dict) else enumerate(tree)
    leaves: dict[str, Any] = {}
    for key, value in pairs:
        name = f"{prefix}{key}"
        nested = isinstance(value, dict | list) and value
        leaves |= flatten(value, f"{name}.") if nested else {name: value}
    return leaves


def write_pictures(root: Path, splits: tuple[str, ...]) -> None:
    """Write noisy pictures of four colours, six a class and split."""
    stream = np.random.default_rng(0)
    classes = ("cat", "dog", "eel", "owl")
    colours = np.random.default_rng(1).integers(40, 200, (len(classes), 3))
    for split in splits:
        for colour, name in zip(colours, classes, strict=True):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(6 if split else 12):
                noise = stream.integers(-70, 80, (48, 60, 3))
                pixels = (colour + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")


def write_tables(root: Path) -> None:
    """Write a semicolon table with patients, and a table of captions."""
    rows = [["image;diagnosis;patient"]]
    pairs = [["image", "caption", "split"]]
    for path in sorted(root.rglob("*.png")):
        name, index = path.parent.name, int(path.stem)
        rows.append([f"{path};{name};{name}{index // 2}"])
        split = ("train", "train", "train", "val", "test")[index % 5]
        pairs += [[str(path), f"a picture of a {name}", split]]
        if index % 2:
            pairs += [[str(path), f"number {index} of the {name}s", split]]
    for file, table in (("table.csv", rows), ("pairs.csv", pairs)):
        with open(file, "w", newline="") as opened:
            csv.writer(opened).writerows(table)


if __name__ == "__main__":
    sys.exit(main())
