"""Conditions of the conjunctiva: growths, bleeding, congestion, cysts and nevi."""

from dataclasses import replace

import numpy as np

from clip_adapt.data.synthetic.anatomy import Eye, lid_distances
from clip_adapt.data.synthetic.fields import Array, Rng, smooth
from clip_adapt.data.synthetic.scene import Scene
from clip_adapt.data.synthetic.tissue import BLOOD, paint_lines, paint_vessels


def _conjunctival_place(
    scene: Scene, rng: Rng, inner: float, outer: float, room: float
) -> tuple[float, float]:
    """Return a visible point between two distances outside the limbus, mm."""
    eye = scene.eye
    turn = rng.choice([0, np.pi], 200) + rng.normal(0, 0.45, 200)
    r = eye.iris + rng.uniform(inner, outer, 200)
    u, v = eye.gaze[0] + r * np.cos(turn), eye.gaze[1] + r * np.sin(turn)
    free = np.minimum(*lid_distances(eye, u, v))
    column, row = scene.pixels(u, v)
    edge = np.minimum(np.minimum(column, scene.side - column), np.minimum(row, scene.side - row))
    free = np.minimum(free, edge * scene.mm)
    pick = int(np.argmax(free > room)) if (free > room).any() else int(np.argmax(free))
    return float(u[pick]), float(v[pick])


def _side(scene: Scene, rng: Rng, medial: float) -> float:
    """Return the direction, in radians, of the medial canthus or of the lateral one.

    The medial one is drawn with the given probability, but a side whose sclera lies outside the
    picture gives way to the other.
    """
    eye = scene.eye
    turn = np.pi if rng.uniform() < medial else 0.0
    column, _ = scene.pixels(eye.gaze[0] + (eye.iris + 3) * np.cos(turn), eye.gaze[1])
    hidden = min(column, scene.side - column) * scene.mm < 1
    return np.pi - turn if hidden else turn


def _lit_dome(scene: Scene, height: Array) -> Array:
    """Return the shading, about -1..1, of a surface of the given height in mm."""
    down, across = np.gradient(height, scene.mm)
    c, s, eye = np.cos(scene.eye.roll), np.sin(scene.eye.roll), scene.eye
    x, y = across, -down
    du, dv = (c * x + s * y) * eye.lateral, c * y - s * x
    normal = 1 / np.sqrt(1 + du * du + dv * dv)
    return (eye.light[2] - eye.light[0] * du - eye.light[1] * dv) * normal - eye.light[2]


def tumor(scene: Scene, rng: Rng) -> None:
    """Paint a raised, fleshy pink mass that straddles the limbus, with feeder vessels."""
    u0, v0 = _conjunctival_place(scene, rng, -0.8, 0.8, 1.6)
    size = rng.uniform(1.9, 3.4)
    _feeders(scene, rng, u0, v0, int(rng.integers(8, 18)))
    scene = scene.near(u0, v0, 1.8 * size + 0.5)
    away = np.hypot((scene.u - u0) / rng.uniform(0.8, 1.1), (scene.v - v0) / rng.uniform(0.9, 1.3))
    edge = size - away + 0.30 * scene.cloud(rng, 1.6)
    bumps = 0.12 * scene.noise(rng, 0.7)
    height = np.sqrt(np.clip(edge, 0, None) * size) * 0.9 + bumps * smooth(edge, 0, 0.5)
    scene.shade(1 - 0.35 * np.exp(-((edge / 0.35) ** 2)) * (edge < 0.1))
    flesh = np.array([0.86, 0.55, 0.51]) + rng.normal(0, 0.05) * np.array([0.5, 1, 1])
    lit = 1 + 0.55 * _lit_dome(scene, height) + 0.05 * scene.noise(rng, 0.4)
    scene.blend(flesh[:, None, None] * np.clip(lit, 0.45, 1.4), scene.cover(edge, 0.25) * 0.96)
    loops = smooth(scene.noise(rng, 0.45), 0.8, 1.6) * scene.cover(edge - 0.3, 0.5)
    scene.blend(BLOOD, loops * rng.uniform(0.2, 0.6))


def _feeders(scene: Scene, rng: Rng, u0: float, v0: float, count: int) -> None:
    """Paint dilated vessels that run from the canthus to a point on the globe."""
    u, v = u0 - scene.eye.gaze[0], v0 - scene.eye.gaze[1]
    away, turn = np.hypot(u, v), np.arctan2(v, u)
    reach = away + np.linspace(7.0, 0.0, 10) * rng.uniform(0.5, 1, (count, 1))
    wander = np.cumsum(rng.normal(0, 0.06, (count, 10)), axis=1)
    angle = turn + wander[:, ::-1] + rng.normal(0, 0.12, (count, 1))
    paint_lines(scene, rng, reach, angle, rng.uniform(0.1, 0.26, (count, 1)) * np.ones(10))


def pterygium(scene: Scene, rng: Rng) -> None:
    """Paint a wedge of vascular tissue from the canthus onto the cornea."""
    eye = scene.eye
    turn = _side(scene, rng, 0.85) + rng.normal(0, 0.15)
    axis, off = (np.cos(turn), np.sin(turn)), rng.normal(0, 0.5)
    along = scene.du * axis[0] + scene.dv * axis[1]
    across = scene.dv * axis[0] - scene.du * axis[1] - off
    apex = eye.iris - rng.uniform(1.6, 3.8)
    length, base = rng.uniform(7, 9), rng.uniform(2.8, 4.6)
    s = np.clip((along - apex) / length, 0, 1.5)
    half = base * np.sqrt(s) * (0.75 + 0.35 * s)
    edge = np.where(along > apex, half - np.abs(across), -np.hypot(along - apex, across))
    edge = edge + 0.16 * scene.cloud(rng, 1.5)
    body = scene.cover(edge, 0.5)
    pink = np.array([0.84, 0.60, 0.55]) + rng.normal(0, 0.04) * np.array([0.3, 1, 1])
    sheen = 1 + 0.06 * scene.noise(rng, 0.8)
    scene.blend(pink[:, None, None] * sheen, body * rng.uniform(0.72, 0.92))
    cap = body * smooth(apex + 1.1 - along, 0, 0.9)
    scene.blend(np.array([0.82, 0.80, 0.77]), cap * 0.7)
    _wedge_vessels(scene, rng, turn, off, apex, length, base)


def _wedge_vessels(
    scene: Scene, rng: Rng, turn: float, off: float, apex: float, length: float, base: float
) -> None:
    """Paint the straight vessels that converge on a pterygium's head."""
    count, knots = int(rng.integers(18, 34)), 8
    lane = rng.uniform(-0.9, 0.9, (count, 1))
    s = np.linspace(1.3, 0.0, knots) * np.ones((count, 1)) + rng.uniform(0.02, 0.25, (count, 1))
    along = apex + length * s
    across = off + lane * base * np.sqrt(s) + rng.normal(0, 0.08, (count, knots))
    u = scene.eye.gaze[0] + along * np.cos(turn) - across * np.sin(turn)
    v = scene.eye.gaze[1] + along * np.sin(turn) + across * np.cos(turn)
    cover = scene.strokes(u, v, rng.uniform(0.08, 0.24, (count, 1)) * np.ones(knots))
    scene.blend(BLOOD, cover * rng.uniform(0.5, 0.85))


def hemorrhage(scene: Scene, rng: Rng) -> None:
    """Paint a flat, bright red patch under the conjunctiva that stops at the limbus."""
    eye = scene.eye
    middle = _side(scene, rng, 0.5) + rng.normal(0, 0.5)
    swing = np.abs(np.angle(np.exp(1j * (scene.angle - middle))))
    sector = (rng.uniform(0.9, 3.0) - swing) * np.minimum(scene.radius, 9)
    outside = scene.radius - eye.iris - 0.1
    reach = rng.uniform(4.5, 11.0) - outside
    edge = np.minimum(np.minimum(sector, reach) + 0.9 * scene.cloud(rng, 4.0), outside * 1.5)
    depth = 0.85 + 0.12 * scene.cloud(rng, 3.0) * rng.uniform(0.3, 1)
    red = np.array([0.74, 0.08, 0.07]) * rng.uniform(0.75, 1.15)
    alpha = scene.cover(edge, 0.7) * np.clip(depth, 0.5, 0.97) * rng.uniform(0.8, 1.0)
    scene.blend(red, alpha)


def congested(eye: Eye, rng: Rng) -> Eye:
    """Dilate the conjunctival vessels all over."""
    return replace(eye, redness=float(rng.uniform(0.65, 1.25)), ciliary=0.1)


def congestion(scene: Scene, rng: Rng) -> None:
    """Paint more and wider vessels, most of them towards the fornices."""
    paint_vessels(scene, rng, int(rng.integers(25, 70)), rng.uniform(0.16, 0.26))


def cysts(scene: Scene, rng: Rng) -> None:
    """Paint clear, round blebs on the bulbar conjunctiva."""
    for _ in range(rng.choice([1, 2, 2, 3, 3, 4])):
        size = rng.uniform(0.9, 2.2)
        u0, v0 = _conjunctival_place(scene, rng, 0.6 + size, 6.0, size * 0.9)
        part = scene.near(u0, v0, size + 1)
        _bleb(part, rng, part.u - u0, part.v - v0, size)


def _bleb(scene: Scene, rng: Rng, u: Array, v: Array, size: float) -> None:
    """Paint one bleb: clear, with a dark rim, a bright far side and a sharp glint."""
    light, far = scene.eye.light, np.hypot(u, v * rng.uniform(0.9, 1.25))
    edge = size - far + 0.06 * scene.noise(rng, 1.2)
    inside = scene.cover(edge, 0.1)
    scene.shade(1 - 0.30 * np.exp(-((edge / 0.3) ** 2)) * (edge < 0))
    scene.blend(np.array([0.90, 0.83, 0.70]), inside * rng.uniform(0.25, 0.5))
    facing = (u * light[0] + v * light[1]) / size
    scene.shade(1 - inside * np.clip(0.28 * facing, -0.25, 0.35))
    scene.shade(1 - 0.35 * np.exp(-((edge / 0.16) ** 2)))
    glint = size * 0.26 - np.hypot(u - light[0] * size * 0.6, v - light[1] * size * 0.6)
    scene.blend(np.ones(3), scene.cover(glint, 0.15) * rng.uniform(0.7, 1.0))
    crescent = smooth(-facing, 0.1, 0.9) * np.exp(-(((edge - 0.3) / 0.22) ** 2))
    scene.blend(np.array([1.0, 0.98, 0.93]), crescent * 0.6)


def nevus(scene: Scene, rng: Rng) -> None:
    """Paint a flat brown spot with mottled pigment on the bulbar conjunctiva."""
    u0, v0 = _conjunctival_place(scene, rng, 0.8, 4.5, 1.3)
    size = rng.uniform(1.2, 2.5)
    scene = scene.near(u0, v0, 2 * size + 1)
    away = np.hypot((scene.u - u0) / rng.uniform(0.8, 1.5), scene.v - v0)
    edge = size - away + 0.22 * scene.cloud(rng, 1.4)
    edge = np.minimum(edge, scene.radius - scene.eye.iris - 0.1)
    mottle = np.clip(1 + 0.28 * scene.cloud(rng, 0.9), 0.5, 1.7)
    brown = np.array([0.34, 0.20, 0.11]) * rng.uniform(0.6, 1.3)
    alpha = scene.cover(edge, 0.3) * rng.uniform(0.82, 0.97)
    scene.blend(brown[:, None, None] * mottle, alpha)
