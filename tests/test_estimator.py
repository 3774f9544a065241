"""ClipClassifier is an estimator of scikit-learn: its own checks, searches, pipelines, pickles."""

import pickle

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import estimator_checks_generator
from sklearn.utils.validation import check_is_fitted, validate_data

import clip_adapt
from clip_adapt import ClipClassifier, InputError

NAMES = np.array(["cat", "dog", "eel"])


class OnRows(ClipClassifier):
    """A ClipClassifier of pictures drawn from rows of numbers, which scikit-learn's checks give."""

    def fit(self, X, y):
        X, y = validate_data(self, X, y)
        return super().fit(draw(X), y)

    def predict_proba(self, X):
        check_is_fitted(self)
        return super().predict_proba(draw(validate_data(self, X, reset=False)))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = True, False
        tags.input_tags.string, tags.no_validation = False, False
        return tags


def draw(rows):
    values = np.resize(np.ravel(rows), (len(rows), 64, 3)) if not len(rows) else np.stack(
        [np.resize(np.repeat(row, 4), (64, 3)) for row in rows]
    )  # fmt: skip
    return (128 + 25 * values).clip(0, 255).astype(np.uint8).reshape(-1, 8, 8, 3)


@pytest.fixture(scope="module")
def tiny(tiny_card):
    """The options of a quick estimator."""
    model = {"name": tiny_card.architecture, "pretrained": tiny_card.pretrained}
    return {"method": "gda", "model": model}


@pytest.fixture(scope="module")
def pictures(make_folder, tmp_path_factory):
    """Arrays (36, 40, 40, 3), their labels and their paths."""
    top = make_folder(tmp_path_factory.mktemp("estimator"), splits=(), per_class=12)
    paths = sorted(top.rglob("*.png"))
    return (
        np.stack([np.asarray(Image.open(p)) for p in paths]),
        [p.parent.name for p in paths],
        paths,
    )


# The others fit many times; they run with -m slow.
QUICK = {
    "check_estimator_cloneable", "check_estimator_tags_renamed", "check_valid_tag_types",
    "check_estimator_repr", "check_no_attributes_set_in_init", "check_mixin_order",
    "check_do_not_raise_errors_in_init_or_set_params", "check_get_params_invariance",
    "check_set_params", "check_parameters_default_constructible", "check_estimators_unfitted",
    "check_requires_y_none", "check_classifiers_one_label", "check_fit2d_1sample",
    "check_estimators_pickle", "check_classifiers_regression_target",
}  # fmt: skip
EXPECTED = {
    "check_methods_subset_invariance": "a batch's features differ in the last digits from those of "
    "one image, as of any network",
}


def list_checks():
    for estimator, check in estimator_checks_generator(OnRows("gda"), expected_failed_checks={}):
        function = getattr(check, "func", check)
        more = getattr(check, "keywords", {}).keys() - {"name"}
        marks = [] if function.__name__ in QUICK and not more else [pytest.mark.slow]
        if function.__name__ in EXPECTED:
            marks.append(pytest.mark.xfail(reason=EXPECTED[function.__name__], strict=True))
        yield pytest.param(estimator, check, id=f"{function.__name__}{sorted(more)}", marks=marks)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator, check", [*list_checks()])
def test_what_scikit_learn_checks(estimator, check, tiny):
    check(clone(estimator).set_params(**tiny))


def test_it_learns_what_it_is_given_and_writes_nothing_here(tiny, pictures, tmp_path):
    arrays, labels, paths = pictures
    made = ClipClassifier(**tiny).fit(paths, labels)
    assert made.score(paths, labels) == 1 and made.classes_.tolist() == NAMES.tolist()
    found = made.predict_proba(paths)
    assert found.shape == (36, 3) and np.allclose(found.sum(1), 1)
    images = [Image.open(p) for p in paths]
    for form in (arrays, images, [str(p) for p in paths], np.array(paths)[:, None]):
        assert np.array_equal(clone(made).fit(form, labels).predict_proba(form), found)
    assert made.predict([]).tolist() == [] and not list(tmp_path.glob("[!t]*"))
    assert made.classifier_.predict(images[0])[0][0] == labels[0]
    assert "gda on images-" in repr(made.classifier_) and ", 12 shots;" in repr(made.classifier_)


@pytest.mark.parametrize(
    "values", [np.array([3, 1, 2]), np.array([0.0, 1.0, 2.0]), NAMES, np.array([True, False])]
)
def test_labels_come_back_as_they_were(tiny, pictures, values):
    arrays, labels, _ = pictures
    y = values[[NAMES.tolist().index(name) % len(values) for name in labels]]
    made = ClipClassifier(**tiny).fit(arrays, y)
    assert made.classes_.dtype == y.dtype and made.predict(arrays).dtype == y.dtype
    assert made.predict(arrays).tolist() == y.tolist() or len(values) == 2
    assert made.classifier_.classes == [str(value) for value in np.unique(y).tolist()]


def test_labels_may_have_names_of_their_own(tiny, pictures):
    arrays, labels, _ = pictures
    y = [NAMES.tolist().index(name) for name in labels]
    spoken = {0: "house cat", 1: "hot dog", 2: "sea eel"}
    for names in (spoken, list(spoken.values())):
        made = ClipClassifier(**tiny, names=names).fit(arrays, y)
        assert made.classifier_.classes == list(spoken.values())
        assert made.predict(arrays[:1]).tolist() == [0]
    with pytest.raises(InputError, match="no name for the label 2"):
        ClipClassifier(**tiny, names={0: "a", 1: "b"}).fit(arrays, y)
    with pytest.raises(InputError, match="names has 2 names, and y 3 labels"):
        ClipClassifier(**tiny, names=["a", "b"]).fit(arrays, y)


def test_it_works_in_cross_validation_searches_and_pipelines(tiny, pictures):
    arrays, labels, paths = pictures
    groups = [i // 4 for i in range(36)]
    own = ClipClassifier(**tiny, shots=2)
    scores = cross_val_score(own, paths, labels, groups=groups, cv=GroupKFold(2))
    assert scores.shape == (2,) and (scores > 0.5).all()
    search = GridSearchCV(own, {"shots": [1, 3], "method": ["gda", "zero_shot"]}, cv=2)
    search.fit(arrays, labels)
    assert search.best_params_["method"] == "gda" and search.best_score_ > 0.5
    piped = make_pipeline(FunctionTransformer(lambda images: images[:, ::2, ::2]), own)
    assert piped.fit(arrays, labels).score(arrays, labels) > 0.5


def test_a_pickle_holds_the_delta_and_no_backbone(tiny, pictures, tmp_path):
    arrays, labels, _ = pictures
    made = ClipClassifier(**tiny, output=tmp_path / "kept").fit(arrays, labels)
    held = pickle.dumps(made)
    assert len(held) < 20_000
    again = pickle.loads(held)
    assert np.array_equal(again.predict_proba(arrays), made.predict_proba(arrays))
    assert again.get_params() == made.get_params() and again.classes_.tolist() == NAMES.tolist()
    loaded = clip_adapt.load(tmp_path / "kept", backbone=made.classifier_.backbone)
    assert loaded.classes == NAMES.tolist()
    assert pickle.loads(pickle.dumps(ClipClassifier(**tiny))).get_params() == {
        **ClipClassifier().get_params(), **tiny
    }  # fmt: skip


def test_random_states_draw_what_they_drew(tiny, pictures):
    arrays, labels, _ = pictures

    def fit(state):
        made = ClipClassifier(**tiny, shots=2, random_state=state).fit(arrays, labels)
        return made.predict_proba(arrays)

    assert np.array_equal(fit(None), fit(1)) and np.array_equal(fit(5), fit(np.int64(5)))
    assert not np.array_equal(fit(1), fit(2))
    states = (np.random.RandomState(3), np.random.RandomState(3))
    assert np.array_equal(*map(fit, states))


@pytest.mark.parametrize(
    "images, labels, message",
    [
        (np.zeros((4, 7)), [0, 1, 0, 1], r"X is an array \(4, 7\) of float64: expected images"),
        ("folder", ["a"], "X is a str: expected a list of images"),
        ([np.zeros((8, 8), np.uint8)] * 2, None, "requires y"),
        ([np.zeros((8, 8), np.uint8)] * 2, [0, 1, 1], "images has 2 values"),
        ([np.zeros((8, 8), np.uint8)] * 2, [1, 1], "one class"),
        ([np.zeros((8, 8), np.uint8)] * 2, [0.5, 1.2], "continuous"),
        ([np.zeros((8, 8), np.uint8)] * 2, ["a", None], r"y\[1\] is None: leave the image out"),
        (["a.png"] * 2, np.array(["a", 1], dtype=object), "y holds text and other labels"),
        (np.array([["a.png", "b.png"]] * 2), ["a", "b"], "X has 2 columns: expected one"),
    ],
)
def test_what_does_not_fit_is_refused(tiny, images, labels, message):
    with pytest.raises(ValueError, match=message):
        ClipClassifier(**tiny).fit(images, labels)


def test_what_is_not_fitted_says_so(tiny):
    with pytest.raises(NotFittedError):
        ClipClassifier(**tiny).predict(["a.png"])
