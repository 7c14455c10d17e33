from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from classifiers.ensembles import entropy_weighted, simple

probabilities = arrays(
    np.float64, array_shapes(min_dims=3, max_dims=3, max_side=5), elements=st.floats(0, 1, allow_subnormal=False)
)


def entropy(p):
    return -sum(q * math.log2(q) for q in (p, 1 - p) if q > 0)


def by_hand(values):
    weights = [1 - entropy(p) for p in values]
    if sum(weights) < 1e-9:
        return sum(values) / len(values)
    return sum(w * p for w, p in zip(weights, values, strict=True)) / sum(weights)


def stack(*models):
    return np.array(models, dtype=np.float64)[:, None, None]


@given(P=probabilities)
def test_both_lie_between_the_smallest_and_the_largest(P):
    for average in (simple(P), entropy_weighted(P)):
        assert (average >= P.min(axis=0) - 1e-12).all()
        assert (average <= P.max(axis=0) + 1e-12).all()


@given(P=probabilities)
def test_both_equal_the_formula_written_out(P):
    np.testing.assert_allclose(simple(P), P.mean(axis=0), atol=1e-12)
    for i, j in np.ndindex(P.shape[1:]):
        weights = sum(1 - entropy(p) for p in P[:, i, j])
        if weights > 1e-7:  # nearer to none, the two ways of rounding the entropy pick different branches
            assert entropy_weighted(P)[i, j] == pytest.approx(by_hand(P[:, i, j].tolist()), abs=1e-7)


def test_the_printed_example_it_is_not_monotone():
    assert entropy_weighted(stack(0.9, 0.5)).item() == pytest.approx(0.900, abs=5e-4)
    assert entropy_weighted(stack(0.9, 0.6)).item() == pytest.approx(0.884, abs=5e-4)


def test_models_that_know_nothing_are_averaged_plainly():
    assert entropy_weighted(stack(0.5, 0.5, 0.5)).item() == 0.5
    assert entropy_weighted(stack(0.5, 0.500001)).item() == pytest.approx(0.5000005, abs=1e-12)


def test_certain_models_count_fully():
    assert entropy_weighted(stack(0.0, 1.0)).item() == 0.5
    assert entropy_weighted(stack(0.0, 0.5)).item() == 0.0


def test_a_missing_model_is_left_out():
    P = np.array([[[0.2, np.nan]], [[np.nan, np.nan]], [[0.8, np.nan]]])
    np.testing.assert_array_equal(simple(P), [[0.5, np.nan]])
    np.testing.assert_allclose(entropy_weighted(P), [[by_hand([0.2, 0.8]), np.nan]])
    np.testing.assert_allclose(entropy_weighted(stack(0.5, np.nan)), [[0.5]])


@pytest.mark.parametrize("average", [simple, entropy_weighted])
def test_what_is_no_probability_is_refused(average):
    with pytest.raises(ValueError, match=r"1 probabilities outside \[0, 1\], such as 1.2"):
        average(stack(0.1, 1.2))
    with pytest.raises(ValueError, match=r"shape \(2,\): expected \(n_models, n_images, n_labels\)"):
        average(np.array([0.1, 0.2]))
