"""The files of a finished run, of invented numbers."""

import csv
import json

import numpy as np
from PIL import Image

from clip_adapt.system.files import hash_file, write_text

INJECTED = "<script>alert('x')</script>"
CLASSES = ["cat", "dog & fox", INJECTED]


def write_run(folder, classes=CLASSES, each=4, seed=0, **metrics):
    """Write the files of a run on pictures of noise; more of metrics.json by name."""
    stream = np.random.default_rng(seed)
    rows, support = [], []
    (folder / "pictures").mkdir(parents=True)
    for label, spoken in enumerate(classes):
        for index in range(each):
            path = folder / "pictures" / f"{label}-{index}.png"
            Image.fromarray(stream.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(path)
            shares = stream.dirichlet(np.ones(len(classes)))
            rows.append([path, spoken, classes[shares.argmax()], *shares])
            row = {"path": str(path), "sha256": hash_file(path)}
            support.append({**row, "label": spoken, "split": "train"})
    with open(folder / "predictions.csv", "w", newline="", encoding="utf-8") as file:
        header = ["path", "label", "prediction", *(f"p:{c}" for c in classes)]
        csv.writer(file).writerows([header, *rows])
    text = "# python -m clip_adapt.train method=made\nmethod: {name: made}\n"
    text += f"dataset: {{name: pets}}\nmodel: {{name: tiny}}\nshots: {each}\nseed: {seed}\n"
    write_text(folder / "config.yaml", text)
    write_text(folder / "support.jsonl", "".join(json.dumps(r) + "\n" for r in support))
    write_text(folder / "metrics.json", json.dumps({**usual(len(rows), seed), **metrics}))
    return folder


def usual(n_test, seed=0):
    return {
        "command": "python -m clip_adapt.train method=made",
        "test": {
            "accuracy": {"value": 0.5 + seed / 10, "low": 0.4, "high": 0.9},
            "ece": {"value": 0.11, "low": 0.1, "high": 0.2},
            "auroc": {"value": None, "low": None, "high": None},
            "nll": {"value": 1.25, "low": 1.0, "high": 1.5},
        },
        "zero_shot": {
            "accuracy": {"value": 0.25, "low": 0.2, "high": 0.3},
            "ece": {"value": 0.05, "low": 0.01, "high": 0.2},
            "auroc": {"value": 0.7, "low": 0.6, "high": 0.8},
            "nll": {"value": 2.25, "low": 2.0, "high": 2.5},
        },
        "seconds": {"fit": 1.5, "total": 130.0},
        "trainable_parameters": 1234,
        "adapter_bytes": 5678,
        "peak_memory_bytes": 1.5e9,
        "n_test": n_test,
        "n_support": n_test,
        "notes": [],
        "versions": {"torch": "9.9"},
        "curve": {"loss": [2.0, 1.0, 0.5], "accuracy": [0.2, 0.6, 1.0], "lr": [0.1, 0.1, 0.1]},
        "learned": [],
    }
