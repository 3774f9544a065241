"""Conditions of the cornea: keratitis, scarring and dystrophy."""

from dataclasses import replace

import numpy as np

from clip_adapt.data.synthetic.anatomy import Eye, lid_distances
from clip_adapt.data.synthetic.fields import Array, Rng, smooth
from clip_adapt.data.synthetic.scene import Scene


def inflamed(eye: Eye, rng: Rng) -> Eye:
    """Redden the eye, most of all around the cornea."""
    red, ring = rng.uniform(0.45, 0.9), rng.uniform(0.5, 1.0)
    return replace(eye, redness=float(red), ciliary=float(ring))


def _on_cornea(scene: Scene, soft: float = 0.6) -> Array:
    """Return the cover of the cornea, (side, side)."""
    return scene.cover(scene.eye.iris - scene.radius, soft)


def _corneal_place(scene: Scene, rng: Rng, reach: float) -> tuple[Array, Array]:
    """Return positions relative to a random visible point of the cornea, mm."""
    eye = scene.eye
    r = eye.iris * reach * np.sqrt(rng.uniform(0, 1, 40))
    turn = rng.uniform(-np.pi, np.pi, 40)
    u, v = eye.gaze[0] + r * np.cos(turn), eye.gaze[1] + r * np.sin(turn)
    seen = np.minimum(*lid_distances(eye, u, v)) > 1.2
    pick = int(np.argmax(seen))
    return scene.u - u[pick], scene.v - v[pick]


def keratitis(scene: Scene, rng: Rng) -> None:
    """Paint a soft grey infiltrate in a hazy cornea, sometimes with a hypopyon."""
    cornea = _on_cornea(scene)
    veil = rng.uniform(0.15, 0.42) * (1 + 0.25 * scene.cloud(rng, 2.5))
    scene.blend(np.array([0.63, 0.66, 0.66]), np.clip(veil, 0, 0.7) * cornea)
    u, v = _corneal_place(scene, rng, 0.6)
    size = rng.uniform(0.9, 2.4)
    patch = np.exp(-((np.hypot(u, v) / size) ** 2)) + 0.12 * scene.cloud(rng, 1.2)
    patch = np.clip(patch, 0, 1) * smooth(size * 1.9 - np.hypot(u, v))
    scene.blend(np.array([0.80, 0.79, 0.72]), patch * cornea * rng.uniform(0.55, 0.9))
    if rng.uniform() < 0.25:
        level = -scene.eye.iris + rng.uniform(1.2, 2.4)
        pus = scene.cover(level - scene.dv + 0.1 * scene.noise(rng, 1.5), 0.25)
        scene.blend(np.array([0.86, 0.80, 0.62]), pus * cornea * 0.9)


def scarring(scene: Scene, rng: Rng) -> None:
    """Paint a dense, irregular white patch with well-marked borders on a quiet cornea."""
    u, v = _corneal_place(scene, rng, 0.65)
    turn, long = rng.uniform(0, np.pi), rng.uniform(1.0, 1.8)
    along, across = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
    size = rng.uniform(1.3, 2.8)
    edge = size - np.hypot(along / long, across) + 0.38 * scene.cloud(rng, 2.0)
    dense = scene.cover(edge, 0.35) * (0.93 + 0.07 * scene.cloud(rng, 0.8))
    halo = smooth(edge, -0.8, 0.2) * 0.3
    alpha = np.clip(np.maximum(dense * rng.uniform(0.85, 1.0), halo), 0, 0.98)
    scene.blend(np.array([0.96, 0.96, 0.94]) * rng.uniform(0.92, 1.02), alpha * _on_cornea(scene))


def dystrophy(scene: Scene, rng: Rng) -> None:
    """Paint many fine grey-white crumbs or branching lines across the central cornea."""
    spread = scene.eye.iris * rng.uniform(0.55, 0.85)
    zone = smooth(spread - scene.radius, -0.6, 0.6) * _on_cornea(scene)
    scene.blend(np.array([0.66, 0.69, 0.70]), zone * rng.uniform(0.03, 0.16))
    lattice = rng.uniform()
    marks = _crumbs(scene, rng, spread) if lattice < 0.6 else _lattice(scene, rng, spread)
    scene.blend(np.array([0.88, 0.90, 0.90]), marks * zone * rng.uniform(0.7, 0.95))


def _crumbs(scene: Scene, rng: Rng, spread: float) -> Array:
    """Return the cover of granular deposits, (side, side)."""
    count = int(rng.integers(50, 130))
    r, turn = spread * np.sqrt(rng.uniform(0, 1, (count, 1))), rng.uniform(0, 2 * np.pi, (count, 1))
    u, v = scene.eye.gaze[0] + r * np.cos(turn), scene.eye.gaze[1] + r * np.sin(turn)
    jitter = np.cumsum(rng.normal(0, 0.06, (2, count, 4)), axis=2)
    width = rng.uniform(0.15, 0.42, (count, 1)) * np.ones(4)
    return scene.strokes(u + jitter[0], v + jitter[1], width)


def _lattice(scene: Scene, rng: Rng, spread: float) -> Array:
    """Return the cover of fine branching lines, (side, side)."""
    count, knots = int(rng.integers(22, 48)), 8
    r, turn = spread * np.sqrt(rng.uniform(0, 1, (count, 1))), rng.uniform(0, 2 * np.pi, (count, 1))
    heading = turn + rng.normal(0, 0.5, (count, 1))
    heading = heading + np.cumsum(rng.normal(0, 0.35, (count, knots)), axis=1)
    step = rng.uniform(0.15, 0.45, (count, 1))
    u = scene.eye.gaze[0] + r * np.cos(turn) + np.cumsum(step * np.cos(heading), axis=1)
    v = scene.eye.gaze[1] + r * np.sin(turn) + np.cumsum(step * np.sin(heading), axis=1)
    return scene.strokes(u, v, rng.uniform(0.10, 0.22, (count, 1)) * np.ones(knots))
