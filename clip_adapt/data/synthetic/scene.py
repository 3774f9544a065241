"""The canvas of one picture: where every pixel lies on the eye, and paint to put there."""

import copy
import math

import numpy as np

from clip_adapt.data.synthetic.anatomy import Eye, lid_distances
from clip_adapt.data.synthetic.fields import Array, Rng, noise, smooth, strokes

_MAPS = ("u", "v", "du", "dv", "radius", "angle", "above", "below")


class Scene:
    """A square canvas over an eye, or a rectangular part of one that shares its paint.

    Attributes:
        eye: The eye that is drawn.
        side: Edge of the whole canvas in pixels.
        mm: Width of a pixel in mm.
        window: Rows and columns of the whole canvas that this part covers.
        u: Medial to lateral position of every pixel in mm, shape (rows, columns).
        v: Upward position in mm, shape (rows, columns).
        du: Position relative to the centre of the iris, along u; shape (rows, columns).
        dv: The same along v.
        radius: Distance from the centre of the iris in mm, shape (rows, columns).
        angle: Angle around the centre of the iris in radians, shape (rows, columns).
        above: Distance inside the upper lid margin in mm, shape (rows, columns).
        below: Distance inside the lower lid margin in mm, shape (rows, columns).
        rgb: The picture, values about 0..1, shape (3, rows, columns).
    """

    def __init__(self, eye: Eye, side: int) -> None:
        """Lay the canvas over the eye; the picture starts black."""
        self.eye, self.side, self.mm = eye, side, eye.frame / side
        self.window = (slice(0, side), slice(0, side))
        axis = ((np.arange(side, dtype=np.float32) + 0.5) / side - 0.5) * eye.frame
        x, y = axis[None, :], -axis[:, None]
        c, s = math.cos(eye.roll), math.sin(eye.roll)
        self.u = eye.lateral / eye.turn * (c * x + s * y) + eye.centre[0]
        self.v = c * y - s * x + eye.centre[1]
        self.du, self.dv = self.u - eye.gaze[0], self.v - eye.gaze[1]
        self.radius = np.hypot(self.du, self.dv)
        self.angle = np.arctan2(self.dv, self.du)
        self.above, self.below = lid_distances(eye, self.u, self.v)
        self.rgb = np.zeros((3, side, side), np.float32)

    def near(self, u: float, v: float, reach: float) -> "Scene":
        """Return the part of the canvas within ``reach`` mm of a point; paint on it stays here.

        A point outside the picture is moved to the picture's edge first, so that the part is never
        empty.
        """
        centre = np.clip(self.pixels(u, v), 0, self.side)
        half = reach / self.mm + 2
        spans = [slice(max(0, int(c - half)), int(c + half) + 1) for c in centre]
        part = copy.copy(self)
        part.window = (spans[1], spans[0])
        for name in _MAPS:
            setattr(part, name, getattr(self, name)[part.window])
        part.rgb = self.rgb[(slice(None), *part.window)]
        return part

    def pixels(self, u: Array | float, v: Array | float) -> tuple[Array, Array]:
        """Return the columns and rows, in pixels, of points of the eye in mm."""
        eye = self.eye
        along, up = (u - eye.centre[0]) * eye.turn * eye.lateral, v - eye.centre[1]
        c, s = math.cos(eye.roll), math.sin(eye.roll)
        x, y = c * along - s * up, s * along + c * up
        columns, rows = (x / eye.frame + 0.5) * self.side, (0.5 - y / eye.frame) * self.side
        return np.asarray(columns), np.asarray(rows)

    def cover(self, distance: Array, soft: float = 0.0) -> Array:
        """Return the share of each pixel inside an edge, given the distance inside it in mm."""
        half = 0.5 * (self.mm + soft)
        return smooth(distance, -half, half)

    def blend(self, colour: Array, alpha: Array | float) -> None:
        """Lay a colour, (3,) or (3, rows, columns), over the picture with the given opacity."""
        colour = np.asarray(colour, np.float32)
        colour = colour[:, None, None] if colour.ndim == 1 else colour
        self.rgb += alpha * (colour - self.rgb)

    def shade(self, factor: Array) -> None:
        """Multiply the picture by a factor, (rows, columns) or (3, rows, columns)."""
        self.rgb *= factor

    def noise(self, rng: Rng, bump: float, stretch: float = 1.0) -> Array:
        """Return smooth noise with bumps of about the given size in mm, (rows, columns)."""
        return noise(rng, self.side, self.window, self.eye.frame / bump, stretch)

    def cloud(self, rng: Rng, bump: float) -> Array:
        """Return noise over three octaves, the coarsest bumps of the given size in mm."""
        coarse, middle, fine = (self.noise(rng, bump / 2**k) * 0.5**k for k in range(3))
        return (coarse + middle + fine) / math.sqrt(1 + 1 / 4 + 1 / 16)

    def strokes(self, u: Array, v: Array, width: Array) -> Array:
        """Return the cover of strokes through knots (strokes, knots) in mm; (rows, columns)."""
        columns, rows = self.pixels(u, v)
        radius = np.broadcast_to(width, u.shape) / (2 * self.mm)
        return strokes(self.side, columns, rows, radius)[self.window]
