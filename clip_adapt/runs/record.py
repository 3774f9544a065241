"""What a run writes: the delta, its numbers, its images, its page."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from clip_adapt.adapted import delta, readme
from clip_adapt.adapted.classifier import Classifier
from clip_adapt.adapted.header import Header, write_header
from clip_adapt.data import leaks, scan
from clip_adapt.data.items import format_manifest
from clip_adapt.errors import InputError
from clip_adapt.evaluation.reading import describe_others, explain_setback, write_rows
from clip_adapt.objectives import Outcome
from clip_adapt.pages import facts
from clip_adapt.runs.output.replacement import replace_run
from clip_adapt.runs.preparation import Prepared
from clip_adapt.system.files import choose_cache_folder, write_text
from clip_adapt.system.machine import measure_peak_memory
from clip_adapt.system.run_files import (
    ADAPTER,
    CONFIG,
    IMAGES,
    METRICS,
    PAGE,
    SUPPORT,
    TWINS,
    UNFINISHED,
)
from clip_adapt.training.fitting import Trained
from clip_adapt.training.learning_curve import describe_curve


def write_known(prepared: Prepared) -> str:
    """Write what is known before the training, so that what can be refused is refused by now.

    Returns:
        the manifest of the support set.

    Raises:
        InputError: when the folder cannot be written, or what the user gave is no text.
    """
    config, run = prepared.config, prepared.run
    manifest = format_manifest(config.objective.list_support(run))
    untrained = Outcome(Classifier(prepared.method), {"test": {}, "zero_shot": {}})
    header = _describe(prepared, untrained, manifest)
    twins = prepared.twins
    files = {
        CONFIG: config.to_yaml(),
        SUPPORT: manifest,
        **({TWINS: leaks.format_twins(twins)} if twins else {}),
    }
    _require_text(*files.values(), _render_card(prepared, header, []), write_header(header))
    for name, content in files.items():
        write_text(run.folder / UNFINISHED / name, content)
    return manifest


def write_run(prepared: Prepared, manifest: str, outcome: Outcome, trained: Trained) -> Classifier:
    """Write a run's other files, and let them take the place of an older run's.

    Args:
        prepared: what the run had at hand.
        manifest: of the support set.
        outcome: what its training came to.
        trained: the learning curve, and how many runs were trained side by side.

    Returns:
        the classifier, with ``header``, ``folder`` and ``metrics`` of the run.

    Raises:
        InputError: when the folder cannot be written.
    """
    config, folder = prepared.config, prepared.run.folder
    place = folder / UNFINISHED
    header = _describe(prepared, outcome, manifest)
    # Only notes of numbers: others name files, and the hub takes this folder as it is.
    told = [*prepared.run.draw.support.notes, *outcome.notes]
    card = _render_card(prepared, header, write_rows(outcome.measured), told)
    file = delta.save(place / ADAPTER, outcome.classifier.method, header, card)
    prepared.seen.write(place / ADAPTER)
    metrics = _list_metrics(prepared, outcome, trained)
    metrics |= {"adapter_bytes": file.stat().st_size, "versions": header.versions}
    for name, content in {IMAGES: _list_images(prepared), **outcome.files}.items():
        if content is not None:
            write_text(place / name, content)
    if config.options.report:
        page = config.objective.render_page(facts.read(place, metrics))
        write_text(place / PAGE, page)
    write_text(place / METRICS, json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    replace_run(folder, unwanted=outcome.files)
    return outcome.classifier.adjust(header=header, folder=folder, metrics=metrics)


def _list_images(prepared: Prepared) -> str:
    # Whoever has the folder can write a path into it, and not the digest of a picture that he has
    # never seen: by these a page knows the pictures that it may show.
    paths = [item.path for item in prepared.run.data.dataset.test]
    paths += [path for twin in prepared.twins for path in (twin.path, twin.twin)]
    cache = choose_cache_folder(prepared.run.options.cache_dir)
    return format_manifest(scan.list_digests(paths, cache))


def _describe(prepared: Prepared, outcome: Outcome, manifest: str) -> Header:
    config, classifier = prepared.config, outcome.classifier
    return delta.describe(
        config.method,
        classifier.method,
        dataset=prepared.run.data.dataset.name,
        metrics={kind: outcome.measured[kind] for kind in ("test", "zero_shot")},
        support_sha256=hashlib.sha256(manifest.encode()).hexdigest(),
        seen_sha256=prepared.seen.sha256,
        stored=_list_stored(prepared),
        guard=classifier.guard,
        temperature=classifier.temperature,
        conformal=classifier.conformal,
    )


def _list_stored(prepared: Prepared) -> dict[str, str]:
    dataset = prepared.run.data.dataset
    known = dataset.stored.items()
    return {name: c for name, c in known if name != c and c in dataset.classes}


def _list_metrics(prepared: Prepared, outcome: Outcome, trained: Trained) -> dict[str, Any]:
    run, method = prepared.run, outcome.classifier.method
    support, objective = run.draw.support, prepared.config.objective
    others = describe_others(objective.list_metrics(run.options))
    return {
        "command": prepared.config.command,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "objective": prepared.config.options.objective,
        **outcome.measured,
        **({"metrics": others} if others else {}),
        "seconds": {name: round(s, 3) for name, s in run.clock.read().items()},
        "trainable_parameters": sum(t.numel() for t in method.state_dict().values()),
        "peak_memory_bytes": measure_peak_memory(run.backbone.device),
        **outcome.facts,
        "n_support": len(support.train),
        "found": prepared.found,
        "notes": [*prepared.notes, *outcome.notes, *_list_setbacks(prepared, outcome)],
        "curve": describe_curve(trained.curve),
        **({"side_by_side": trained.runs} if trained.runs > 1 else {}),
        **({"choice": prepared.choice} if prepared.choice else {}),
        "learned": [asdict(table) for table in method.tables()],
    }


def _list_setbacks(prepared: Prepared, outcome: Outcome) -> list[str]:
    o, objective = prepared.config.options, prepared.config.objective
    has_classes = objective.gives == "classes"
    remedies = {
        "more shots": has_classes and o.sampling != "all",
        "guard=true (it mixes with zero-shot)": has_classes and not o.guard,
        "method=auto": has_classes and prepared.choice is None,
        "another method": True,
    }
    wanted = [remedy for remedy, is_open in remedies.items() if is_open]
    found = explain_setback(outcome.measured, objective.headline, wanted)
    return [] if found is None else [found]


def _render_card(
    prepared: Prepared,
    header: Header,
    rows: Sequence[tuple[str, str, str]],
    notes: Sequence[str] = (),
) -> str:
    config = prepared.config
    return readme.write_card(header, config.dataset.licence, config.command, rows, notes)


def _require_text(*texts: str) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeError as error:
            part = text[max(0, error.start - 60) : error.end + 20]  # type: ignore[attr-defined]
            raise InputError(f"{part!r} is no text that UTF-8 can hold: rename it") from error
