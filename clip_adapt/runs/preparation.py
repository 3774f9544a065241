"""From a configuration to what a run has at hand: data, drawn images, backbone, the method."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from clip_adapt.backbone.backbone import Backbone
from clip_adapt.data import decoding, scan
from clip_adapt.data.dataset import Dataset
from clip_adapt.data.leaks import Twin
from clip_adapt.data.scan import Survey
from clip_adapt.data.seen import SeenImages
from clip_adapt.data.task import Task
from clip_adapt.errors import InputError, list_lines
from clip_adapt.evaluation.reading import describe_images
from clip_adapt.evaluation.tested import choose_tested
from clip_adapt.method.class_prompts import require_different_prompts
from clip_adapt.method.contract import Method
from clip_adapt.objectives import Data, Draw, Run
from clip_adapt.objectives._contract import make_recipe
from clip_adapt.pages.found import Found, describe_found, write_found
from clip_adapt.runs import selection
from clip_adapt.runs.configuration import Config
from clip_adapt.runs.output.folder import choose_folder
from clip_adapt.runs.shared import Shared
from clip_adapt.system.clock import Clock
from clip_adapt.system.files import choose_cache_folder
from clip_adapt.system.launch.processes import run_main_first, run_on_main

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checked:
    """Data sets without their unreadable images.

    Attributes:
        data: what is left of them.
        notes: what a user should know about them.
        twins: images that look like one of another split.
        survey: what was seen of the images.
        found: what is in the pool of images, for metrics.json.
    """

    data: Data
    notes: list[str]
    twins: list[Twin]
    survey: Survey
    found: Found


@dataclass(frozen=True)
class Prepared:
    """A run that is ready for its features: everything that can be refused was looked at.

    Attributes:
        config: what is done; of the chosen method when ``method=auto``.
        run: what the objective has at hand.
        method: before training.
        notes: what a user should know about data and draw.
        twins: images that look like one of another split.
        survey: what was seen of the images.
        found: what is in the pool of images, for metrics.json.
        seen: the images that the run learns from, by their digests.
        choice: the candidates of ``method=auto`` and which was taken; None for any other method.
    """

    config: Config
    run: Run
    method: Method
    notes: list[str]
    twins: list[Twin]
    survey: Survey
    found: Found
    seen: SeenImages
    choice: dict[str, Any] | None = None


def prepare_run(config: Config, shared: Shared, clock: Clock) -> Prepared:
    """Load, check and draw the data, load the backbone, make the method; write nothing.

    Args:
        config: what to do.
        shared: what earlier runs of this process have loaded.
        clock: counts what choosing a method takes.

    Raises:
        InputError: with the reason and the remedy.
    """
    o, objective = config.options, config.objective

    def load(name: str) -> Dataset:
        return run_main_first(lambda: shared.dataset(config.others[name], o, measures=True))

    dataset = run_main_first(lambda: shared.dataset(config.dataset, o))
    data = objective.load_data(o, dataset, load)
    backbone, cache = run_main_first(lambda: shared.backbone(config.model, o)), shared.cache(o)
    checked = check_images(data, o.on_bad_image, o.cache_dir)
    shared.say_once(write_found(checked.found, shutil.get_terminal_size().columns))
    draw = objective.draw(o, checked.data)
    require_unchanged(checked.survey, draw, o.cache_dir)
    seen = list_seen(draw, o.cache_dir)
    tested, left_out = leave_out_seen(checked.data, seen, o.cache_dir)
    notes = [*checked.notes, *_list_unused(config), *draw.support.notes, *left_out]
    notes += checked.data.pool.inventory.notes
    for note in notes:
        log.warning(note)
    task = objective.make_task(o, checked.data, draw)
    require_different_prompts(backbone, task)
    for other in checked.data.others.values():
        require_different_prompts(backbone, other.task(prompts=o.prompts))
    choice = None
    if config.candidates:
        folder, candidates = choose_folder(config), config.candidates

        def choose() -> tuple[int, dict[str, Any]]:
            chosen = selection.choose(
                candidates,
                draw.support,
                backbone,
                cache,
                lambda candidate: make_method(candidate, backbone, task),
                make_recipe,
            )
            return [c is chosen.config for c in candidates].index(True), chosen.facts

        with clock.count("choose"):  # one process: the others would only do the same
            index, choice = run_on_main(choose)
        config = replace(candidates[index], given=config.given)
    else:
        folder = choose_folder(config)
    run = Run(
        config.options,
        backbone,
        cache,
        tested,
        draw,
        _bind_method(config, backbone, task),
        folder,
        clock,
    )
    method = run.make_method()
    objective.require_fit(run, method, config.method.name)
    twins, survey, found = checked.twins, checked.survey, checked.found
    return Prepared(config, run, method, notes, twins, survey, found, seen, choice)


def check_images(data: Data, on_bad_image: str, cache_dir: str | None) -> Checked:
    """Take unreadable images out, look for leaks.

    Every image is decoded once before anything is drawn, trained or written, so that all unreadable
    ones and all leaks are known together. No test image is learned from here.

    Raises:
        InputError: when images cannot be read and ``on_bad_image`` is ``error``.
    """
    survey = data.pool.survey(cache_dir=cache_dir)
    reasons = dict(survey.broken)
    for other in (d for d in data.others.values() if d.card != data.pool.card):
        reasons |= other.survey(cache_dir=cache_dir).broken
    reasons |= decoding.find_broken(item.path for item in data.set_aside or [])
    if on_bad_image == "error":
        decoding.refuse_broken(reasons)
    kept = data.without(reasons)
    notes, twins = kept.pool.check(survey)
    if reasons:
        listing = list_lines(f"{path}: {reason}" for path, reason in reasons.items())
        notes.insert(0, f"{len(reasons)} images cannot be read and are left out:\n{listing}")
    found = describe_found(kept.pool, survey, len(survey.broken))
    return Checked(kept, notes, twins, survey, found)


def require_unchanged(survey: Survey, draw: Draw, cache_dir: str | None) -> None:
    """Read the images that were drawn, and compare them with what was seen of them.

    What is learned from is what was checked, and what the manifest says, whatever file systems
    tell of times and whoever writes there meanwhile.

    Raises:
        InputError: listing those that are others now.
    """
    paths = [item.path for items in draw.by_role().values() for item in items]
    changed = scan.find_changed(survey, paths, choose_cache_folder(cache_dir))
    if changed:
        raise InputError(
            f"{len(changed)} images are not what they were when they were looked at:\n"
            f"{list_lines(changed)}\nRun again, when nothing writes there."
        )


def list_seen(draw: Draw, cache_dir: str | None) -> SeenImages:
    """Return the digests of the images that were drawn."""
    paths = [item.path for items in draw.by_role().values() for item in items]
    return SeenImages.of(draw.by_role(), scan.survey_images(paths, choose_cache_folder(cache_dir)))


def leave_out_seen(data: Data, seen: SeenImages, cache_dir: str | None) -> tuple[Data, list[str]]:
    """Take the images that a run learns from out of what it is measured on besides.

    The splits of its own data set are compared already (``check_images``).

    Returns:
        the data, and what a user should know.

    Raises:
        InputError: when nothing is left of a data set.
    """
    others, notes = dict(data.others), list[str]()
    for name, other in data.others.items():
        if other.card == data.pool.card and not other.unsplit:
            continue
        survey = other.survey(cache_dir=cache_dir)
        tested = choose_tested(name, other.test, [seen], survey, "error")
        others[name] = replace(other, test=tested.items)
        if tested.left_out:
            notes.append(f"{name}: {describe_images(tested.facts())}")
    return replace(data, others=others), notes


def make_method(config: Config, backbone: Backbone, task: Task) -> Method:
    """Return a method before training.

    Raises:
        InputError: when one of its options cannot work with this backbone or these classes.
    """
    torch.manual_seed(config.options.seed)
    try:
        return config.method.cls.build(backbone, task, config.method_options)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"method {config.method.name}: {error}") from error


def _list_unused(config: Config) -> list[str]:
    o = config.options
    return [
        f"{key}={getattr(o, key)} {reason}"
        for key, reason in config.objective.unused.items()
        if key in config.given
    ]


def _bind_method(config: Config, backbone: Backbone, task: Task) -> Callable[[], Method]:
    return lambda: make_method(config, backbone, task)
