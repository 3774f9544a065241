"""What the command lines print: configurations, metrics, comparisons, rankings, sweeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_adapt.cli.words import write_path
from clip_adapt.config.cards import list_cards
from clip_adapt.evaluation.quantities import COVERAGE, SET_SIZE
from clip_adapt.system.run_files import ADAPTER, CURVE, IMAGES, INDEX, PAGE, RESULTS, SUMMARY
from clip_adapt.system.text.showing import show_line, show_text, write_command, write_json

if TYPE_CHECKING:
    from clip_adapt.adapted.classifier import Classifier
    from clip_adapt.cli.console import ShownConsole
    from clip_adapt.config.run_options import RunOptions
    from clip_adapt.runs.configuration import Config
    from clip_adapt.sweeps.sweep import Sweep


def show_config(config: Config, folder: Path) -> None:
    """Print what a command line resolved to."""
    o = config.options
    details = " ".join(f"{k}={v}" for k, v in config.method_options.items() if v is not None)
    names = ", ".join(candidate.method.name for candidate in config.candidates)
    training = _describe_recipe(o)
    if names:
        details, training = f"the best of {names} on the support set", "that of the chosen method"
    from rich.text import Text

    from clip_adapt.cli.console import embolden

    rest = f"{config.objective.describe_draw(o)}, seed {o.seed}, backbone {config.model.name}"
    _make_console().print(
        Text.assemble(
            embolden(config.method.name),
            " on ",
            embolden(config.dataset.name),
            show_line(f", {rest}"),
        ),
        f"  method: {details or 'no options'}",
        f"  training: {training}",
        *_describe_shorter(config),
        *[f"  prompts: {config.model.prompts}"] * bool(config.model.prompts),
        f"  writes to {folder}",
        sep="\n",
        soft_wrap=True,
    )


def show_run(classifier: Classifier, method_file: Path | None = None) -> None:
    """Print the result of a run and what to do next.

    Args:
        classifier: of the finished run.
        method_file: the user's own .py that made it, which is to be named to load it.
    """
    metrics, folder = classifier.metrics, classifier.folder
    assert metrics is not None and folder is not None, "a finished run has both"
    if "choice" in metrics:
        show_choice(metrics["choice"])
    show_metrics(metrics, classifier.header.method["name"] if classifier.header else "")
    for name, other in metrics.get("other", {}).items():
        _make_console().print(f"not trained: {name}, {len(other['per_class'])} classes")
        show_metrics(other, "adapted")
    if "harmonic_mean" in metrics:
        from clip_adapt.evaluation.reading import find_quantity

        accuracy = find_quantity("accuracy", metrics)
        mean = metrics["harmonic_mean"]
        base, ours = (accuracy.write_estimate(mean[kind]) for kind in ("zero_shot", "test"))
        _make_console().print(
            f"harmonic mean of both accuracies: {ours}, zero-shot {base}",
            soft_wrap=True,
        )
    seconds = metrics["seconds"]
    _make_console().print(
        f"{metrics['trainable_parameters']:,} trainable parameters, "
        f"{metrics['adapter_bytes'] / 1000:.0f} kB delta, {seconds['total']:.0f} s "
        f"(features {seconds['features']:.0f}, fit {seconds['fit']:.0f})",
        f"saved: {folder / 'adapter'}",
        *([f"page:  {folder / PAGE}"] if (folder / PAGE).is_file() else []),
        f"try:   {_write_predict(classifier, folder, method_file)}",
        sep="\n",
        soft_wrap=True,
    )


def show_choice(choice: dict[str, Any]) -> None:
    """Print the candidates of ``method=auto`` and which one was taken."""
    from rich.table import Table

    table = Table(title=choice["table"]["title"], title_justify="left")
    for column in choice["table"]["columns"]:
        table.add_column(column, justify="left" if column == "method" else "right")
    for row in choice["table"]["rows"]:
        table.add_row(*row)
    _make_console().print(table)


def show_sweep(sweep: Sweep, seconds: float) -> None:
    """Print the summary of a sweep, where it is, and what failed."""
    text = (sweep.folder / "results.md").read_text(encoding="utf-8")
    lines = [
        "",
        text.partition("\n## Failed")[0].strip(),
        "",
        f"{sweep.made} runs in {seconds:.0f} s, {sweep.kept} were finished before",
        f"written: {sweep.folder}/{', '.join(_list_written(sweep.folder))}",
    ]
    if sweep.failed:
        lines += [f"{len(sweep.failed)} runs failed:"]
        lines += [f"  {name}: {reason}" for name, reason in sweep.failed.items()]
    print(show_text("\n".join(lines)))


def _list_written(folder: Path) -> list[str]:
    # A sweep of which every run failed has no curve and no index.
    names = (RESULTS, SUMMARY, f"{CURVE}.png", f"{CURVE}.svg", INDEX)
    return [name for name in names if (folder / name).is_file()]


def show_metrics(metrics: dict[str, Any], title: str) -> None:
    """Print the test metrics with zero-shot beside them, and what to know about them."""
    from rich.table import Table

    from clip_adapt.evaluation.reading import write_rows

    table = Table(title=f"{metrics['n_test']} test images (95 % intervals)", title_justify="left")
    for column in ("", "zero-shot", title):
        # A narrow terminal breaks a cell into lines: cut off, an interval says nothing.
        table.add_column(column, justify="right" if column else "left", overflow="fold")
    for row in write_rows(metrics):
        table.add_row(*row)
    _make_console().print(table)
    if "conformal" in metrics:
        _show_sets(metrics["conformal"])
    for note in metrics["notes"]:
        _make_console().print(f"note: {note}", soft_wrap=True)


def show_comparison(result: dict[str, Any]) -> None:
    """Print several deltas on one test set, and the differences with paired intervals."""
    from rich.table import Table

    from clip_adapt.evaluation.reading import list_quantities

    deltas = result["deltas"]
    headline = [q for q in list_quantities(next(iter(deltas.values()))) if q.headline]
    rows = {f"{name}, zero-shot": one["zero_shot"] for name, one in deltas.items()}
    if all(one == next(iter(rows.values())) for one in rows.values()):
        rows = {"zero-shot": next(iter(rows.values()))}
    rows |= {name: one["test"] for name, one in deltas.items()}
    apart = {f"{name} - zero-shot": one["difference"] for name, one in deltas.items()}
    titles = {
        f"{result['n_test']} test images (95 % intervals)": rows,
        "differences (95 % intervals, paired)": apart | result["differences"],
    }
    for title, content in titles.items():
        table = Table(title=title, title_justify="left")
        for column in ("", *(quantity.spoken for quantity in headline)):
            table.add_column(column, justify="right" if column else "left")
        for name, row in content.items():
            table.add_row(name, *(q.write_estimate(row[q.name]) for q in headline))
        _make_console().print(table)
    for note in result["notes"]:
        _make_console().print(f"note: {note}", soft_wrap=True)


def _show_sets(sets: dict[str, Any]) -> None:
    for score in ("lac", "aps"):
        coverage, size = (sets[score][q.name] for q in (COVERAGE, SET_SIZE))
        _make_console().print(
            f"sets ({score}): {COVERAGE.write_estimate(coverage)} hold the true class, "
            f"{1 - sets['alpha']:.0%} promised; {SET_SIZE.write_value(size['value'])} on average",
            soft_wrap=True,
        )


def show_measured(result: dict[str, Any], as_json: bool = False) -> None:
    """Print what deltas are worth on a test set: tables, or one line of JSON."""
    from clip_adapt.evaluation.reading import describe_images

    if as_json:
        print(write_json(result))
    elif "deltas" in result:
        show_comparison(result)
    else:
        show_metrics(result, "adapted")
    if not as_json:
        _make_console().print(describe_images(result["images"]), soft_wrap=True)


def _write_predict(classifier: Classifier, folder: Path, method_file: Path | None) -> str:
    # A line that a shell takes as it stands, on a picture that is there.
    words = [write_path(folder / ADAPTER), write_path(_find_test_image(folder))]
    words += ["top_k=3"] if classifier.classes else ["classes=[cat, dog]"]
    model = classifier.backbone.card.name
    words += [f"model={model}"] * (model not in list_cards("model"))
    words += [f"method_file={method_file}"] * (method_file is not None)
    return write_command(["python", "-m", "clip_adapt.predict", *words])


def _find_test_image(folder: Path) -> Path:
    with open(folder / IMAGES, encoding="utf-8") as file:
        first = json.loads(file.readline() or "{}")
    return Path(str(first.get("path", "IMAGE")))


def _describe_recipe(o: RunOptions) -> str:
    if not o.trains:
        return "no epochs"
    views = f"{o.views} view{'s' * (o.views > 1)} an image"
    length = f"{o.epochs_at(o.shots)} epochs" if o.iterations is None else f"{o.iterations} steps"
    return f"{length}, {o.optimizer}, lr {o.lr:g}, {o.schedule}, batches of {o.batch_size}, {views}"


def _describe_shorter(config: Config) -> list[str]:
    # What the published recipe has is part of what a reader of the numbers must know.
    changed = [
        f"{key}={value} (published: {config.published[key]})"
        for key, value in config.cpu_recipe.items()
    ]
    words = ", ".join(changed)
    return [f"  a shorter recipe, for a CPU: {words}"] * bool(changed)


def _make_console() -> ShownConsole:
    from clip_adapt.cli.console import ShownConsole

    return ShownConsole()
