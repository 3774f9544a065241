"""The healthy eye: sclera, vessels, caruncle, iris, pupil, tear film, lids and lashes."""

import numpy as np

from clip_adapt.data.synthetic.anatomy import lid_margins
from clip_adapt.data.synthetic.fields import Array, Rng, fibres, smooth
from clip_adapt.data.synthetic.scene import Scene

BLOOD = np.array([0.70, 0.13, 0.12], np.float32)
FLESH = np.array([0.80, 0.46, 0.43], np.float32)


def paint_sclera(scene: Scene, rng: Rng) -> None:
    """Paint the white of the eye, round and shaded by the lids, with its vessels."""
    eye = scene.eye
    scene.blend(eye.sclera, 1.0)
    mottle = 1 + 0.02 * scene.cloud(rng, 3.0)
    scene.shade(mottle)
    blush = eye.redness * (0.22 + 0.30 * smooth(scene.radius, 6, 14))
    blush = blush * (1 + 0.3 * scene.cloud(rng, 4.0)) + eye.ciliary * _near_limbus(scene, 2.2) * 0.4
    scene.blend(np.array([0.80, 0.30, 0.27]), np.clip(blush, 0, 0.8))
    paint_vessels(scene, rng, round(16 + 90 * eye.redness), 0.10 + 0.13 * eye.redness)
    paint_ciliary(scene, rng, round(90 * eye.ciliary))


def _near_limbus(scene: Scene, reach: float) -> Array:
    """Return 1 at the limbus, falling to 0 over ``reach`` mm outside it."""
    outside = np.maximum(scene.radius - scene.eye.iris, 0) / reach
    return np.exp(-outside * outside)


def paint_vessels(scene: Scene, rng: Rng, count: int, width: float) -> None:
    """Paint winding conjunctival vessels that run from the canthi towards the limbus."""
    knots = 14
    middle = rng.choice([0.0, np.pi], (count, 1)) + rng.normal(0, 0.5, (count, 1))
    wander = np.cumsum(rng.normal(0, 0.10, (count, knots)), axis=1)
    start, stop = rng.uniform(9, 16, (count, 1)), rng.uniform(6.3, 10.5, (count, 1))
    reach = start + (np.minimum(stop, start - 1.5) - start) * np.linspace(0, 1, knots)
    taper = np.linspace(1, 0.35, knots) * rng.lognormal(0, 0.45, (count, 1))
    angle = middle + wander * 9 / reach
    paint_lines(scene, rng, reach, angle, np.clip(width * taper, 0.03, 0.5))


def paint_ciliary(scene: Scene, rng: Rng, count: int) -> None:
    """Paint the short straight vessels that ring an inflamed cornea."""
    knots = 6
    angle = rng.uniform(-np.pi, np.pi, (count, 1)) + np.cumsum(
        rng.normal(0, 0.02, (count, knots)), axis=1
    )
    stop = scene.eye.iris + rng.uniform(0.8, 3.0, (count, 1))
    reach = stop + (scene.eye.iris + 0.1 - stop) * np.linspace(0, 1, knots)
    paint_lines(scene, rng, reach, angle, np.full(reach.shape, 0.11))


def paint_lines(scene: Scene, rng: Rng, reach: Array, angle: Array, width: Array) -> None:
    """Paint vessels through knots given in mm and radians around the iris's centre."""
    u = scene.eye.gaze[0] + reach * np.cos(angle)
    v = scene.eye.gaze[1] + reach * np.sin(angle)
    deep = rng.uniform(0.45, 0.8)
    scene.blend(BLOOD, scene.strokes(u, v, width) * deep)


def paint_caruncle(scene: Scene, rng: Rng) -> None:
    """Paint the caruncle and the fold beside it in the medial canthus."""
    eye = scene.eye
    u, v = scene.u + eye.half_width - 1.2, scene.v + eye.tilt * eye.half_width + 0.1
    lobe = 1.5 - np.hypot(u / 1.25, v / 0.9) + 0.15 * scene.noise(rng, 0.8)
    fold = np.exp(-(((u - 2.4 + 0.12 * v * v) / 0.8) ** 2)) * 0.45
    scene.blend(FLESH, fold + 0.35 * smooth(-u, -5, 0))
    scene.shade(1 - 0.25 * np.exp(-((lobe / 0.5) ** 2)))
    scene.blend(FLESH * rng.uniform(0.85, 1.05), scene.cover(lobe, 0.4) * 0.9)
    scene.shade(1 + 0.12 * scene.cover(lobe) * scene.noise(rng, 0.6))


def shade_globe(scene: Scene) -> None:
    """Darken the globe away from the light and under the upper lid."""
    eye = scene.eye
    slope = 1 / 15.0
    side = eye.light[0] * scene.u * slope + eye.light[1] * scene.v * slope
    round_off = 0.10 * ((scene.u / eye.half_width) ** 2)
    lid = 0.5 * np.exp(-np.maximum(scene.above, 0) / 1.4)
    sill = 0.15 * np.exp(-np.maximum(scene.below, 0) / 0.7)
    scene.shade(np.clip(1 + 0.22 * side - round_off - lid - sill, 0.2, 1.3))


def paint_iris(scene: Scene, rng: Rng) -> None:
    """Paint the iris with its fibres, collarette and limbal ring, and the pupil."""
    eye = scene.eye
    inner, outer = eye.pupil, eye.iris
    depth = np.clip((scene.radius - inner) / (outer - inner), 0, 1)
    colour = _iris_colour(scene, rng, depth)
    limbus = scene.cover(outer - scene.radius, 0.7)
    ring = smooth(depth, 0.80, 1.0) * rng.uniform(0.25, 0.65)
    caustic = -(eye.light[0] * scene.du + eye.light[1] * scene.dv) / outer
    colour *= (1 - ring) * (1 + 0.22 * caustic * depth)
    scene.blend(colour, limbus)
    _paint_pupil(scene, rng)


def _iris_colour(scene: Scene, rng: Rng, depth: Array) -> Array:
    """Return the iris's colour everywhere, (3, side, side)."""
    eye = scene.eye
    collarette = rng.uniform(0.25, 0.45)
    bend = scene.angle + 0.06 * fibres(rng, scene.angle, depth, 24, 4)
    streak = sum(
        weight * fibres(rng, bend, depth, spokes, rings)
        for spokes, rings, weight in ((150, 3, 0.5), (70, 3, 0.6), (24, 2, 0.4))
    )
    edge = depth - collarette + 0.07 * fibres(rng, scene.angle, depth, 30, 1)
    zone = smooth(edge, -0.10, 0.12)
    ciliary, pupillary = (c[:, None, None] for c in eye.iris_colours)
    colour = pupillary + zone * (ciliary - pupillary)
    ridge = 0.22 * np.exp(-((edge / 0.06) ** 2))
    return colour * np.clip(1 + 0.30 * streak + ridge, 0.35, 1.9)


def _paint_pupil(scene: Scene, rng: Rng) -> None:
    """Paint the pupil with its dark ruff, and the red reflex where the eye has one."""
    eye = scene.eye
    inside = eye.pupil - scene.radius * (1 + 0.02 * np.cos(2 * scene.angle + rng.uniform(0, 6)))
    scene.shade(1 - 0.45 * np.exp(-((inside / 0.22) ** 2)))
    black = np.array([0.05, 0.04, 0.045]) + rng.uniform(0, 0.05)
    pupil = scene.cover(inside, 0.12)
    scene.blend(black, pupil)
    glow = eye.reflex * smooth(inside / eye.pupil, -0.2, 1.0)
    scene.blend(np.array([0.62, 0.20, 0.10]), glow * pupil)


def paint_tears(scene: Scene, rng: Rng) -> None:
    """Paint the light's reflection on the cornea and the bright line along the lower lid."""
    eye = scene.eye
    u = scene.du - eye.light[0] * 3.2 + rng.normal(0, 0.3)
    v = scene.dv - eye.light[1] * 3.2 + rng.normal(0, 0.3)
    shape = _lamp(rng, u, v)
    scene.blend(np.ones(3) * 0.98, scene.cover(shape, 0.12) * rng.uniform(0.6, 1.0))
    glow = np.exp(-np.hypot(u, v) / 1.6) * rng.uniform(0, 0.12)
    scene.blend(np.ones(3), glow)
    line = np.exp(-(((scene.below - 0.25) / 0.16) ** 2)) * smooth(scene.noise(rng, 2.5), -0.3, 1.5)
    scene.blend(np.ones(3), line * rng.uniform(0.1, 0.55))


def _lamp(rng: Rng, u: Array, v: Array) -> Array:
    """Return the distance inside a lamp's reflection: a flash, a ring light or a window."""
    kind, size = rng.integers(3), rng.uniform(0.35, 0.85)
    if kind == 0:
        return size - np.hypot(u, v)
    if kind == 1:
        return 0.14 - np.abs(np.hypot(u, v) - size * 1.4)
    lean = rng.normal(0, 0.15)
    pane = np.maximum(np.abs(u + lean * v) - 0.8 * size, np.abs(v - lean * u) - 1.1 * size)
    return np.minimum(-pane, np.abs(u + lean * v) - 0.06)


def paint_lids(scene: Scene, rng: Rng) -> None:
    """Lay the lids and the skin around the eye over everything but the palpebral aperture."""
    eye = scene.eye
    skin = _skin(scene, rng)
    inside = np.minimum(scene.above, scene.below)
    rim = np.where(scene.above < scene.below, 0.7, 1.3)
    margin = scene.cover(inside + rim, 0.5)
    pink = (0.55 * eye.skin + 0.45 * FLESH)[:, None, None]
    wet = 1 + 0.18 * np.exp(-(((inside + 0.7) / 0.35) ** 2)) * (scene.below < scene.above)
    skin += margin * 0.75 * (pink * wet - skin)
    scene.blend(skin, scene.cover(-inside, 0.1))


def _skin(scene: Scene, rng: Rng) -> Array:
    """Return the skin's colour everywhere, (3, side, side)."""
    eye = scene.eye
    tone = np.broadcast_to(eye.skin[:, None, None], scene.rgb.shape).copy()
    tone *= 1 + 0.045 * scene.cloud(rng, 9.0)
    tone *= 1 + rng.uniform(0.015, 0.04) * scene.noise(rng, 0.35)
    tone *= 1 + rng.uniform(0.01, 0.04) * scene.noise(rng, 0.5, 5.0)
    flush = rng.uniform(0, 0.25) * np.exp(-np.abs(np.minimum(scene.above, scene.below)) / 4)
    tone += flush * (np.array([0.62, 0.34, 0.33])[:, None, None] * eye.skin.mean() * 1.6 - tone)
    light = eye.light[0] * scene.u + eye.light[1] * scene.v
    return tone * np.clip(_lid_relief(scene, rng) + 0.009 * light, 0.2, 1.4)


def _lid_relief(scene: Scene, rng: Rng) -> Array:
    """Return the shading of the lids' relief: the crease, the lid plate and the lower furrow."""
    eye = scene.eye
    above, below = -scene.above, -scene.below
    bend = 0.25 * scene.noise(rng, 7.0)
    fold = above - eye.crease - 0.10 * scene.v + bend
    line = 0.28 * np.exp(-((fold / 0.28) ** 2)) + 0.24 * np.exp(-np.abs(fold - 0.1) / 1.1)
    brow = 0.10 * smooth(fold, 0.2, 2.0) - 0.10 * smooth(fold, 5, 11)
    plate = 0.10 * np.exp(-(((above - 0.5 * eye.crease) / (0.4 * eye.crease)) ** 2))
    furrow = below - 4.5 - bend * 2
    bag = 0.12 * np.exp(-((furrow / 0.9) ** 2)) - 0.07 * np.exp(-(((below - 2.2) / 1.4) ** 2))
    lines = 0.035 * np.sin(below * rng.uniform(4, 7) + 1.3 * scene.noise(rng, 3.0))
    bag = bag + lines * smooth(below, 1.0, 2.5) * smooth(-below, -8, -4)
    nose = 0.16 * smooth(-scene.u, eye.half_width - 3, eye.half_width + 4)
    return 1 - eye.crease_depth * (line - brow) + plate - bag * rng.uniform(0.2, 1) - nose


def paint_lashes(scene: Scene, rng: Rng) -> None:
    """Paint both rows of lashes over the lids."""
    eye = scene.eye
    dark = np.array([0.09, 0.065, 0.055]) + rng.uniform(0, 0.12) * (eye.skin.mean() > 0.6)
    upper = _lash_row(scene, rng, round(105 * eye.lashes), eye.lash_length, 1)
    scene.blend(dark, upper * 0.92)
    lower = _lash_row(scene, rng, round(60 * eye.lashes), eye.lash_length * 0.5, -1)
    scene.blend(dark, lower * 0.7)


def _lash_row(scene: Scene, rng: Rng, count: int, length: float, up: int) -> Array:
    """Return the cover of one row of lashes; ``up`` is 1 for the upper lid, -1 for the lower."""
    eye = scene.eye
    t = np.linspace(-0.82, 0.97, count)[:, None] + rng.normal(0, 0.02, (count, 1))
    u = t * eye.half_width
    root = lid_margins(eye, u)[0 if up > 0 else 1] + up * (0.2 if up > 0 else 0.8)
    size = length * rng.uniform(0.5, 1.15, (count, 1)) * (1 - 0.4 * np.abs(t - 0.35))
    # Neighbouring tips lean towards each other, as lashes stick together in small tufts.
    tuft = np.round(t * 13 + rng.normal(0, 0.25, (count, 1))) / 13
    lean = 0.95 * t + 0.1 + rng.normal(0, 0.13, (count, 1))
    fan = lean * size + (tuft - t) * eye.half_width * 0.9
    s = np.linspace(-0.2, 1.2, 7)
    curl = rng.uniform(1.2, 2.2, (count, 1))
    dip = 0.35 * np.sin(np.pi * np.clip(s, 0, 1)) * (up > 0)
    rise = up * size * 0.72 * (np.abs(s) ** curl - dip)
    return scene.strokes(u + fan * s, root + rise, 0.18 * np.linspace(1, 0.15, 7))
