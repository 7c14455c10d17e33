from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from classifiers.calibration import assess, fit_calibrator, logit
from classifiers.operating_point import choose_threshold, judge
from featurestore.errors import UsageError


def _sample(n=4000, slope=1.0, shift=0.0, seed=0):
    """Return truth drawn from p, and p as a model with another slope and level says it."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-0.5, 1.5, n)
    y = (rng.random(n) < 1 / (1 + np.exp(-z))).astype(float)
    return y, 1 / (1 + np.exp(-(z - shift) / slope))


@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (0.5, 0.0), (2.0, 0.0), (1.0, 0.7)])
def test_slope_and_intercept_are_found_again(slope, shift):
    found = assess(*_sample(slope=slope, shift=shift))
    assert found.slope == pytest.approx(slope, rel=0.1)
    if slope == 1.0:
        assert found.intercept == pytest.approx(shift, abs=0.1)


def test_the_slope_is_scikit_learns():
    y, p = _sample(800, slope=0.7)
    line = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(p)[:, None], y)
    assert assess(y, p).slope == pytest.approx(line.coef_[0, 0], rel=1e-3)


def test_brier_and_the_bins_are_scikit_learns():
    y, p = _sample(500, slope=0.6)
    found = assess(y, p)
    assert found.brier == pytest.approx(brier_score_loss(y, p))
    share, mean = calibration_curve(y, p, n_bins=10)
    filled = [b for b in found.bins if b.n]
    np.testing.assert_allclose([b.positive_share for b in filled], share)
    np.testing.assert_allclose([b.mean_probability for b in filled], mean)
    weights = np.array([b.n for b in filled]) / len(y)
    assert found.ece == pytest.approx((weights * np.abs(share - mean)).sum())
    assert sum(b.n for b in found.bins) == len(y)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(0, 2**20 - 1))
def test_every_image_is_in_one_bin(values, bits):
    p = np.array(values)
    y = np.array([bits >> i & 1 for i in range(len(p))], float)
    found = assess(y, p)
    assert sum(b.n for b in found.bins) == len(p)
    assert 0 <= found.ece <= 1


def test_what_cannot_be_said_is_not_said():
    assert assess(np.array([np.nan]), np.array([0.5])).note == "nothing to assess"
    one = assess(np.ones(4), np.linspace(0.2, 0.8, 4))
    assert (one.slope, one.note) == (None, "one class only: no slope")
    flat = assess(np.array([0.0, 1.0]), np.array([0.5, 0.5]))
    assert flat.note == "all probabilities are equal: no slope"
    apart = assess(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.4, 0.45, 0.55, 0.6]))
    assert apart.slope is None
    assert "separate the classes" in apart.note


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_calibrator_mends_what_is_out_of_line(method):
    y, p = _sample(slope=0.4, shift=0.8)
    new_y, new_p = _sample(slope=0.4, shift=0.8, seed=1)
    fitted = fit_calibrator(method, y, p)
    before, after = assess(new_y, new_p), assess(new_y, fitted.apply(new_p))
    assert after.ece < 0.03 < before.ece
    assert after.brier < before.brier
    order = np.argsort(new_p)
    assert (np.diff(fitted.apply(new_p)[order]) >= -1e-12).all()
    assert np.isnan(fitted.apply(np.array([np.nan]))).all()


def test_too_few_positives_are_refused():
    y, p = _sample(200)
    with pytest.raises(UsageError, match=r"isotonic calibration on \d+ positives: it needs 100; use platt"):
        fit_calibrator("isotonic", y, p)
    with pytest.raises(UsageError, match="0 positives among 5 images: calibration needs both classes"):
        fit_calibrator("platt", np.zeros(5), np.linspace(0, 1, 5))


def test_the_threshold_has_the_largest_sum_of_both():
    y = np.array([0, 0, 0, 1, 0, 1, 1.0])
    p = np.array([0.1, 0.2, 0.3, 0.35, 0.4, 0.6, 0.7])
    assert choose_threshold(y, p) == 0.35  # 1 + 3/4; of 0.6 it is 2/3 + 1
    found = judge(y, p, 0.35, band=0)
    assert (found.sensitivity, found.specificity, found.uncertain) == (1.0, 0.75, 0)


def test_scores_near_the_threshold_are_counted_apart():
    y, p = np.array([0, 1, 0, 1, 1.0]), np.array([0.2, 0.44, 0.55, 0.56, 0.9])
    found = judge(y, p, 0.5)  # the band is (0.425, 0.575)
    assert (found.uncertain, found.n, found.sensitivity, found.specificity) == (3, 5, 1.0, 1.0)


def test_without_both_classes_there_is_no_threshold():
    assert choose_threshold(np.zeros(3), np.linspace(0, 1, 3)) is None
    assert judge(np.array([0, 1.0]), np.array([0.2, 0.3]), None).note.startswith("validation has one class only")
