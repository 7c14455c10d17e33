from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from classifiers import bootstrap
from classifiers.bootstrap import Difference, Resamples, draw, holm, macro_difference, verdict, weighted_auc

RNG = np.random.default_rng(0)


def test_the_example_holds():
    assert doctest.testmod(bootstrap).failed == 0


@given(st.integers(0, 2**32 - 1))
def test_a_weighted_auc_is_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, 30).astype(float)
    y[:2] = 0, 1
    p = rng.integers(0, 8, 30) / 8  # ties
    weights = rng.integers(0, 4, (3, 30)).astype(float)
    weights[:, :2] = 1
    expected = [roc_auc_score(y, p, sample_weight=w) for w in weights]
    np.testing.assert_allclose(weighted_auc(y, p, weights), expected, atol=1e-12)


def test_an_unknown_label_is_left_out():
    y, p = np.array([0.0, 1.0, np.nan, 1.0]), np.array([0.1, 0.9, 0.5, 0.05])
    assert weighted_auc(y, p, np.ones((1, 4)))[0] == roc_auc_score([0, 1, 1], [0.1, 0.9, 0.05])
    assert np.isnan(weighted_auc(y, p, np.array([[1.0, 0, 0, 0]]))[0])


def test_patients_are_drawn_whole():
    patients = [f"p{k // 3}" for k in range(60)]
    Y = RNG.integers(0, 2, (60, 2)).astype(float)
    drawn = draw(Y, patients, seed=1, resamples=50)
    assert drawn.weights.shape == (50, 60)
    assert (drawn.weights.sum(axis=1) == 60).all()  # 20 patients of 3 images each
    by_patient = drawn.weights.reshape(50, 20, 3)
    assert (by_patient == by_patient[:, :, :1]).all()
    np.testing.assert_array_equal(drawn.weights, draw(Y, patients, seed=1, resamples=50).weights)
    assert (drawn.weights != draw(Y, patients, seed=2, resamples=50).weights).any()


def test_a_resample_without_both_classes_is_redrawn_and_counted():
    Y = np.zeros((10, 1))
    Y[0] = 1  # in each resample with probability 1 - (9/10)^10, some 65 %
    drawn = draw(Y, [f"p{k}" for k in range(10)], seed=0, resamples=400)
    assert (drawn.weights[:, 0] > 0).all()
    assert drawn.redrawn == pytest.approx(400 * 0.349 / 0.651, rel=0.3)
    assert draw(np.zeros((10, 1)), [f"p{k}" for k in range(10)], seed=0, resamples=20) is None


def _two_models(effect, n=400):
    Y = RNG.integers(0, 2, (n, 2)).astype(float)
    noise = RNG.normal(size=(n, 2))
    P = 1 / (1 + np.exp(-(Y * (1 + effect) + noise)))
    Q = 1 / (1 + np.exp(-(Y + noise)))
    return Y, P, Q, [f"p{k // 2}" for k in range(n)]


def test_the_difference_is_that_of_the_mean_aucs():
    Y, P, Q, patients = _two_models(0.5)
    found = macro_difference(Y, P, Q, draw(Y, patients, 0, 300))
    areas = [[roc_auc_score(Y[:, k], S[:, k]) for k in (0, 1)] for S in (P, Q)]
    assert found.value == pytest.approx(np.mean(areas[0]) - np.mean(areas[1]))
    assert found.lo < found.value < found.hi
    other = macro_difference(Y, Q, P, draw(Y, patients, 0, 300))
    assert (other.value, other.lo, other.hi) == pytest.approx((-found.value, -found.hi, -found.lo))
    assert other.p == found.p


def test_the_interval_is_that_of_plain_resampling_over_patients():
    Y, P, Q, patients = _two_models(0.3)
    found = macro_difference(Y, P, Q, draw(Y, patients, 0, 1000))
    rng, gaps = np.random.default_rng(5), []
    images = {who: [i for i, other in enumerate(patients) if other == who] for who in set(patients)}
    people = sorted(images)
    for _ in range(1000):
        rows = [i for who in rng.choice(people, len(people)) for i in images[who]]
        gaps.append(
            np.mean([roc_auc_score(Y[rows, k], P[rows, k]) - roc_auc_score(Y[rows, k], Q[rows, k]) for k in (0, 1)])
        )
    width = found.hi - found.lo
    assert found.lo == pytest.approx(np.quantile(gaps, 0.025), abs=0.15 * width)
    assert found.hi == pytest.approx(np.quantile(gaps, 0.975), abs=0.15 * width)


def test_the_same_model_differs_by_nothing():
    Y, P, _, patients = _two_models(0.0)
    found = macro_difference(Y, P, P, draw(Y, patients, 0, 100))
    assert (found.value, found.lo, found.hi, found.p) == (0, 0, 0, 1)
    assert verdict(found, found.p, 0.02) == "equivalent"


def test_what_cannot_be_compared_is_refused():
    Y, P, Q, patients = _two_models(0.0, n=40)
    with pytest.raises(ValueError, match="expected one shape"):
        macro_difference(Y, P, Q[:10], draw(Y, patients, 0, 10))
    P[0, 0] = np.nan
    with pytest.raises(ValueError, match="a probability is nan"):
        macro_difference(Y, P, Q, draw(Y, patients, 0, 10))
    assert macro_difference(Y, Q, Q, None).note == "too few images of one class to resample"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_never_lowers_a_p_value_and_keeps_the_order(values):
    p = np.array(values)
    adjusted = holm(p)
    assert (adjusted >= p - 1e-12).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= -1e-12).all()
    assert adjusted[p.argmin()] == pytest.approx(min(1.0, p.min() * len(p)))


@pytest.mark.parametrize(
    ("lo", "hi", "p", "expected"),
    [
        (-0.01, 0.01, 0.9, "equivalent"),
        (0.001, 0.015, 0.01, "equivalent"),  # a difference, but inside the margin
        (0.01, 0.05, 0.01, "higher"),
        (-0.05, -0.01, 0.01, "lower"),
        (0.01, 0.05, 0.2, "no difference shown"),  # not after Holm
        (-0.03, 0.05, 0.4, "no difference shown"),
        (None, None, None, "not judged"),
    ],
)
def test_verdicts(lo, hi, p, expected):
    assert verdict(Difference(0.0, lo, hi, p, 10, 0), p, 0.02) == expected


def test_resamples_are_plain_data():
    assert Resamples(np.ones((1, 2)), 0).redrawn == 0
