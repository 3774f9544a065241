"""Classifying image files with a delta, or with class names alone: what ``predict`` does."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from clip_adapt.adapted.frames import Every, find_decoder, parse_every
from clip_adapt.adapted.prediction import Prediction
from clip_adapt.adapted.prediction_files import PredictionTable, Write, open_output, parse_output
from clip_adapt.config.values import Between
from clip_adapt.errors import InputError
from clip_adapt.system.launch import processes
from clip_adapt.system.launch.joining import join_processes
from clip_adapt.system.run_files import ADAPTER, DELTA
from clip_adapt.system.text.progress import make_bar

if TYPE_CHECKING:
    from clip_adapt.adapted.classifier import Classifier

SUFFIX = ".safetensors"  # of a delta's file
TEMPLATE, MODEL = "a photo of a {}.", "lite"  # of zero-shot classification
FEW = 8  # images that are looked at on the screen: an answer at once counts more than digits
NONE_LEFT = "None is left to predict: give images that can be read"
BATCHES = 4  # that each of several processes makes between two exchanges
log = logging.getLogger(__name__)

Show = Callable[[Prediction], object]


@dataclass(frozen=True)
class Summary:
    """What came of many images.

    Attributes:
        classes: how many images each class was the most probable of, in the order of the classes.
        broken: why files could not be read, by path.
        seconds: what predicting took, without loading the backbone.
        output: the file that was written; None when none was asked for.
    """

    classes: dict[str, int]
    broken: dict[str, str]
    seconds: float
    output: Path | None

    @property
    def images(self) -> int:
        """How many images, or frames of videos, were classified."""
        return sum(self.classes.values())


def predict_files(
    words: Sequence[str],
    list_file: str | None = None,
    show: Show = id,
    *,
    top_k: Annotated[int, Between(1)] = 5,
    score: Literal["lac", "aps"] = "lac",
    output: str | None = None,
    on_bad_image: Literal["error", "skip"] = "error",
    every: str | None = None,
    classes: list[str] | None = None,
    template: str | None = None,
    templates: list[str] | None = None,
    model: str | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    method_file: str | None = None,
) -> Summary:
    """Predict every image that the words mean, one after the other.

    Several processes of a launch share the images; the main one writes, and calls ``show`` with
    each prediction, in the order of the images. ``words`` are the delta and the images, only
    images when ``classes`` are given, and ``list_file`` is a text file of further paths; the
    options are described in configs/predict.yaml.

    Raises:
        InputError: when the delta or an image cannot be used; all unreadable images are listed,
            and nothing is written.
    """
    if template is not None and templates is not None:
        raise InputError("template and templates are both given: keep one of them")
    looks = None if every is None else parse_every(every)
    file = None if output is None else parse_output(output)
    if file and list_file is not None and os.path.abspath(file) == os.path.abspath(list_file):
        raise InputError(f"output={output} is the list of files itself: give another name")
    adapter, rest = _split_words(words, classes)
    if not rest and list_file is None:
        raise InputError(
            "expected images: predict ADAPTER photo.jpg ..., or predict photo.jpg ... "
            'classes="[cat, dog]"'
        )
    # Imported here: a typo on the command line is refused before torch is there.
    from clip_adapt.adapted.loading import load_classifier, make_zero_shot
    from clip_adapt.backbone.devices import resolve_device

    prompts = templates or ([template] if template is not None else None)
    where: dict[str, Any] = {"device": device, "precision": precision}
    with join_processes(cpu=resolve_device(device).type == "cpu"):
        paths = processes.run_on_main(lambda: _find(rest, list_file, looks, on_bad_image))
        if adapter is not None:
            loaded = load_classifier(adapter, model=model, method_file=method_file, **where)
            classifier = loaded if classes is None else loaded.for_classes(classes, prompts)
        else:
            assert classes is not None, "without a delta there are classes"
            classifier = make_zero_shot(classes, prompts or [TEMPLATE], model or MODEL, **where)
        options = {"top_k": top_k, "score": score, "every": looks}
        return predict_paths(classifier, paths, file, show, on_bad_image == "skip", options)


def _find(
    words: Sequence[str], list_file: str | None, looks: Every | None, on_bad_image: str
) -> list[str]:
    from clip_adapt.adapted.image_words import find_images, is_video
    from clip_adapt.adapted.view_stream import gives_frames
    from clip_adapt.data import decoding

    found = find_images(words, list_file, videos=looks is not None)
    if found.ignored:
        log.info("%d images; ignored: %s", len(found.paths), found.describe_ignored())
    named = [path for path in found.paths if is_video(path)]
    if named and looks is None:
        raise InputError(f"{named[0]} is a video: say how often it is looked at with every=1s")
    images = [path for path in found.paths if not gives_frames(path, looks)]
    if looks is not None and len(images) == len(found.paths):
        raise InputError("every= says how often a video is looked at, and there is no video")
    if looks is not None:
        find_decoder()  # says what is missing, should it be
    # What is not there is said before a backbone is loaded, with all else that cannot be read.
    missing = {path for path in images if not os.path.exists(path)}
    if missing and on_bad_image == "error":
        decoding.refuse_broken(decoding.find_broken(images))
    if missing.issuperset(found.paths):
        decoding.refuse_broken(decoding.find_broken(images), NONE_LEFT)
    return found.paths


def predict_paths(
    classifier: Classifier,
    paths: list[str],
    file: Path | None,
    show: Show,
    skips: bool,
    options: Mapping[str, Any],
) -> Summary:
    """Predict files, write what is predicted, and say what came of them.

    Args:
        classifier: the delta, or class names.
        paths: image files and videos.
        file: where predictions are written; None for nowhere.
        show: is called with each prediction.
        skips: whether files that cannot be read are left out.
        options: ``top_k``, ``score`` and ``every`` of ``bulk.stream_predictions``.

    Raises:
        InputError: listing the files that cannot be read, when they may not be left out.
    """
    from clip_adapt.data import decoding

    begin = time.perf_counter()
    counts: dict[str, int] = dict.fromkeys(classifier.classes, 0)
    broken: dict[str, str] = {}
    has_sets, every = classifier.conformal is not None, options["every"]
    layout = PredictionTable(classifier.classes, every is not None, has_sets, skips)
    exact = file is not None or len(paths) > FEW
    with contextlib.ExitStack() as stack:
        opened = open_output(file, layout) if file is not None else contextlib.nullcontext()
        write: Write | None = stack.enter_context(processes.hold_on_main(opened))
        is_shown = processes.is_main() and (every is not None or len(paths) > FEW)
        total = None if every else len(paths)
        bar = stack.enter_context(make_bar(total, "predicting", is_shown=is_shown))
        for prediction in _repeat(paths, _share(classifier, paths, {**options, "filled": exact})):
            bar.update()
            if prediction.error is None:
                counts[prediction.ranking[0][0]] += 1
            else:
                broken[prediction.path] = prediction.error
                if not skips:
                    _refuse_rest(broken, paths[paths.index(prediction.path) + 1 :], every)
            if processes.is_main():
                show(prediction)
                if write is not None:
                    write(prediction)
        if not any(counts.values()):
            decoding.refuse_broken(broken, NONE_LEFT)
    return Summary(counts, broken, time.perf_counter() - begin, file)


def _share(
    classifier: Classifier, paths: list[str], options: Mapping[str, Any]
) -> Iterator[Prediction]:
    # Of every path once; several processes take a part each of many.
    from clip_adapt.adapted.bulk import stream_predictions
    from clip_adapt.inputs.features import choose_batch_size

    once = list(dict.fromkeys(paths))
    count, size = processes.count_processes(), choose_batch_size(classifier.backbone.device)
    if count == 1 or len(once) <= size:
        yield from stream_predictions(classifier, once, **options)
        return

    def predict(part: Sequence[str]) -> list[list[Prediction]]:
        made = stream_predictions(classifier, part, **options)
        return [list(group) for _, group in groupby(made, attrgetter("path"))]

    block = size * BATCHES * count
    for start in range(0, len(once), block):
        for group in processes.share_work(predict, once[start : start + block]):
            yield from group


def _repeat(paths: Sequence[str], made: Iterator[Prediction]) -> Iterator[Prediction]:
    # What was made of every path once, as often as it was named.
    often = {path for path, count in Counter(paths).items() if count > 1}
    kept: dict[str, list[Prediction]] = {}
    groups = groupby(made, attrgetter("path"))
    for path in paths:
        if path not in kept:
            _, group = next(groups)
            if path not in often:
                yield from group
                continue
            kept[path] = list(group)
        yield from kept[path]


def _refuse_rest(broken: dict[str, str], rest: Sequence[str], every: Every | None) -> None:
    # With all that cannot be read of what is not yet looked at.
    from clip_adapt.adapted.view_stream import gives_frames
    from clip_adapt.data import decoding

    images = [path for path in rest if not gives_frames(path, every)]
    processes.run_on_main(lambda: decoding.refuse_broken(broken | decoding.find_broken(images)))


def _split_words(words: Sequence[str], classes: list[str] | None) -> tuple[str | None, list[str]]:
    # The delta, if one is given, and the images. With classes only what holds a delta is one;
    # without, the first word is.
    if words and (classes is None or _holds_delta(words[0])):
        return words[0], list(words[1:])
    return None, list(words)


def _holds_delta(word: str) -> bool:
    names = (DELTA, os.path.join(ADAPTER, DELTA))
    return word.endswith(SUFFIX) or any(os.path.isfile(os.path.join(word, n)) for n in names)
