"""Conditions of the lens, seen in the pupil: cataract, artificial and displaced lenses."""

from dataclasses import replace

import numpy as np

from clip_adapt.data.synthetic.anatomy import Eye
from clip_adapt.data.synthetic.fields import Array, Rng, fibres, smooth
from clip_adapt.data.synthetic.scene import Scene


def wide_pupil(eye: Eye, rng: Rng) -> Eye:
    """Dilate the pupil, as before an examination of the lens."""
    return replace(eye, pupil=float(rng.uniform(2.2, 3.7)), reflex=eye.reflex * 0.4)


def _in_pupil(scene: Scene) -> Array:
    """Return the cover of the pupil, (side, side)."""
    return scene.cover(scene.eye.pupil - scene.radius, 0.15)


def cataract(scene: Scene, rng: Rng) -> None:
    """Paint a clouded lens: a grey-white to amber haze, denser in its nucleus or in spokes."""
    depth = scene.radius / scene.eye.pupil
    amber = rng.uniform() ** 2
    colour = np.array([0.80, 0.82, 0.81]) * (1 - amber) + np.array([0.72, 0.60, 0.40]) * amber
    nucleus = np.exp(-((depth / rng.uniform(0.5, 1.3)) ** 2))
    spokes = smooth(fibres(rng, scene.angle, depth, int(rng.integers(9, 16)), 1), -0.2, 0.8)
    mix = rng.uniform() ** 1.5
    haze = nucleus * (1 - mix) + (0.35 + 0.65 * spokes * smooth(depth, 0.1, 0.8)) * mix
    haze = haze * rng.uniform(0.5, 1.0) * (1 + 0.10 * scene.cloud(rng, 1.2))
    scene.blend(colour * rng.uniform(0.8, 1.0), np.clip(haze, 0, 0.97) * _in_pupil(scene))


def intraocular_lens(scene: Scene, rng: Rng) -> None:
    """Paint an artificial lens: the rim of its optic, sharp glints and a faint sheen."""
    eye, inside = scene.eye, _in_pupil(scene)
    u, v = (scene.du - rng.normal(0, 0.25), scene.dv - rng.normal(0, 0.25))
    far, angle = np.hypot(u, v), np.arctan2(v, u)
    optic = eye.pupil * rng.uniform(0.70, 0.93)
    scene.blend(np.array([0.50, 0.58, 0.62]), scene.cover(optic - far) * inside * 0.16)
    lit = 0.55 + 0.45 * np.cos(angle - rng.uniform(-np.pi, np.pi))
    ring = np.exp(-(((far - optic) / 0.09) ** 2)) * (0.35 + 0.6 * lit)
    scene.blend(np.array([0.85, 0.90, 0.92]), np.clip(ring, 0, 1) * inside)
    for _ in range(rng.integers(2, 5)):
        _glint(scene, rng, optic, inside)
    _haptics(scene, rng, optic, inside)


def _glint(scene: Scene, rng: Rng, optic: float, inside: Array) -> None:
    """Paint one sharp, slightly coloured reflection of the lens's surfaces."""
    turn, place = rng.uniform(-np.pi, np.pi), optic * rng.uniform(0.1, 0.75)
    u, v = scene.du - place * np.cos(turn), scene.dv - place * np.sin(turn)
    across = u * np.cos(turn) + v * np.sin(turn)
    along = v * np.cos(turn) - u * np.sin(turn)
    spot = 0.28 - np.hypot(across / rng.uniform(0.5, 0.9), along / rng.uniform(0.9, 2.2))
    tint = np.array([0.88, 0.97, 1.0]) * rng.uniform(0.85, 1.0, 3)
    scene.blend(tint, scene.cover(spot, 0.1) * inside * rng.uniform(0.6, 1.0))


def _haptics(scene: Scene, rng: Rng, optic: float, inside: Array) -> None:
    """Paint the two loops that hold the lens, where the pupil shows them."""
    turn = rng.uniform(-np.pi, np.pi) + np.array([[0.0], [np.pi]])
    s = np.linspace(-0.2, 1.2, 6)
    reach, angle = optic + 1.2 * s, turn + 1.0 * s
    u = scene.eye.gaze[0] + reach * np.cos(angle)
    v = scene.eye.gaze[1] + reach * np.sin(angle)
    scene.blend(np.array([0.55, 0.66, 0.78]), scene.strokes(u, v, np.full(u.shape, 0.2)) * inside)


def ectopia_lentis(scene: Scene, rng: Rng) -> None:
    """Paint a displaced lens whose edge crosses the pupil, with stretched zonules."""
    eye, inside = scene.eye, _in_pupil(scene)
    turn, lens = rng.uniform(-np.pi, np.pi), rng.uniform(3.6, 4.6)
    away = lens - eye.pupil * rng.uniform(-0.35, 0.45)
    u, v = scene.du - away * np.cos(turn), scene.dv - away * np.sin(turn)
    edge, angle = lens - np.hypot(u, v), np.arctan2(v, u)
    scene.blend(np.array([0.24, 0.09, 0.06]), scene.cover(-edge) * inside * rng.uniform(0, 0.9))
    scene.blend(np.array([0.52, 0.55, 0.53]), scene.cover(edge) * inside * rng.uniform(0.25, 0.6))
    threads = smooth(fibres(rng, angle, edge * 0, 260, 1), 0.2, 1.1) * smooth(-edge, 0, 0.2)
    scene.blend(np.array([0.62, 0.60, 0.56]), threads * inside * rng.uniform(0.15, 0.5))
    rim = np.exp(-((edge / 0.13) ** 2)) * rng.uniform(0.65, 0.95)
    scene.blend(np.array([0.86, 0.83, 0.70]), rim * inside)
