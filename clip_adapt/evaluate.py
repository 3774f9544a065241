"""python -m clip_adapt.evaluate: a delta on the test split of a data set."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import Any, Literal

from clip_adapt import cards, cli, options
from clip_adapt.errors import InputError
from clip_adapt.files import write_text


def run(
    adapter: str,
    *,
    dataset: str,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    on_bad_image: Literal["error", "skip"] = "error",
    download: bool = False,
    data_dir: str | None = None,
    cache: bool = True,
    cache_dir: str | None = None,
    method_file: str | None = None,
    json: bool = False,
    output: str | None = None,
) -> dict[str, Any]:
    """Measure a delta on a data set's test split.

    Returns:
        {"test": metrics, "zero_shot": metrics, "n_test": number of images}.

    Raises:
        InputError: when something does not fit.
    """
    from clip_adapt import evaluation, images, scan
    from clip_adapt.api import load
    from clip_adapt.data import Dataset
    from clip_adapt.features import FeatureCache
    from clip_adapt.files import cache_folder

    card = cards.find_dataset(dataset)
    classifier = load(adapter, method_file=method_file, device=device, precision=precision)
    data = Dataset.from_card(card, cache_dir=cache_dir, data_dir=data_dir, download=download)
    kept = FeatureCache(cache_folder(cache_dir) / "features" if cache else None)
    items = evaluation.mapped(data.test, data.classes, classifier.classes)
    reasons = scan.survey([item.path for item in items], cache_folder(cache_dir)).broken
    if on_bad_image == "error":
        images.refuse_broken(reasons)
    items = [item for item in items if item.path not in reasons]
    if not items:
        raise InputError(f"the test split of {data.name} is empty: there is nothing to measure")
    measured, probabilities = evaluation.beside_zero_shot(classifier, items, kept)
    result = {**measured, "n_test": len(items)}
    if output is not None:
        table = evaluation.predictions_csv(probabilities, items, classifier.classes)
        write_text(Path(output).expanduser() / "predictions.csv", table)
        text = jsonlib.dumps(result, indent=1)
        write_text(Path(output).expanduser() / "metrics.json", f"{text}\n")
    return result


def main(argv: list[str]) -> int:
    """Run the command line; see ``--help``."""
    positional, given = cli.split(argv)
    checked, problems = options.validate(given, options.of_signature(run))
    if len(positional) != 1:
        problems.append(f"expected one delta (a folder adapter/), not {len(positional)}")
    if problems:
        raise InputError("\n".join(problems))
    result = run(positional[0], **checked)
    if checked["json"]:
        print(jsonlib.dumps(result))
    else:
        cli.show_metrics(result, "adapted")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run("evaluate", sys.argv[1:]))
