"""A head of one's own: what a factory may be, and what is refused in which words."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC

from classifiers import own_heads
from classifiers.heads import HEADS, fit_head, head_spec
from featurestore.errors import UsageError

LABELS = ("Edema", "Fracture")


def bayes():
    """Return a classifier that takes neither seed nor threads."""
    return GaussianNB()


def network(seed, n_jobs):
    """Return a classifier that learns all labels at once."""
    return MLPClassifier((8,), max_iter=2000, tol=1e-3, random_state=seed)


network.multi_output = True


def margin():
    """Return a classifier without probabilities."""
    return LinearSVC()


def rf():
    """Return a classifier under the name of a shipped head."""
    return GaussianNB()


NotAFactory = 3


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 6)).astype(np.float32)
    return X, (X[:, :2] > 0).astype(np.float64)


def test_any_classifier_with_probabilities_is_a_head(sample):
    X, Y = sample
    spec = head_spec(f"{__name__}:bayes")
    assert (spec.name, spec.multi_output) == ("bayes", False)
    found = fit_head(spec, X, Y, LABELS, seed=0).predict(X)
    for k in (0, 1):
        np.testing.assert_array_equal(found[:, k], GaussianNB().fit(X, Y[:, k]).predict_proba(X)[:, 1])


def test_one_estimator_may_learn_all_labels_and_takes_the_seed(sample):
    X, Y = sample
    head = fit_head(head_spec(f"{__name__}:network"), X, Y, LABELS, seed=3)
    (block,) = head.blocks
    assert block.estimator.random_state == 3
    assert head.predict(X).shape == Y.shape


def test_an_installed_package_offers_heads(monkeypatch, sample):
    point = EntryPoint("naive", f"{__name__}:bayes", own_heads.GROUP)
    monkeypatch.setattr(own_heads, "entry_points", lambda group: [point])
    assert head_spec("naive").name == "naive"
    with pytest.raises(UsageError, match=r"no head 'other'; choose among rf, .*, naive, or give module:factory"):
        head_spec("other")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing_here", r"no head 'nothing_here'; choose among rf, rf100, .*, or give module:factory"),
        ("no_module_here:make", "module 'no_module_here' cannot be imported"),
        (f"{__name__}:absent", "has no 'absent'"),
        (f"{__name__}:NotAFactory", "is a int; give a function that returns a classifier"),
        (f"{__name__}:rf", "has the name of a shipped one"),
        ("sklearn.svm:LinearSVC", "head 'LinearSVC': 1 to 64 lower-case letters"),
    ],
)
def test_what_is_no_head(name, words):
    with pytest.raises(UsageError, match=words):
        head_spec(name)


def test_without_probabilities_it_says_what_to_do(sample):
    X, Y = sample
    words = "head 'margin' is a LinearSVC without predict_proba; give a classifier that has it, or wrap it in"
    with pytest.raises(UsageError, match=words):
        fit_head(head_spec(f"{__name__}:margin"), X, Y, LABELS, seed=0)


def test_the_2021_forest_differs_between_backbones():
    spec = HEADS["rf2021"]
    assert spec.params_for("vgg16")["max_depth"] == 5
    assert spec.params_for("xception") == {
        "n_estimators": 200, "max_features": "sqrt", "max_depth": 30, "min_samples_split": 10, "min_samples_leaf": 1,
    }  # fmt: skip
    assert spec.params_for("tiny") == {"n_estimators": 200, "max_features": "sqrt"}


def test_balanced_heads_weigh_the_rare_class(sample):
    X, _ = sample
    Y = np.zeros((120, 1))
    Y[:12] = 1
    found = fit_head(HEADS["rf100_balanced"], X, Y, ["Rare"], seed=0).predict(X)
    forest = RandomForestClassifier(**HEADS["rf100"].params, class_weight="balanced", random_state=0)
    np.testing.assert_array_equal(found[:, 0], forest.fit(X, Y[:, 0].astype(int)).predict_proba(X)[:, 1])
    assert found.mean() > fit_head(HEADS["rf100"], X, Y, ["Rare"], seed=0).predict(X).mean()
