"""Paired differences between two models on the same patients, by resampling patients (Efron and Tibshirani, 1993).

Both models are judged on the very same resample, so what is hard for both cancels. Patients are drawn, not images: the
images of one patient are alike.

>>> import numpy as np
>>> holm(np.array([0.01, 0.04, 0.03])).tolist()
[0.03, 0.06, 0.06]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESAMPLES = 2000
_BLOCK = 1 << 22
"""Weights (resample x image) that are computed with at once: 32 MiB."""
_MOST_REDRAWS = 50
"""Redraws for each wanted resample before giving up: a label that rare has no difference to be judged."""
Verdict = Literal["higher", "lower", "equivalent", "no difference shown", "not judged"]


@dataclass(frozen=True)
class Resamples:
    """How often each image counts in each resample.

    Parameters
    ----------
    weights : numpy.ndarray of shape (n_resamples, n_images), uint16
        The times that the image's patient was drawn.
    redrawn : int
        Resamples that lacked a class of some label and were drawn again.
    """

    weights: NDArray[np.uint16]
    redrawn: int


@dataclass(frozen=True)
class Difference:
    """The mean over labels of one model's AUC minus another's.

    Parameters
    ----------
    value : float or None
        In [-1, 1], on the images themselves; None where it is not judged.
    lo, hi : float or None
        Percentile limits of the resampled differences.
    p : float or None
        Two-sided, that the resampled differences lie on both sides of 0.
    resamples, redrawn : int
    note : str
    """

    value: float | None
    lo: float | None
    hi: float | None
    p: float | None
    resamples: int
    redrawn: int
    note: str = ""


def weighted_auc(y: NDArray[np.float64], p: NDArray[np.float64], weights: NDArray[Any]) -> NDArray[np.float64]:
    """Return the AUC under each of several weightings of the images, ties counting half.

    Parameters
    ----------
    y : numpy.ndarray of shape (n_images,)
        1 or 0; nan is left out.
    p : numpy.ndarray of shape (n_images,), float64
    weights : numpy.ndarray of shape (n_weightings, n_images)

    Returns
    -------
    numpy.ndarray of shape (n_weightings,), float64
        nan where a class has no weight.
    """
    known = ~np.isnan(y)
    order = np.argsort(p[known], kind="stable")
    score, truth, columns = p[known][order], y[known][order], np.flatnonzero(known)[order]
    starts = np.flatnonzero(np.r_[True, score[1:] != score[:-1]])
    rows = max(1, _BLOCK // max(1, len(score)))
    blocks = (weights[at : at + rows, columns].astype(np.float64) for at in range(0, len(weights), rows))
    return np.concatenate([_areas(truth, weight, starts) for weight in blocks])


def _areas(truth: NDArray[np.float64], weight: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    positive = np.add.reduceat(weight * truth, starts, axis=1)
    negative = np.add.reduceat(weight * (1 - truth), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    with np.errstate(invalid="ignore"):
        area: NDArray[np.float64] = (positive * below).sum(axis=1) / np.where(pairs > 0, pairs, np.nan)
    return area


def draw(Y: NDArray[np.float64], patients: Sequence[str], seed: int, resamples: int = RESAMPLES) -> Resamples | None:
    """Draw patients with replacement, each resample with both classes of every label.

    Parameters
    ----------
    Y : numpy.ndarray of shape (n_images, n_labels), float64
        1, 0 or nan.
    patients : sequence of str, of length n_images
    seed : int
    resamples : int

    Returns
    -------
    Resamples or None
        None where resamples with both classes are too seldom.
    """
    who = np.unique(np.asarray(patients), return_inverse=True)[1]
    count = int(who.max()) + 1
    rng = np.random.default_rng(seed)
    kept: list[NDArray[np.uint16]] = []
    redrawn = 0
    while sum(map(len, kept)) < resamples:
        wanted = min(resamples - sum(map(len, kept)), max(1, _BLOCK // len(who)))
        drawn = rng.multinomial(count, np.full(count, 1 / count), wanted)[:, who].astype(np.uint16)
        good = _both_classes(Y, drawn)
        redrawn += int((~good).sum())
        kept.append(drawn[good])
        if redrawn > _MOST_REDRAWS * resamples:
            return None
    return Resamples(np.concatenate(kept), redrawn)


def _both_classes(Y: NDArray[np.float64], weights: NDArray[np.uint16]) -> NDArray[np.bool_]:
    both = np.ones(len(weights), np.bool_)
    for value in (0, 1):
        both &= (weights.astype(np.float64) @ np.equal(Y, value).astype(np.float64) > 0).all(axis=1)
    return both


def macro_difference(
    Y: NDArray[np.float64],
    P: NDArray[np.float64],
    Q: NDArray[np.float64],
    drawn: Resamples | None,
    level: float = 0.95,
) -> Difference:
    """Compare two models' mean AUC over labels.

    Parameters
    ----------
    Y : numpy.ndarray of shape (n_images, n_labels), float64
    P, Q : numpy.ndarray of shape (n_images, n_labels), float64
        Probabilities of the first model and of the second, without nan.
    drawn : Resamples or None
        As `draw` gave them for these images and labels.
    level : float
        In (0, 1).

    Returns
    -------
    Difference
        First minus second.

    Raises
    ------
    ValueError
        If the shapes differ, or a probability is nan.
    """
    if not Y.shape == P.shape == Q.shape:
        raise ValueError(f"labels {Y.shape}, probabilities {P.shape} and {Q.shape}: expected one shape")
    if np.isnan(P).any() or np.isnan(Q).any():
        raise ValueError("a probability is nan; compare on images that both models have scored")
    if drawn is None:
        return Difference(None, None, None, None, 0, 0, "too few images of one class to resample")
    value = float(np.mean([_gap(y, p, q, np.ones((1, len(y))))[0] for y, p, q in zip(Y.T, P.T, Q.T, strict=True)]))
    gaps = np.mean([_gap(y, p, q, drawn.weights) for y, p, q in zip(Y.T, P.T, Q.T, strict=True)], axis=0)
    lo, hi = np.quantile(gaps, [(1 - level) / 2, (1 + level) / 2])
    n = len(gaps)
    tail = min((gaps <= 0).sum(), (gaps >= 0).sum())
    return Difference(value, float(lo), float(hi), min(1.0, 2 * (tail + 1) / (n + 1)), n, drawn.redrawn)


def _gap(
    y: NDArray[np.float64], p: NDArray[np.float64], q: NDArray[np.float64], weights: NDArray[Any]
) -> NDArray[np.float64]:
    return weighted_auc(y, p, weights) - weighted_auc(y, q, weights)


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values adjusted for a family of comparisons (Holm, Scandinavian Journal of Statistics 1979;6:65-70).

    Parameters
    ----------
    p : numpy.ndarray of shape (n_comparisons,), float64
        In [0, 1].

    Returns
    -------
    numpy.ndarray of shape (n_comparisons,), float64
        In the same order.
    """
    order = np.argsort(p, kind="stable")
    factors = len(p) - np.arange(len(p))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted


def verdict(difference: Difference, adjusted_p: float | None, margin: float, alpha: float = 0.05) -> Verdict:
    """Say what a difference shows.

    Equivalent: the whole interval lies inside the margin. Higher or lower: the interval leaves 0 out, and the p-value
    adjusted for the family is below ``alpha``. Anything else shows no difference, which is not that there is none.
    """
    if difference.lo is None or difference.hi is None or adjusted_p is None:
        return "not judged"
    if -margin < difference.lo and difference.hi < margin:
        return "equivalent"
    if difference.lo > 0 and adjusted_p < alpha:
        return "higher"
    if difference.hi < 0 and adjusted_p < alpha:
        return "lower"
    return "no difference shown"
