"""The measures of one eye and of the camera in front of it, in millimetres.

Coordinates are those of an eye seen from the front: ``u`` runs from the medial canthus (the nose)
to the lateral one, ``v`` runs upwards, and the origin lies midway between the canthi.
"""

import math
from dataclasses import dataclass

import numpy as np

from clip_adapt.data.synthetic.fields import Array, Rng

Colour = tuple[float, float, float]

# Skin from light to dark, sRGB.
_SKIN = np.array(
    [
        (243, 212, 193),
        (231, 188, 163),
        (212, 163, 134),
        (180, 129, 100),
        (139, 93, 70),
        (99, 65, 50),
        (72, 47, 38),
    ],
    np.float32,
)

# Irides as (ciliary zone, pupillary zone), sRGB; the brown ones come first.
_IRIDES = np.array(
    [
        [(62, 36, 22), (78, 44, 24)],
        [(88, 54, 30), (112, 66, 34)],
        [(46, 28, 20), (54, 32, 22)],
        [(122, 82, 44), (146, 96, 46)],
        [(112, 100, 62), (150, 104, 52)],
        [(92, 106, 80), (138, 116, 68)],
        [(96, 122, 142), (138, 146, 138)],
        [(118, 140, 156), (150, 160, 160)],
        [(82, 108, 138), (116, 134, 146)],
    ],
    np.float32,
)
_BROWN = 4


@dataclass(frozen=True)
class Eye:
    """One eye, its lids and how the camera sees it; lengths in mm, colours in 0..1."""

    frame: float  # width of the picture
    centre: tuple[float, float]  # the point of the eye in the middle of the picture
    roll: float  # head tilt in radians
    turn: float  # cosine of the head's turn, which narrows the picture of the eye
    lateral: int  # +1: the lateral canthus is on the right of the picture, -1: on the left
    half_width: float  # half the distance between the canthi
    upper: float  # height of the upper lid margin above the canthi
    lower: float  # depth of the lower lid margin below the canthi
    tilt: float  # rise of the line through the canthi
    crease: float  # height of the upper lid crease above the margin
    crease_depth: float  # 0 for a single lid
    lashes: float  # density
    lash_length: float
    skin: Array  # (3,)
    sclera: Array  # (3,)
    redness: float  # conjunctival hyperaemia, 0..1
    ciliary: float  # redness around the limbus, 0..1
    gaze: tuple[float, float]  # centre of the iris
    iris: float  # radius of the iris
    iris_colours: Array  # (2, 3): ciliary and pupillary zone
    pupil: float  # radius of the pupil
    reflex: float  # strength of the red reflex in the pupil
    light: tuple[float, float, float]  # unit vector towards the light


def sample_eye(rng: Rng) -> Eye:
    """Return an eye without disease, with measures inside the adult range."""
    tone = rng.uniform(0, 1) ** 1.2
    angle, height = rng.normal(math.pi / 2, 0.7), rng.uniform(0.45, 0.85)
    flat = math.sqrt(1 - height**2)
    return Eye(
        frame=rng.uniform(20, 28),
        centre=(rng.normal(0, 1.2), rng.normal(0.2, 1.1)),
        roll=rng.normal(0, 0.08),
        turn=1 - 0.14 * rng.uniform() ** 2,
        lateral=int(rng.choice([-1, 1])),
        half_width=rng.uniform(13.6, 15.6),
        upper=rng.uniform(4.7, 6.6),
        lower=rng.uniform(4.2, 5.6),
        tilt=rng.normal(0.05, 0.03),
        crease=rng.uniform(1.8, 5.0),
        crease_depth=rng.uniform(0.2, 1.0) * (rng.uniform() > 0.15),
        lashes=rng.uniform(0.35, 1.0),
        lash_length=rng.uniform(3.5, 7.5),
        skin=_skin(rng, tone),
        sclera=_sclera(rng),
        redness=0.40 * rng.uniform() ** 1.6,
        ciliary=0.25 * rng.uniform() ** 2,
        gaze=(rng.normal(0, 1.5), rng.normal(0.1, 0.6)),
        iris=rng.uniform(5.5, 6.2),
        iris_colours=_iris(rng, tone),
        pupil=rng.uniform(1.3, 3.3),
        reflex=rng.uniform(0.2, 0.7) * (rng.uniform() < 0.06),
        light=(flat * math.cos(angle), flat * math.sin(angle), height),
    )


def _skin(rng: Rng, tone: float) -> Array:
    """Return a skin colour for a tone between 0, light, and 1, dark; (3,)."""
    place = tone * (len(_SKIN) - 1)
    base = np.array([np.interp(place, np.arange(len(_SKIN)), channel) for channel in _SKIN.T])
    return (base * rng.normal(1, 0.03, 3) / 255).astype(np.float32)


def _sclera(rng: Rng) -> Array:
    """Return a scleral white between bluish and yellowish; (3,)."""
    warm = rng.normal(0.3, 0.5)
    white = np.array([226, 219, 211]) + warm * np.array([5, -1, -12])
    return (white * rng.uniform(0.92, 1.04) / 255).astype(np.float32)


def _iris(rng: Rng, tone: float) -> Array:
    """Return the two colours of an iris; dark skin comes with brown ones mostly; (2, 3)."""
    brown = rng.uniform() < 0.35 + 0.9 * tone
    row = rng.integers(0, _BROWN) if brown else rng.integers(_BROWN, len(_IRIDES))
    colours = _IRIDES[row] * rng.uniform(0.8, 1.15) * rng.normal(1, 0.03, (2, 3))
    return (np.clip(colours, 8, 230) / 255).astype(np.float32)


def lid_margins(eye: Eye, u: Array) -> tuple[Array, Array]:
    """Return the heights, in mm, of the upper and the lower lid margin at positions along them."""
    (top, _), (bottom, _) = _arches(u / eye.half_width)
    level = eye.tilt * u
    return level + eye.upper * top, level - eye.lower * bottom


def lid_distances(eye: Eye, u: Array, v: Array) -> tuple[Array, Array]:
    """Return how far points lie inside the upper and the lower lid margin.

    Args:
        eye: The eye.
        u: Medial to lateral positions in mm, any shape.
        v: Upward positions in mm, the same shape.

    Returns:
        Two arrays in mm, the shape of ``u``: positive on the side of the palpebral aperture.
    """
    (top, top_slope), (bottom, bottom_slope) = _arches(u / eye.half_width)
    level = v - eye.tilt * u
    rise, fall = eye.upper / eye.half_width * top_slope, eye.lower / eye.half_width * bottom_slope
    above = (eye.upper * top - level) / np.sqrt(1 + rise * rise)
    return above, (level + eye.lower * bottom) / np.sqrt(1 + fall * fall)


def _arches(t: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Return (curve, slope) of the upper and of the lower lid, each of height 1 over t in -1..1."""
    # The upper lid is fuller and peaks towards the nose; the lower lid is deepest laterally.
    return _arch(t, 0.45, -0.10), _arch(t, 0.15, 0.14)


def _arch(t: Array, fullness: float, lean: float) -> tuple[Array, Array]:
    """Return a lid's curve over t in -1..1 and its slope; it is 0 at both canthi."""
    t2 = t * t
    curve = 1 - (1 - fullness) * t2 - fullness * t2 * t2
    slope = -2 * t * (1 - fullness + 2 * fullness * t2)
    return curve * (1 + lean * t), slope * (1 + lean * t) + curve * lean
