"""What stands beside an AUC: precision, calibration, an operating point chosen on validation, chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifiers.calibration import Bin, assess
from classifiers.operating_point import choose_threshold, judge

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHANCE = 0.5


@dataclass(frozen=True)
class Details:
    """Further numbers of one model and label.

    Parameters
    ----------
    average_precision : float or None
        In [0, 1]; the share of positives is what chance gives.
    brier, ece, calibration_slope, calibration_intercept : float or None
        See `classifiers.calibration.Calibration`.
    threshold : float or None
        Chosen on the validation images of the same model.
    sensitivity, specificity : float or None
        At the threshold, without images in the band around it.
    uncertain : int or None
        Images in the band.
    below_chance : bool
        The upper limit of the AUC's interval is under 0.5.
    bins : tuple of Bin
    """

    average_precision: float | None
    brier: float | None
    ece: float | None
    calibration_slope: float | None
    calibration_intercept: float | None
    threshold: float | None
    sensitivity: float | None
    specificity: float | None
    uncertain: int | None
    below_chance: bool
    bins: tuple[Bin, ...]


def details(
    y: NDArray[np.float64],
    p: NDArray[np.float64],
    validation: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    auc_hi: float | None,
) -> Details:
    """Compute the numbers of one label.

    Parameters
    ----------
    y, p : numpy.ndarray of shape (n_images,), float64
        Truth (1, 0, nan) and probabilities (nan where there is none) of the part that is evaluated.
    validation : (y, p) or None
        Of the same model on the part val; None where there is none, so that there is no threshold.
    auc_hi : float or None
        Upper limit of the AUC's interval.
    """
    known = ~np.isnan(y) & ~np.isnan(p)
    found = assess(y, p)
    point = judge(y, p, choose_threshold(*validation)) if validation is not None else None
    return Details(
        average_precision(y[known], p[known]),
        found.brier,
        found.ece,
        found.slope,
        found.intercept,
        point.threshold if point else None,
        point.sensitivity if point else None,
        point.specificity if point else None,
        point.uncertain if point and point.threshold is not None else None,
        auc_hi is not None and auc_hi < CHANCE,
        found.bins,
    )


def average_precision(y: NDArray[np.float64], p: NDArray[np.float64]) -> float | None:
    """Return the mean precision over the positives, each at its own score; None without both classes.

    Step-wise, as scikit-learn's `average_precision_score`: linear interpolation between points is too optimistic (Davis
    and Goadrich, ICML 2006).
    """
    if not len(y) or y.min() == y.max():
        return None
    order = np.argsort(-p, kind="stable")
    score, truth = p[order], y[order]
    last = np.r_[score[1:] != score[:-1], True]  # of tied scores the whole tie counts
    hits, seen = np.cumsum(truth)[last], (np.arange(len(truth)) + 1)[last]
    gained = np.diff(np.r_[0.0, hits])
    return float((gained * hits / seen).sum() / truth.sum())
