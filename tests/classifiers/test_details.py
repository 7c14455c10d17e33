from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from classifiers.details import average_precision, details


@given(st.integers(0, 2**32 - 1))
def test_average_precision_is_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, 25).astype(float)
    y[:2] = 0, 1
    p = rng.integers(0, 10, 25) / 10  # ties
    assert average_precision(y, p) == pytest.approx(average_precision_score(y, p))


def test_without_both_classes_there_is_none():
    assert average_precision(np.ones(3), np.linspace(0, 1, 3)) is None
    assert average_precision(np.empty(0), np.empty(0)) is None


def test_the_threshold_comes_from_validation_and_the_rest_from_test():
    y, p = np.array([0, 0, 1, 1.0]), np.array([0.1, 0.6, 0.4, 0.9])
    found = details(y, p, (np.array([0, 1.0]), np.array([0.2, 0.8])), auc_hi=0.9)
    assert found.threshold == 0.8
    assert (found.sensitivity, found.specificity, found.uncertain) == (0.0, 1.0, 1)  # 0.9 lies in the band
    assert not found.below_chance


def test_below_chance_needs_the_whole_interval():
    y, p = np.array([0, 1.0]), np.array([0.9, 0.1])
    assert details(y, p, None, auc_hi=0.49).below_chance
    assert not details(y, p, None, auc_hi=0.51).below_chance
    assert not details(y, p, None, auc_hi=None).below_chance
    assert details(y, p, None, None).threshold is None


def test_images_without_truth_or_score_are_left_out():
    y, p = np.array([0, np.nan, 1, 1.0]), np.array([0.1, 0.99, np.nan, 0.9])
    assert details(y, p, None, None).average_precision == 1.0
