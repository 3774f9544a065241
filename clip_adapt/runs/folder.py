"""The folder of a run: there as a whole or not at all, and what is written into it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_adapt.adapted import delta, readme
from clip_adapt.adapted.classifier import Classifier
from clip_adapt.data import leaks
from clip_adapt.method.contract import Method
from clip_adapt.pages import report
from clip_adapt.runs.configuration import Config
from clip_adapt.system import locks
from clip_adapt.system.files import require_writable, write_text
from clip_adapt.system.machine import peak_memory
from clip_adapt.system.run_files import ADAPTER, CONFIG, METRICS, PAGE, SUPPORT

if TYPE_CHECKING:
    from clip_adapt.runs.preparation import Run


def output_folder(config: Config) -> Path:
    """Return where a run's files go."""
    o = config.options
    if o.output is not None:
        return Path(o.output).expanduser()
    model = config.model.name.replace("/", "-")
    shots = {"coop": f"{o.shots}shot", "natural": f"{o.shots}shot-natural", "all": "all"}
    drawn = "captions" if o.objective == "contrastive" else shots[o.sampling]
    name = f"{config.method.name}-{model}-{drawn}-seed{o.seed}"
    if o.protocol != "few_shot":
        name += f"-{o.protocol}"
    return Path("runs") / config.dataset.name / name


@contextlib.contextmanager
def whole_or_not_at_all(folder: Path) -> Iterator[None]:
    """Hold a run's folder; a run that fails leaves none behind, unless one was there before.

    Raises:
        InputError: when another process holds the folder, or it cannot be written.
    """
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        with locks.held(folder / locks.NAME, f"the output folder {folder}"):
            try:
                require_writable(folder)
                yield
            except BaseException:
                # While the lock is held: afterwards the folder could be another process's.
                if folder in new:
                    shutil.rmtree(folder, ignore_errors=True)
                raise
    except BaseException:
        for place in new:
            with contextlib.suppress(OSError):
                place.rmdir()
        raise


def write(
    this: Run,
    method: Method,
    *,
    manifest: str,
    measured: Mapping[str, Any],
    facts: Mapping[str, Any],
    seconds: Mapping[str, float],
    files: Mapping[str, str | None],
    **learned: Any,
) -> Classifier:
    """Write a run's files; metrics.json comes last and says that the run is finished.

    Args:
        this: what the run has at hand.
        method: trained.
        manifest: the images that were drawn.
        measured: what was measured, on ``test`` and by ``zero_shot`` at least.
        facts: what else metrics.json says.
        seconds: what the run's parts took.
        files: what else is written, by name; None takes a file away that was there before.
        **learned: what else stands in the delta's header.

    Returns:
        the classifier, with ``folder`` and ``metrics`` of the run.

    Raises:
        InputError: when the folder cannot be written.
    """
    config, folder = this.config, this.folder
    header = delta.describe(
        config.method,
        method,
        dataset=this.dataset.name,
        metrics={kind: measured[kind] for kind in ("test", "zero_shot")},
        support_sha256=hashlib.sha256(manifest.encode()).hexdigest(),
        **learned,
    )
    text = config.to_yaml()
    card = readme.write(header, config.dataset.licence, text.splitlines()[0].lstrip("# "))
    file = delta.save(folder / ADAPTER, method, header, card)
    metrics = {
        **measured,
        "seconds": {name: round(s, 3) for name, s in seconds.items()},
        "trainable_parameters": sum(t.numel() for t in method.state_dict().values()),
        "adapter_bytes": file.stat().st_size,
        "peak_memory_bytes": peak_memory(this.backbone.device),
        "versions": header.versions,
        **facts,
    }
    for name in (METRICS, PAGE):  # of an older run
        (folder / name).unlink(missing_ok=True)
    twins = leaks.table(this.twins) if this.twins else None
    others = files if twins is None else {**files, leaks.FILE: twins}
    for name, content in {CONFIG: text, SUPPORT: manifest, **others}.items():
        if content is None:
            (folder / name).unlink(missing_ok=True)
        else:
            write_text(folder / name, content)
    if config.options.report and config.options.objective == "classify":
        report.write_page(folder, metrics)
    write_text(folder / METRICS, json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    done = Classifier(method, header)
    done.folder, done.metrics = folder, metrics
    return done
