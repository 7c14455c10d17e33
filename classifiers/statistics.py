"""The area under the ROC curve, and its interval when one patient has several images.

Images of one patient are alike, so an interval that takes them as independent is too narrow. Obuchowski, Biometrics
1997;53:567-578, extends DeLong, DeLong and Clarke-Pearson (Biometrics 1988;44:837-845) to such clusters: the structural
components are summed within each patient before their variance is taken. With one image per patient both are equal.

>>> import numpy as np
>>> auc(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.1, 0.4, 0.35, 0.8]))
0.75
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_POSITIVE_PATIENTS = 10
"""Fewer positive patients than this are too few for an interval and for a macro mean."""


@dataclass(frozen=True)
class AucResult:
    """An AUC and what stands beside it.

    Parameters
    ----------
    auc : float or None
        In [0, 1]; None where only one class is present.
    lo, hi : float or None
        The interval, in (0, 1); None where there is none, and ``note`` says why.
    n, n_positive, n_positive_patients : int
        Images evaluated (with a known label), positive ones among them, and patients with a positive one.
    note : str
        Empty where there is nothing to say.
    """

    auc: float | None
    lo: float | None
    hi: float | None
    n: int
    n_positive: int
    n_positive_patients: int
    note: str = ""


def auc(y: NDArray[np.float64], p: NDArray[np.float64]) -> float | None:
    """Return the share of (positive, negative) pairs that the score orders rightly, a tie counting half.

    Parameters
    ----------
    y : numpy.ndarray of shape (n_images,)
        1 positive, 0 negative, nan ignored.
    p : numpy.ndarray of shape (n_images,), float64
        Any score that rises with the finding.

    Returns
    -------
    float or None
        In [0, 1]; None where one class is missing.

    Raises
    ------
    ValueError
        The shapes differ, y holds something else, or a score is nan.
    """
    y, p, _ = _known(y, p, np.arange(len(y)))
    if _one_class(y):
        return None
    return _area(*_placements(y, p), y)


def clustered_auc(
    y: NDArray[np.float64], p: NDArray[np.float64], clusters: Sequence[str] | NDArray[np.int64], level: float = 0.95
) -> AucResult:
    """Return the AUC with a patient-clustered interval (Obuchowski 1997, on the logit scale).

    Parameters
    ----------
    y, p : numpy.ndarray of shape (n_images,)
        As in `auc`.
    clusters : sequence of shape (n_images,)
        The patient of each image.
    level : float
        In (0, 1).

    Returns
    -------
    AucResult
        Without an interval where fewer than 10 patients are positive ("too few"), fewer than 2 have a negative image,
        or the variance is 0 (AUC exactly 0 or 1, all scores tied): a variance of 0 is no certainty.

    Raises
    ------
    ValueError
        As in `auc`, or ``level`` outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level {level}: expected a value between 0 and 1, such as 0.95")
    y, p, patient = _known(y, p, np.unique(np.asarray(clusters), return_inverse=True)[1])
    counts = (len(y), int(y.sum()), len(np.unique(patient[y == 1])))
    if _one_class(y):
        return AucResult(None, None, None, *counts, note="one class only: no AUC")
    rightly = _placements(y, p)
    area = _area(*rightly, y)
    variance = _clustered_variance(*rightly, y, patient, area)
    why = _no_interval(area, variance, counts[2], len(np.unique(patient[y == 0])))
    if why:
        return AucResult(area, None, None, *counts, note=why)
    return AucResult(area, *_logit_interval(area, variance, level), *counts)


def _known(
    y: NDArray[np.float64], p: NDArray[np.float64], patient: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    if not len(y) == len(p) == len(patient):
        raise ValueError(f"{len(y)} labels, {len(p)} scores and {len(patient)} patients: expected one each per image")
    known = ~np.isnan(y)
    y, p = np.asarray(y, dtype=np.float64)[known], np.asarray(p, dtype=np.float64)[known]
    if not np.isin(y, (0.0, 1.0)).all():
        raise ValueError(f"labels {np.unique(y)[:5]}: expected 0, 1 or nan; apply a LabelPolicy first")
    if np.isnan(p).any():
        raise ValueError(f"{np.isnan(p).sum()} of {len(p)} scores are nan; leave those images out and say so")
    return y, p, patient[known]


def _one_class(y: NDArray[np.float64]) -> bool:
    return bool(y.max(initial=0) <= y.min(initial=1))  # with nothing evaluated: 0 <= 1


def _placements(y: NDArray[np.float64], p: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return V10 (share of negatives below each positive) and V01 (share of positives above each negative)."""
    positive, negative = np.sort(p[y == 1]), np.sort(p[y == 0])
    v10 = _rank(negative, p[y == 1]) / len(negative)
    v01 = 1.0 - _rank(positive, p[y == 0]) / len(positive)
    return v10, v01


def _rank(ordered: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Count the ordered values below each point, ties as one half: O(n log n) where all pairs would be O(n^2)."""
    below, upto = np.searchsorted(ordered, at, side="left"), np.searchsorted(ordered, at, side="right")
    return np.asarray((below + upto) / 2.0)


def _area(v10: NDArray[np.float64], v01: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    # Back to whole half-pairs before the division, so that equal rankings give bit-equal areas.
    negatives = len(v01)
    return float(np.rint(v10 * negatives * 2).sum() / (2.0 * y.sum() * negatives))


def _clustered_variance(
    v10: NDArray[np.float64],
    v01: NDArray[np.float64],
    y: NDArray[np.float64],
    patient: NDArray[np.int64],
    area: float,
) -> float:
    """Return Var(AUC) = S10/m + S01/n + 2 S11/(m n) over patients; nan where a class has fewer than two patients."""
    size = int(patient.max()) + 1
    of_positive, of_negative = patient[y == 1], patient[y == 0]
    x = np.bincount(of_positive, v10 - area, size)
    z = np.bincount(of_negative, v01 - area, size)
    with_positive, with_negative, both = (len(np.unique(who)) for who in (of_positive, of_negative, patient))
    if min(with_positive, with_negative) < 2:
        return float("nan")
    m, n = len(v10), len(v01)
    s10 = with_positive / (with_positive - 1) / m * (x**2).sum()
    s01 = with_negative / (with_negative - 1) / n * (z**2).sum()
    s11 = both / (both - 1) * (x * z).sum()
    return float(s10 / m + s01 / n + 2 * s11 / (m * n))


def _no_interval(area: float, variance: float, positive_patients: int, negative_patients: int) -> str:
    if positive_patients < MIN_POSITIVE_PATIENTS:
        return f"too few positive patients ({positive_patients}, at least {MIN_POSITIVE_PATIENTS} wanted): no interval"
    if negative_patients < 2:
        return f"too few patients with a negative image ({negative_patients}): no interval"
    if area in (0.0, 1.0):
        return f"AUC exactly {area:.0f}: no interval"
    if variance <= 0:
        return "no variance between patients: no interval"
    return ""


def _logit_interval(area: float, variance: float, level: float) -> tuple[float, float]:
    """Return the limits on the logit scale, where they cannot leave (0, 1): delta method, d logit = d AUC/(A(1-A))."""
    half = NormalDist().inv_cdf(0.5 + level / 2) * np.sqrt(variance) / (area * (1 - area))
    centre = np.log(area / (1 - area))
    lo, hi = (1 / (1 + np.exp(-(centre + side * half))) for side in (-1, 1))
    return float(lo), float(hi)
