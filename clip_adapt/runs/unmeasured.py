"""A run without its second half: a classifier is adapted to all training images, none is tested on.

For code that measures by itself, such as scikit-learn's cross-validation. No file is written.
"""

from __future__ import annotations

import hashlib

from clip_adapt.adapted import delta
from clip_adapt.adapted.classifier import Classifier
from clip_adapt.data.items import format_manifest
from clip_adapt.runs.configuration import Config
from clip_adapt.runs.preparation import prepare_run
from clip_adapt.runs.shared import Shared
from clip_adapt.system.clock import Clock
from clip_adapt.system.launch.threads import hold_random_stream


def adapt_unmeasured(config: Config, shared: Shared) -> Classifier:
    """Return the classifier that a run would have measured, with the header of its delta.

    Args:
        config: what to do.
        shared: what earlier runs of this process have loaded.

    Raises:
        InputError: with the reason and the remedy.
    """
    with hold_random_stream():
        prepared = prepare_run(config, shared, Clock())
        objective, run = prepared.config.objective, prepared.run
        training = objective.solve(run, prepared.method)
        training.alone()
        made, _ = objective.settle(run, training)
    manifest = format_manifest(objective.list_support(run))
    header = delta.describe(
        prepared.config.method,
        made.method,
        dataset=run.data.dataset.name,
        metrics={"test": {}, "zero_shot": {}},
        support_sha256=hashlib.sha256(manifest.encode()).hexdigest(),
        guard=made.guard,
        temperature=made.temperature,
        conformal=made.conformal,
    )
    return made.adjust(header=header)
