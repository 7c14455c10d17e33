"""A threshold chosen on validation, what it does on test, and the scores too near to it to be called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BAND = 0.15
"""Scores within this relative distance of the threshold are uncertain and counted apart."""


@dataclass(frozen=True)
class OperatingPoint:
    """What one threshold does to the images of one label.

    Parameters
    ----------
    threshold : float or None
    sensitivity, specificity : float or None
        Of the images outside the band; None where there is none of the class.
    uncertain : int
        Images inside the band.
    n : int
        All images with a known label and a score.
    note : str
    """

    threshold: float | None
    sensitivity: float | None
    specificity: float | None
    uncertain: int
    n: int
    note: str = ""


def choose_threshold(y: NDArray[np.float64], p: NDArray[np.float64]) -> float | None:
    """Return the score with the largest sensitivity + specificity (Youden, Cancer 1950); of several the highest.

    Parameters
    ----------
    y, p : numpy.ndarray of shape (n_images,), float64
        Of the validation part.

    Returns
    -------
    float or None
        A score at or above it is called positive; None where validation has one class.
    """
    known = ~np.isnan(y) & ~np.isnan(p)
    y, p = y[known], p[known]
    if not len(y) or y.min() == y.max():
        return None
    scores = np.unique(p)[::-1]
    sensitivity = np.array([(p[y == 1] >= score).mean() for score in scores])
    specificity = np.array([(p[y == 0] < score).mean() for score in scores])
    return float(scores[np.argmax(sensitivity + specificity)])


def judge(
    y: NDArray[np.float64], p: NDArray[np.float64], threshold: float | None, band: float = BAND
) -> OperatingPoint:
    """Apply a threshold.

    Parameters
    ----------
    y, p : numpy.ndarray of shape (n_images,), float64
        Of the part that is evaluated.
    threshold : float or None
    band : float
        Relative half-width around the threshold; 0 calls every image.
    """
    known = ~np.isnan(y) & ~np.isnan(p)
    y, p = y[known], p[known]
    if threshold is None:
        return OperatingPoint(None, None, None, 0, len(y), "validation has one class only: no threshold")
    unsure = np.abs(p - threshold) < band * threshold
    called, truth = (p >= threshold)[~unsure], y[~unsure]
    sensitivity = float(called[truth == 1].mean()) if (truth == 1).any() else None
    specificity = float((~called[truth == 0]).mean()) if (truth == 0).any() else None
    return OperatingPoint(threshold, sensitivity, specificity, int(unsure.sum()), len(y))
