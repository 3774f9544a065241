"""What several runs of one process have in common: backbones, data sets, the feature cache."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.config.cards import DataCard, ModelCard
from clip_adapt.config.known_models import remember_model
from clip_adapt.config.run_options import RunOptions
from clip_adapt.data.dataset import Dataset
from clip_adapt.inputs.features import FeatureCache
from clip_adapt.system.files import choose_cache_folder
from clip_adapt.system.launch.processes import is_main
from clip_adapt.system.temporaries import make_prefix, sweep_cache, sweep_once

log = logging.getLogger(__name__)


class Shared:
    """Loads each backbone and each data set once.

    Args:
        keep_features: keep features until this is closed where ``cache=false`` keeps none on
            disk, so that runs which follow one another share them.
    """

    def __init__(self, *, keep_features: bool = False) -> None:
        self._kept: dict[tuple[str, ...], Any] = {}
        self._keep_features = keep_features
        self._until_closed = contextlib.ExitStack()

    def __enter__(self) -> Shared:
        return self

    def __exit__(self, *error: object) -> None:
        self._until_closed.close()

    def backbone(self, card: ModelCard, o: RunOptions) -> Backbone:
        """Return the backbone of a card on the device and in the precision of the options.

        Raises:
            InputError: when it cannot be loaded.
        """
        return self._load_once(
            (repr(card), o.device, o.precision, str(o.compile), str(o.text_chunk)),
            lambda: _load(card, o),
        )

    def dataset(self, card: DataCard, o: RunOptions, *, measures: bool = False) -> Dataset:
        """Return the data set of a card, unreadable images included; ``measures`` as in ``load``.

        Raises:
            InputError: when it cannot be loaded.
        """
        return self._load_once(
            (repr(card), str(o.cache_dir), str(o.data_dir), str(measures)),
            lambda: Dataset.from_card(
                card,
                cache_dir=o.cache_dir,
                data_dir=o.data_dir,
                download=o.download,
                measures=measures,
            ),
        )

    def say_once(self, text: str) -> None:
        """Say what is the same for many runs, such as what lies in their data set."""
        self._load_once(("said", text), lambda: log.info("%s", text))

    def cache(self, o: RunOptions) -> FeatureCache:
        """Return where features are kept; what killed processes left there is taken away."""
        sweep_cache(choose_cache_folder(o.cache_dir).absolute())
        if o.cache:
            return FeatureCache(choose_cache_folder(o.cache_dir) / "features", o.cache_limit * 1e9)
        if not self._keep_features:
            return FeatureCache(None)
        folder = self._load_once(("features",), self._make_folder)
        return FeatureCache(Path(folder), o.cache_limit * 1e9)

    def _make_folder(self) -> str:
        sweep_once(Path(tempfile.gettempdir()))
        made = tempfile.TemporaryDirectory(prefix=make_prefix(), ignore_cleanup_errors=True)
        return self._until_closed.enter_context(made)

    def _load_once(self, key: tuple[str, ...], make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


def _load(card: ModelCard, o: RunOptions) -> Backbone:
    loaded = Backbone.from_card(card, device=o.device, precision=o.precision, compile=o.compile)
    loaded.text_chunk = o.text_chunk
    if is_main():
        remember_model(loaded.fingerprint, card)
    return loaded
