from __future__ import annotations

from itertools import product
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from classifiers.statistics import auc, clustered_auc


def sample(seed, n=80, patients=30, ties=True):
    rng = np.random.default_rng(seed)
    who = rng.integers(0, patients, n)
    y = (rng.random(n) < 0.45).astype(float)
    p = rng.normal(size=n) + y + rng.normal(size=patients)[who]
    return y, np.round(p, 1) if ties else p, who


def obuchowski(y, p, who):
    """Compute AUC and variance pair by pair, patient by patient, as Obuchowski (1997) writes them."""
    positive, negative = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    psi = {(i, j): float(p[i] > p[j]) + 0.5 * float(p[i] == p[j]) for i, j in product(positive, negative)}
    m, n = len(positive), len(negative)
    theta = sum(psi.values()) / (m * n)
    x = {k: sum(sum(psi[i, j] for j in negative) / n - theta for i in positive if who[i] == k) for k in set(who)}
    z = {k: sum(sum(psi[i, j] for i in positive) / m - theta for j in negative if who[j] == k) for k in set(who)}
    i10, i01, both = len(set(who[positive])), len(set(who[negative])), len(set(who))
    s10 = i10 / ((i10 - 1) * m) * sum(value**2 for value in x.values())
    s01 = i01 / ((i01 - 1) * n) * sum(value**2 for value in z.values())
    s11 = both / (both - 1) * sum(x[k] * z[k] for k in x)
    return theta, s10 / m + s01 / n + 2 * s11 / (m * n)


def delong(y, p):
    """Compute DeLong's variance from the matrix of all pairs."""
    psi = (p[y == 1][:, None] > p[y == 0]) + 0.5 * (p[y == 1][:, None] == p[y == 0])
    v10, v01 = psi.mean(axis=1), psi.mean(axis=0)
    return psi.mean(), v10.var(ddof=1) / len(v10) + v01.var(ddof=1) / len(v01)


def logit_interval(theta, variance, level=0.95):
    z = NormalDist().inv_cdf(0.5 + level / 2)
    centre, half = np.log(theta / (1 - theta)), z * np.sqrt(variance) / (theta * (1 - theta))
    return [1 / (1 + np.exp(-value)) for value in (centre - half, centre + half)]


@settings(max_examples=50, deadline=None)
@given(
    y=st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=40),
    seed=st.integers(0, 1000),
    decimals=st.integers(0, 3),
)
def test_auc_is_scikit_learns(y, seed, decimals):
    p = np.round(np.random.default_rng(seed).random(len(y)), decimals)
    if len(set(y)) < 2:
        assert auc(np.array(y), p) is None
    else:
        assert auc(np.array(y), p) == pytest.approx(roc_auc_score(y, p), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_the_interval_is_obuchowskis_recomputed_pair_by_pair(seed, level):
    y, p, who = sample(seed)
    theta, variance = obuchowski(y, p, who)
    result = clustered_auc(y, p, who, level)
    assert result.auc == pytest.approx(theta, abs=1e-12)
    assert [result.lo, result.hi] == pytest.approx(logit_interval(theta, variance, level), abs=1e-10)
    assert (result.n, result.n_positive) == (80, int(y.sum()))
    assert result.n_positive_patients == len(set(who[y == 1]))
    assert result.note == ""


@pytest.mark.parametrize("seed", range(3))
def test_with_one_image_per_patient_it_is_delong(seed):
    y, p, _ = sample(seed)
    result = clustered_auc(y, p, [f"p{k}" for k in range(len(y))])
    theta, variance = delong(y, p)
    assert [result.auc, result.lo, result.hi] == pytest.approx([theta, *logit_interval(theta, variance)], abs=1e-10)


def test_coverage_when_images_of_a_patient_are_alike():
    """Patients have one label and a shared effect: the clustered interval covers, the plain one does not."""
    rng = np.random.default_rng(20)
    shift, runs, patients, images = 1.2, 300, 60, 4
    truth = NormalDist().cdf(shift / np.sqrt(2 * (1 + 0.5)))
    who = np.repeat(np.arange(patients), images)
    covered = {"clustered": 0, "plain": 0}
    for _ in range(runs):
        y = (np.arange(patients) < patients // 2).astype(float)[who]
        p = shift * y + rng.normal(size=patients)[who] + np.sqrt(0.5) * rng.normal(size=len(who))
        for name, clusters in (("clustered", who), ("plain", np.arange(len(who)))):
            result = clustered_auc(y, p, clusters)
            covered[name] += result.lo <= truth <= result.hi
    assert 0.91 <= covered["clustered"] / runs <= 0.98
    assert covered["plain"] / runs < 0.85


def test_ignored_labels_do_not_count():
    y, p, who = sample(1)
    more = clustered_auc(np.append(y, [np.nan, np.nan]), np.append(p, [0.0, np.nan]), np.append(who, [0, 99]))
    assert more == clustered_auc(y, p, who)


def test_too_few_positive_patients_have_no_interval():
    y, p, who = sample(2)
    y[np.isin(who, np.unique(who[y == 1])[9:])] = 0  # nine patients are left
    result = clustered_auc(y, p, who)
    assert (result.lo, result.hi, result.n_positive_patients) == (None, None, 9)
    assert result.auc == pytest.approx(roc_auc_score(y, p))
    assert "too few positive patients (9, at least 10 wanted)" in result.note


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_one_class_has_no_auc(value):
    result = clustered_auc(np.full(5, value), np.arange(5.0), range(5))
    assert (result.auc, result.lo, result.hi) == (None, None, None)
    assert result.note == "one class only: no AUC"
    assert auc(np.full(5, value), np.arange(5.0)) is None


def test_nothing_at_all_has_no_auc():
    assert clustered_auc(np.array([]), np.array([]), []).auc is None


@pytest.mark.parametrize(("sign", "expected"), [(1, 1.0), (-1, 0.0)])
def test_an_auc_at_the_end_of_the_scale_has_no_interval(sign, expected):
    y = np.repeat([0.0, 1.0], 20)
    result = clustered_auc(y, sign * np.arange(40.0), range(40))
    assert (result.auc, result.lo, result.hi) == (expected, None, None)
    assert result.note == f"AUC exactly {expected:.0f}: no interval"


def test_scores_all_tied_have_no_interval():
    result = clustered_auc(np.repeat([0.0, 1.0], 20), np.full(40, 0.3), range(40))
    assert (result.auc, result.lo, result.note) == (0.5, None, "no variance between patients: no interval")


def test_negatives_of_one_patient_have_no_interval():
    y = np.repeat([0.0, 1.0], [3, 12])
    result = clustered_auc(y, np.tile([0.2, 0.9, 0.4], 5), [0, 0, 0, *range(1, 13)])
    assert result.lo is None
    assert "too few patients with a negative image (1)" in result.note


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="1 of 2 scores are nan"):
        auc(np.array([0.0, 1.0]), np.array([np.nan, 0.2]))
    with pytest.raises(ValueError, match="expected 0, 1 or nan; apply a LabelPolicy first"):
        auc(np.array([0.0, -1.0]), np.array([0.1, 0.2]))
    with pytest.raises(ValueError, match="2 labels, 1 scores and 2 patients"):
        clustered_auc(np.array([0.0, 1.0]), np.array([0.1]), [0, 1])
    with pytest.raises(ValueError, match="level 95: expected a value between 0 and 1"):
        clustered_auc(np.array([0.0, 1.0]), np.array([0.1, 0.2]), [0, 1], level=95)
