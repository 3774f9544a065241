"""Images of many files as they enter the tower: each decoded once, by threads that run ahead.

What is held are the views of three batches, however many files there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from torch import Tensor

from clip_adapt.adapted.frames import Every, Video
from clip_adapt.backbone.backbone import Backbone
from clip_adapt.data import decoding
from clip_adapt.data.decoding import SUFFIXES
from clip_adapt.errors import InputError
from clip_adapt.inputs.views import make_centre_view

AHEAD = 2  # batches that are decoded while one passes the tower


@dataclass(frozen=True)
class ViewOfFile:
    """An image, or a frame of a video, as it enters the tower.

    Attributes:
        path: its file.
        pixels: (3, S, S); None when it cannot be read.
        time: of a frame, in seconds.
        error: why it cannot be read.
    """

    path: str
    pixels: Tensor | None = None
    time: float | None = None
    error: str | None = None


def stream_views(
    backbone: Backbone, paths: Iterable[str], size: int, every: Every | None = None
) -> Iterator[list[ViewOfFile]]:
    """Yield the centre views of files in their order, ``size`` at a time.

    Args:
        backbone: its transform.
        paths: the files.
        size: how many views go together; fewer in the last batch.
        every: how often videos are looked at. What is not called as an image is a video then.
    """
    with decoding.open_decoders() as pool, ThreadPoolExecutor(1) as frames:
        waiting: deque[Future[ViewOfFile | None]] = deque()
        batch: list[ViewOfFile] = []
        with closing(_submit(backbone, paths, every, pool, frames)) as jobs:
            for job in jobs:
                waiting.append(job)
                if len(waiting) > AHEAD * size:
                    _take(waiting, batch)
                if len(batch) == size:
                    yield batch
                    batch = []
        while waiting:
            _take(waiting, batch)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch


def gives_frames(path: str, every: Every | None) -> bool:
    """Tell whether a file is read as a video: videos are looked at, and it is called no image."""
    return every is not None and not path.lower().endswith(tuple(SUFFIXES))


def _take(waiting: deque[Future[ViewOfFile | None]], batch: list[ViewOfFile]) -> None:
    view = waiting.popleft().result()
    if view is not None:
        batch.append(view)


def _submit(
    backbone: Backbone,
    paths: Iterable[str],
    every: Every | None,
    pool: ThreadPoolExecutor,
    frames: ThreadPoolExecutor,
) -> Generator[Future[ViewOfFile | None], None, None]:
    for path in paths:
        if every is None or not gives_frames(path, every):
            yield pool.submit(_load_image, backbone, path)
            continue
        try:
            video = Video(path, every)
        except InputError as error:
            yield frames.submit(ViewOfFile, path, error=str(error))
            continue
        for place in video.places:  # one thread: a decoder goes from frame to frame
            yield frames.submit(_load_frame, backbone, path, video, place)


def _load_image(backbone: Backbone, path: str) -> ViewOfFile:
    image = decoding.try_load(path)
    if isinstance(image, str):
        return ViewOfFile(path, error=image)
    return ViewOfFile(path, make_centre_view(backbone, image))


def _load_frame(backbone: Backbone, path: str, video: Video, place: float) -> ViewOfFile | None:
    try:
        read = video.read(place)
    except InputError as error:
        return ViewOfFile(path, error=str(error))
    return read and ViewOfFile(path, make_centre_view(backbone, read[1]), read[0])
