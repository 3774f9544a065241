"""What is said of one image, or of one frame of a video."""

from __future__ import annotations

from dataclasses import dataclass

Ranking = list[tuple[str, float]]  # classes with their probabilities, the most probable first


@dataclass(frozen=True)
class Prediction:
    """What is said of one image.

    Attributes:
        path: its file.
        ranking: classes with their probabilities, the most probable first, as many as were asked
            for; empty when the file cannot be read.
        chosen: its conformal set; None when the delta holds no thresholds.
        promise: share of images whose set is to hold the true class; None without sets.
        probabilities: of all classes, in the order of ``Classifier.classes``.
        time: of a frame of a video, in seconds.
        error: why the file cannot be read; None when it was.
    """

    path: str
    ranking: Ranking
    chosen: Ranking | None = None
    promise: float | None = None
    probabilities: tuple[float, ...] = ()
    time: float | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """The path, with the time of a frame."""
        return self.path if self.time is None else f"{self.path} at {self.time:g} s"
