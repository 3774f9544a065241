"""Thirteen conditions of the front of the eye, as an ophthalmologist would describe them.

A condition may change the eye before it is drawn (``adjust``) and may paint on the cornea or on
the whole globe before the tear film and the lids are laid over it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from clip_adapt.data.synthetic import conjunctiva, cornea, lens
from clip_adapt.data.synthetic.anatomy import Eye
from clip_adapt.data.synthetic.fields import Rng
from clip_adapt.data.synthetic.scene import Scene


def _unchanged(eye: Eye, rng: Rng) -> Eye:
    return eye


def _nothing(scene: Scene, rng: Rng) -> None:
    return None


@dataclass(frozen=True)
class Condition:
    """What a condition changes in the eye, and what it paints on the cornea and the globe."""

    adjust: Callable[[Eye, Rng], Eye] = _unchanged
    cornea: Callable[[Scene, Rng], None] = _nothing
    globe: Callable[[Scene, Rng], None] = _nothing


def _narrow(eye: Eye, rng: Rng) -> Eye:
    """Narrow the palpebral aperture, the upper lid most."""
    share = rng.uniform(0.22, 0.45)
    upper, lower = eye.upper * (share - rng.uniform(0.0, 0.12)), eye.lower * (share + 0.1)
    return replace(eye, upper=float(upper), lower=float(lower), crease=eye.crease * 1.3)


TABLE: dict[str, Condition] = {
    "cataract": Condition(lens.wide_pupil, lens.cataract),
    "intraocular lens": Condition(lens.wide_pupil, lens.intraocular_lens),
    "ectopia lentis": Condition(lens.wide_pupil, lens.ectopia_lentis),
    "keratitis": Condition(cornea.inflamed, cornea.keratitis),
    "corneal scarring": Condition(cornea=cornea.scarring),
    "corneal dystrophy": Condition(cornea=cornea.dystrophy),
    "corneal conjunctival tumor": Condition(globe=conjunctiva.tumor),
    "palpebral fissure": Condition(_narrow),
    "pterygium": Condition(globe=conjunctiva.pterygium),
    "subconjunctival hemorrhage": Condition(globe=conjunctiva.hemorrhage),
    "conjunctival congestion": Condition(conjunctiva.congested, globe=conjunctiva.congestion),
    "conjunctival cysts": Condition(globe=conjunctiva.cysts),
    "pigmented nevus": Condition(globe=conjunctiva.nevus),
}
