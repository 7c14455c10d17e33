from __future__ import annotations

import re

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from classifiers.heads import HEADS, fit_head, head_spec, predict_probabilities
from featurestore.errors import UsageError

LABELS = ("Edema", "Fracture", "Rare")


def sample(n=120, features=10, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, features)).astype(np.float32)
    Y = (X[:, :3] + 0.5 * rng.normal(size=(n, 3)) > (0, 0.4, 0.8)).astype(np.float64)
    return X, Y


@pytest.fixture(scope="module")
def fitted():
    """Return every registered head, fitted once."""
    X, Y = sample()
    return {name: fit_head(spec, X, Y, LABELS, seed=4, n_jobs=2) for name, spec in HEADS.items()}


@pytest.mark.parametrize("name", HEADS)
def test_every_head_learns(fitted, name):
    assert re.fullmatch("[a-z0-9_]+", name)
    X, Y = sample(seed=1)
    p = fitted[name].predict(X)
    assert (p.shape, p.dtype) == (Y.shape, np.float64)
    assert ((p >= 0) & (p <= 1)).all()
    assert all(roc_auc_score(Y[:, k], p[:, k]) > 0.65 for k in range(3))
    assert fitted[name].labels_ok == LABELS
    assert len(fitted[name].blocks) == (1 if HEADS[name].multi_output else 3)


@pytest.mark.parametrize("name", sorted(set(HEADS) - {"rf"}))  # rf is compared with scikit-learn's on one thread below
def test_every_head_is_the_same_on_one_thread_and_on_two(fitted, name):
    X, Y = sample()
    alone = fit_head(HEADS[name], X, Y, LABELS, seed=4, n_jobs=1)
    np.testing.assert_array_equal(alone.predict(X), fitted[name].predict(X))


@pytest.mark.parametrize("name", ["extra_trees", "rf100"])
def test_the_seed_matters(fitted, name):
    X, Y = sample()
    other = fit_head(HEADS[name], X, Y, LABELS, seed=5)
    assert (other.predict(X) != fitted[name].predict(X)).any()


def test_the_papers_forest_is_plain_scikit_learns(fitted):
    X, Y = sample()
    forest = RandomForestClassifier(
        n_estimators=1000, max_depth=5, max_features="sqrt", bootstrap=False, random_state=4, n_jobs=1
    ).fit(X, Y.astype(int))
    expected = np.column_stack([p[:, 1] for p in forest.predict_proba(X)])
    np.testing.assert_array_equal(fitted["rf"].predict(X), expected)


@pytest.mark.parametrize("name", ["rf100", "lightgbm"])
def test_a_label_of_one_class_fails_alone(name):
    X, Y = sample()
    Y[:, 1] = 0
    head = fit_head(HEADS[name], X, Y, LABELS, seed=0)
    why = "label 'Fracture' has one class among its 120 training images (all 0): both 0 and 1 are needed"
    assert head.failed == {"Fracture": why}
    assert head.labels_ok == ("Edema", "Rare")
    p = head.predict(X)
    assert np.isnan(p[:, 1]).all()
    without = fit_head(HEADS[name], X, Y[:, [0, 2]], ("Edema", "Rare"), seed=0)
    np.testing.assert_array_equal(p[:, [0, 2]], without.predict(X))


def test_all_labels_may_fail():
    X, Y = sample()
    head = fit_head(HEADS["rf100"], X, np.full_like(Y, np.nan), LABELS, seed=0)
    assert "none is known" in head.failed["Edema"]
    assert head.blocks == ()
    assert np.isnan(head.predict(X)).all()


@pytest.mark.parametrize("name", ["rf100", "lightgbm"])
def test_labels_unknown_in_some_rows_are_fitted_on_the_others(name):
    X, Y = sample()
    Y[:30, 2] = np.nan
    head = fit_head(HEADS[name], X, Y, LABELS, seed=0)
    known = fit_head(HEADS[name], X[30:], Y[30:, 2:], LABELS[2:], seed=0)
    np.testing.assert_array_equal(head.predict(X)[:, 2:], known.predict(X))
    together = fit_head(HEADS[name], X, Y[:, :2], LABELS[:2], seed=0)
    np.testing.assert_array_equal(head.predict(X)[:, :2], together.predict(X))


def test_one_label_is_one_column():
    X, Y = sample()
    assert fit_head(HEADS["rf100"], X, Y[:, :1], LABELS[:1], seed=0).predict(X).shape == (120, 1)


def test_a_constant_output_of_a_foreign_forest_is_read_as_what_it_is():
    X, Y = sample()
    Y[:, 1], Y[:, 2] = 0, 1
    forest = RandomForestClassifier(5, random_state=0).fit(X, Y.astype(int))
    p = predict_probabilities(forest, X)
    assert p.shape == (120, 3)
    assert (p[:, 1] == 0).all()
    assert (p[:, 2] == 1).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_no_numbers_are_refused(fitted, bad):
    X, Y = sample()
    X[7, 3] = bad
    with pytest.raises(UsageError, match="1 of 120 vectors hold nan or infinity; run `cxr verify`"):
        fit_head(HEADS["rf100"], X, Y, LABELS, seed=0)
    with pytest.raises(UsageError, match="1 of 120 vectors hold nan or infinity"):
        fitted["rf100"].predict(X)


def test_shapes_that_do_not_fit_are_refused():
    X, Y = sample()
    with pytest.raises(ValueError, match=r"label matrix of shape \(119, 3\): expected \(120, 3\)"):
        fit_head(HEADS["rf100"], X, Y[1:], LABELS, seed=0)


def test_an_unknown_head_names_those_there_are():
    with pytest.raises(
        UsageError, match=r"no head 'svm'; choose among rf, rf100, rf2021, extra_trees, .*, or give module:factory"
    ):
        head_spec("svm")
