"""Frames of a video, one a second or one in ten, as images with their times."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_adapt.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

_SECONDS = re.compile(r"(\d+|\d*\.\d+)\s?s")


@dataclass(frozen=True)
class Every:
    """How often a video is looked at: after so many seconds, or so many frames.

    Attributes:
        seconds: between two looks; None when frames are counted.
        frames: of which one is looked at.
    """

    seconds: float | None = None
    frames: int = 1


def parse_every(text: str) -> Every:
    """Return what ``every=1s`` or ``every=10`` says.

    Raises:
        InputError: when it is anything else.
    """
    if text.isascii() and text.isdigit() and 0 < int(text) < 10**9:
        return Every(frames=int(text))
    match = _SECONDS.fullmatch(text)
    if match and text.isascii() and 0 < float(match[1]) < 10**9:
        return Every(seconds=float(match[1]))
    raise InputError(
        f"every={text}: expected seconds (every=1s, every=0.5s) or a number of frames (every=10 "
        "looks at one in ten)"
    )


@functools.cache
def find_decoder() -> Callable[[Any], Any]:
    """Return torchcodec's decoder of videos.

    Raises:
        InputError: when it cannot be loaded here.
    """
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError) as error:
        raise _refuse_without(error) from error
    try:
        VideoDecoder(b"no video")
    except Exception as error:
        # FFmpeg's libraries are looked for when the first video is opened.
        if "libtorchcodec" in str(error):
            raise _refuse_without(error) from error
    return VideoDecoder


def _refuse_without(error: Exception) -> InputError:
    reason = " ".join(str(error).split()).partition(". ")[0][:200] or type(error).__name__
    return InputError(
        f"videos are read by torchcodec, which cannot be loaded here ({reason}): install "
        "torchcodec and FFmpeg's libraries, or write the frames as images"
    )


class Video:
    """A video and the places where it is looked at.

    Args:
        path: its file.
        every: how often.

    Raises:
        InputError: when it is no video, or damaged.
    """

    def __init__(self, path: str, every: Every) -> None:
        decoder = find_decoder()
        if not os.path.isfile(path):
            raise InputError(f"no such file (looked at {Path(path).absolute()})")
        try:
            self._decoder = decoder(path)
            facts = self._decoder.metadata
            self.places = _list_places(every, facts)
        except (RuntimeError, ValueError, OSError, TypeError) as error:
            raise InputError(f"this is no video that can be read ({_shorten(error)})") from error
        self._every = every
        self._last: float | None = None

    def read(self, place: float) -> tuple[float, Tensor] | None:
        """Return the time of a frame in seconds, and the frame as uint8 (3, H, W).

        Places are asked for in their order. None stands for a frame that came before already.

        Raises:
            InputError: when it cannot be decoded.
        """
        by_time = self._every.seconds is not None
        try:
            get = self._decoder.get_frame_played_at if by_time else self._decoder.get_frame_at
            frame = get(place)
        except (RuntimeError, ValueError, IndexError) as error:
            where = f"at {place:g} s" if by_time else str(place)
            raise InputError(f"frame {where} is damaged ({_shorten(error)})") from error
        if frame.pts_seconds == self._last:
            return None
        self._last = frame.pts_seconds
        return frame.pts_seconds, frame.data


def _list_places(every: Every, facts: Any) -> Sequence[float]:
    if not facts.num_frames:
        raise ValueError("it has no frames")
    if every.seconds is None:
        return range(0, facts.num_frames, every.frames)
    return list(_list_times(every.seconds, facts.begin_stream_seconds, facts.end_stream_seconds))


def _list_times(step: float, begin: float, end: float) -> Iterator[float]:
    count = 0
    while begin + count * step < end:
        yield begin + count * step
        count += 1


def _shorten(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
