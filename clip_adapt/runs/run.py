"""One run: config > data > draw > method > features > fit > evaluate > delta.

Processes that a launcher has started do it together: each goes through all of it, the main one
holds the folder and writes.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from clip_adapt.adapted.classifier import Classifier
from clip_adapt.backbone.devices import resolve_device
from clip_adapt.errors import InputError
from clip_adapt.objectives import Outcome
from clip_adapt.runs.configuration import Config
from clip_adapt.runs.output.folder import explain_folder, hold_folder
from clip_adapt.runs.output.resuming import open_checkpoint
from clip_adapt.runs.preparation import Prepared, prepare_run, require_unchanged
from clip_adapt.runs.record import write_known, write_run
from clip_adapt.runs.shared import Shared
from clip_adapt.system.clock import Clock
from clip_adapt.system.launch.joining import join_processes
from clip_adapt.system.launch.processes import hold_on_main, is_main, run_on_main
from clip_adapt.system.launch.stopping import catch_signals
from clip_adapt.system.launch.threads import hold_random_stream
from clip_adapt.training.fitting import Trained, Training

log = logging.getLogger(__name__)


def run(config: Config, shared: Shared | None = None) -> Classifier:
    """Do everything that a configuration says and write the run's files.

    In each of the processes that ``torchrun`` or ``accelerate launch`` has started this does its
    part of one run, and returns the same classifier.

    Args:
        config: what to do.
        shared: what earlier runs of this process have loaded; None loads anew.

    Returns:
        the adapted classifier, with ``folder`` and ``metrics`` of the run.

    Raises:
        InputError: with the reason and the remedy.
    """
    with catch_signals(), join_run(config):
        known = explain_folder(config) if is_main() else None
        if known is not None:
            log.warning(known)
        with start_run(config, shared or Shared()) as ready:
            return ready.finish(ready.training.alone())


def join_run(config: Config) -> contextlib.AbstractContextManager[None]:
    """Join the processes that a launcher has started for a run; ``join_processes`` says how."""
    return join_processes(cpu=resolve_device(config.options.device).type == "cpu")


@contextlib.contextmanager
def start_run(config: Config, shared: Shared) -> Iterator[ReadyRun]:
    """Begin a run: everything up to its training by steps.

    Its folder is held while the block runs; when the block raises, the folder is left as it was,
    with a checkpoint of the training in it if that had lasted. A run of another thread waits until
    the block is left: both would draw from torch's one stream of random numbers.

    Args:
        config: what to do.
        shared: what earlier runs of this process have loaded.

    Raises:
        InputError: with the reason and the remedy.
    """
    clock = Clock()
    with hold_random_stream():
        with clock.count("total"):
            prepared = prepare_run(config, shared, clock)
            _require_test(prepared)
        with hold_on_main(hold_folder(prepared.run.folder)):
            with clock.count("total"):
                manifest = run_on_main(lambda: write_known(prepared))
                training = config.objective.solve(prepared.run, prepared.method)
                require_unchanged(prepared.survey, prepared.run.draw, config.options.cache_dir)
                training = replace(training, checkpoint=open_checkpoint(prepared, manifest))
            yield ReadyRun(prepared, training, manifest)


def _require_test(prepared: Prepared) -> None:
    # By what was counted when the data were looked at: no test image is touched before its time.
    if not prepared.found["total"]["test"]:
        name = prepared.run.data.dataset.name
        raise InputError(f"the test split of {name} is empty: nothing can be measured")


@dataclass(frozen=True)
class ReadyRun:
    """A run whose method is ready to be trained by steps.

    Attributes:
        prepared: what the run has at hand.
        training: what is to be done before ``finish``.
        manifest: of the support set.
    """

    prepared: Prepared
    training: Training
    manifest: str

    def finish(self, trained: Trained) -> Classifier:
        """Choose by held-out images what is chosen by them, measure, write the run's files.

        Raises:
            InputError: with the reason and the remedy.
        """
        prepared, clock = self.prepared, self.prepared.run.clock
        for part in ("fit", "total"):
            clock.add(part, trained.seconds)
        with clock.count("total"):
            outcome = prepared.config.objective.finish(prepared.run, self.training, trained)
            written = run_on_main(lambda: self._write(outcome, trained))
        return outcome.classifier.adjust(**written)

    def _write(self, outcome: Outcome, trained: Trained) -> dict[str, Any]:
        # What the other processes of the run get to know of it.
        classifier = write_run(self.prepared, self.manifest, outcome, trained)
        return {name: getattr(classifier, name) for name in ("header", "folder", "metrics")}
