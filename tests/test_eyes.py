"""The drawn eyes: reproducible, distinct, and each condition visible where it belongs."""

from pathlib import Path

import numpy as np
import pytest

from clip_adapt.data.synthetic import eyes, lens
from clip_adapt.data.synthetic.anatomy import sample_eye
from clip_adapt.data.synthetic.eyes import CONDITIONS, draw
from clip_adapt.data.synthetic.scene import Scene

CARD = Path(__file__).parents[1] / "datasets" / "eyes.yaml"

# Mean grey level of each quarter of picture 0 at 64 pixels, seed 0, row by row.
QUARTERS = {
    "cataract": [79.6, 96.3, 81.4, 81.1],
    "intraocular lens": [125.3, 92.2, 128.8, 84.6],
    "ectopia lentis": [87.4, 106.7, 82.6, 87.6],
    "keratitis": [141.5, 133.9, 146.8, 138.8],
    "corneal scarring": [152.6, 141.2, 145.4, 149.5],
    "corneal dystrophy": [116.4, 109.9, 99.4, 87.5],
    "corneal conjunctival tumor": [151.4, 161.7, 152.5, 158.9],
    "palpebral fissure": [116.0, 115.1, 106.3, 110.6],
    "pterygium": [131.3, 142.1, 129.2, 152.9],
    "subconjunctival hemorrhage": [147.9, 148.0, 140.7, 122.5],
    "conjunctival congestion": [156.9, 141.1, 155.0, 167.5],
    "conjunctival cysts": [134.5, 132.0, 131.7, 123.9],
    "pigmented nevus": [121.7, 127.4, 120.7, 130.3],
}


def pair(condition, index, size=64):
    """Return the scene with a condition and the scene of the same eye without it."""
    ill = eyes._scene(condition, index, size, seed=1)
    return ill, eyes._scene(condition, index, size, seed=1, healthy=True)


def mean(scene, mask, channel=None):
    """Return the mean of a channel, or of all, where the mask holds."""
    values = scene.rgb if channel is None else scene.rgb[channel]
    return float(values[..., mask].mean())


def sclera(scene):
    """Return where the white of the eye is in view."""
    open_part = np.minimum(scene.above, scene.below) > 1.0
    return open_part & (scene.radius > scene.eye.iris + 0.5)


def cornea(scene):
    """Return where the cornea is in view."""
    return (np.minimum(scene.above, scene.below) > 1.0) & (scene.radius < scene.eye.iris - 0.5)


def rise(condition, mask, channel=None, count=6):
    """Return by how much a condition raises the mean under a mask, averaged over pictures."""
    pairs = [pair(condition, index) for index in range(count)]
    return np.mean([mean(a, mask(a), channel) - mean(b, mask(a), channel) for a, b in pairs])


def redness(condition, count=6):
    """Return by how much a condition raises red against green on the sclera."""
    return rise(condition, sclera, 0, count) - rise(condition, sclera, 1, count)


def test_there_are_thirteen_conditions_with_their_exact_names():
    assert CONDITIONS == (
        "cataract",
        "intraocular lens",
        "ectopia lentis",
        "keratitis",
        "corneal scarring",
        "corneal dystrophy",
        "corneal conjunctival tumor",
        "palpebral fissure",
        "pterygium",
        "subconjunctival hemorrhage",
        "conjunctival congestion",
        "conjunctival cysts",
        "pigmented nevus",
    )


@pytest.mark.parametrize("size", [32, 64, 160, 224])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_condition_can_be_drawn_at_every_size(condition, size):
    pictures = draw(condition, 1, size)
    assert pictures.shape == (1, size, size, 3)
    assert pictures.dtype == np.uint8
    assert pictures.std() > 10


def test_no_pictures_is_an_empty_array():
    assert draw("cataract", 0, 64).shape == (0, 64, 64, 3)


@pytest.mark.parametrize("condition", ["conjunctival cysts", "pterygium"])
def test_a_picture_depends_on_its_index_and_seed_alone(condition):
    five = draw(condition, 5, 64, seed=3)
    assert np.array_equal(five, draw(condition, 5, 64, seed=3))
    assert np.array_equal(five[:3], draw(condition, 3, 64, seed=3))
    assert np.array_equal(five[2:], draw(condition, 3, 64, seed=3, start=2))
    assert not np.array_equal(five, draw(condition, 5, 64, seed=4))


def test_no_two_pictures_are_equal():
    pictures = [picture.tobytes() for name in CONDITIONS for picture in draw(name, 6, 64)]
    pictures += [picture.tobytes() for picture in draw("cataract", 6, 64, seed=1)]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_pictures_stay_as_they_are(condition):
    blocks = draw(condition, 1, 64)[0].reshape(2, 32, 2, 32, 3).mean(axis=(1, 3, 4))
    np.testing.assert_allclose(blocks.ravel(), QUARTERS[condition], atol=1.5)


def test_an_eye_keeps_its_face_when_it_is_drawn_larger():
    small, large = (eyes._scene("pterygium", 0, size, seed=0).rgb for size in (64, 128))
    halved = large.reshape(3, 128, 2, 128, 2).mean(axis=(2, 4))
    assert np.abs(halved - small).mean() < 0.02


@pytest.mark.parametrize("condition", [c for c in CONDITIONS if c != "palpebral fissure"])
def test_a_condition_changes_the_globe_and_little_else(condition):
    ill, healthy = pair(condition, 0)
    changed = np.abs(ill.rgb - healthy.rgb).max(axis=0) > 0.04
    outside = np.minimum(ill.above, ill.below) < -0.5
    assert changed.mean() > 0.002
    assert not changed[outside].any()


def test_cataract_and_scar_brighten_the_cornea_and_keratitis_veils_it():
    assert rise("cataract", lambda s: s.radius < 1.5) > 0.1
    assert rise("corneal scarring", cornea) > 0.05
    assert rise("corneal dystrophy", cornea) > 0.02
    assert rise("keratitis", cornea) > 0.05


@pytest.mark.parametrize(
    ("condition", "least"),
    [
        ("subconjunctival hemorrhage", 0.1),
        ("conjunctival congestion", 0.1),
        ("keratitis", 0.08),
        ("pterygium", 0.02),
        ("corneal conjunctival tumor", 0.01),
    ],
)
def test_red_conditions_redden_the_sclera(condition, least):
    assert redness(condition) > least


def test_a_quiet_eye_stays_quiet():
    assert abs(redness("corneal scarring")) < 1e-6


def test_a_nevus_darkens_part_of_the_sclera():
    for index in range(4):
        ill, healthy = pair("pigmented nevus", index)
        spot = (healthy.rgb - ill.rgb).mean(axis=0) > 0.15
        assert (spot & sclera(ill)).sum() > 20
        assert (spot & cornea(ill)).sum() == 0


def test_cysts_leave_the_cornea_alone():
    for index in range(4):
        ill, healthy = pair("conjunctival cysts", index)
        changed = np.abs(ill.rgb - healthy.rgb).max(axis=0) > 0.05
        assert (changed & sclera(ill)).sum() > 20
        assert (changed & cornea(ill)).sum() == 0


def test_a_hemorrhage_stops_at_the_limbus_and_a_pterygium_crosses_it():
    inner = [
        np.abs(a.rgb - b.rgb)[:, cornea(a)].max()
        for a, b in (pair(name, 0) for name in ("subconjunctival hemorrhage", "pterygium"))
    ]
    assert inner[0] < 0.1 < inner[1]


def test_a_narrowed_palpebral_fissure_shows_less_of_the_globe():
    for index in range(6):
        opened = [
            (np.minimum(s.above, s.below) > 0).sum() for s in pair("palpebral fissure", index)
        ]
        assert opened[0] < 0.65 * opened[1]


def lens_on_black(paint, index):
    """Return the brightness and the angles inside the pupil of a lens painted on black."""
    rng = np.random.default_rng(index)
    scene = Scene(lens.wide_pupil(sample_eye(rng), rng), 256)
    paint(scene, rng)
    pupil = scene.radius < scene.eye.pupil
    assert scene.rgb[:, scene.radius > scene.eye.pupil + 0.2].max() == 0
    return scene.rgb.mean(axis=0)[pupil], scene.angle[pupil]


@pytest.mark.parametrize("index", range(4))
def test_the_rim_of_an_intraocular_lens_goes_all_round_the_pupil(index):
    bright, angle = lens_on_black(lens.intraocular_lens, index)
    sectors = np.floor((angle + np.pi) / (2 * np.pi) * 12).clip(0, 11)
    assert all(bright[sectors == k].max() > 0.2 for k in range(12))


@pytest.mark.parametrize("index", range(4))
def test_the_edge_of_a_displaced_lens_is_a_thin_bright_line(index):
    bright, _ = lens_on_black(lens.ectopia_lentis, index)
    assert 0.01 < (bright > 0.45).mean() < 0.25


def test_an_unknown_condition_names_what_exists_and_what_is_near():
    with pytest.raises(ValueError, match="unknown condition 'pteryguim'") as caught:
        draw("pteryguim", 1)
    assert "did you mean 'pterygium'" in str(caught.value)
    assert all(name in str(caught.value) for name in CONDITIONS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": -1}, "n is -1"),
        ({"size": 31}, "size is 31"),
        ({"size": 1025}, "size is 1025"),
        ({"seed": -2}, "seed is -2"),
        ({"start": -3}, "start is -3"),
    ],
)
def test_numbers_outside_their_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        draw(**{"condition": "cataract", "n": 1, **change})


def test_the_card_names_the_generator_conditions():
    yaml = pytest.importorskip("yaml")
    card = yaml.safe_load(CARD.read_text(encoding="utf-8"))
    assert tuple(card["classes"].values()) == CONDITIONS
    assert [name.replace(" ", "_") for name in CONDITIONS] == list(card["classes"])
    assert list(card["descriptions"]) == list(CONDITIONS)
    assert card["description"].startswith(
        "The pictures are synthetic drawings and no basis for medical claims."
    )


@pytest.mark.slow
def test_raw_pixels_do_not_give_the_condition_away():
    linear_model = pytest.importorskip("sklearn.linear_model")
    pictures = np.concatenate([draw(name, 30, 64) for name in CONDITIONS])
    pixels = pictures.reshape(-1, 16, 4, 16, 4, 3).mean(axis=(2, 4)).reshape(len(pictures), -1)
    label, index = np.divmod(np.arange(len(pictures)), 30)
    train = index < 16
    scaled = (pixels - pixels[train].mean(axis=0)) / pixels[train].std(axis=0)
    probe = linear_model.LogisticRegression(C=0.01, max_iter=300)
    probe.fit(scaled[train], label[train])
    assert probe.score(scaled[~train], label[~train]) < 0.40
