"""What several runs of one process have in common: backbones, data sets, the feature cache."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

from clip_adapt import images
from clip_adapt.backbone import Backbone
from clip_adapt.config import Config
from clip_adapt.data import Dataset
from clip_adapt.errors import listed
from clip_adapt.features import FeatureCache
from clip_adapt.files import cache_folder


class Shared:
    """Loads each backbone and each data set once.

    Args:
        keep_features: keep features for the life of this object where ``cache=false`` keeps none on
            disk, so that runs which follow one another share them.
    """

    def __init__(self, *, keep_features: bool = False) -> None:
        self._kept: dict[tuple[str, ...], Any] = {}
        self._keep_features = keep_features

    def backbone(self, config: Config) -> Backbone:
        """Return the backbone of a configuration.

        Raises:
            InputError: when it cannot be loaded.
        """
        o = config.options
        return self._once(
            ("backbone", repr(config.model), o.device, o.precision),
            lambda: Backbone.from_card(config.model, device=o.device, precision=o.precision),
        )

    def dataset(self, config: Config) -> Dataset:
        """Return the data set of a configuration, unreadable images included.

        Raises:
            InputError: when it cannot be loaded.
        """
        place = config.options.cache_dir
        return self._once(
            ("dataset", repr(config.dataset), str(place)),
            lambda: Dataset.from_card(config.dataset, cache_dir=place),
        )

    def readable(self, config: Config) -> tuple[Dataset, list[str]]:
        """Return the data set without unreadable images, and what to tell the user about them.

        Every image is decoded once before anything is drawn, trained or written, so that all
        unreadable ones are known together. Nothing is learned from the test images here.

        Raises:
            InputError: with ``on_bad_image=error``, listing every unreadable image.
        """
        o = config.options
        key = ("readable", repr(config.dataset), str(o.cache_dir), o.on_bad_image)
        return self._once(key, lambda: _readable(self.dataset(config), config))

    def cache(self, config: Config) -> FeatureCache:
        """Return where features are kept."""
        o = config.options
        if o.cache:
            return FeatureCache(cache_folder(o.cache_dir) / "features", o.cache_limit * 1e9)
        if not self._keep_features:
            return FeatureCache(None)
        folder = self._once(("features",), tempfile.TemporaryDirectory)
        return FeatureCache(cache_folder(folder.name), o.cache_limit * 1e9)

    def _once(self, key: tuple[str, ...], make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


def _readable(dataset: Dataset, config: Config) -> tuple[Dataset, list[str]]:
    o = config.options
    reasons = dataset.broken(cache_dir=o.cache_dir)
    if o.on_bad_image == "error":
        images.refuse_broken(reasons)
    listing = listed(f"{path}: {reason}" for path, reason in reasons.items())
    notes = [f"{len(reasons)} images cannot be read and are left out:\n{listing}"] * bool(reasons)
    return dataset.without(reasons), notes
