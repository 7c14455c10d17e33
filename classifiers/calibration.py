"""How far probabilities are what they say, and how to make them so.

Brier score (1950); expected calibration error with equal-width bins (Naeini et al., AAAI 2015); calibration slope and
intercept by logistic regression of the truth on the logit (Cox 1958; Van Calster et al., BMC Medicine 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from featurestore.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS = 10
MIN_POSITIVES_ISOTONIC = 100
_EDGE = 1e-6
"""Probabilities are kept this far from 0 and 1 before their logit is taken."""
Method = Literal["platt", "isotonic"]


@dataclass(frozen=True)
class Bin:
    """Images whose probability falls into one interval.

    Parameters
    ----------
    lo, hi : float
    n : int
    mean_probability, positive_share : float or None
        None of an empty bin.
    """

    lo: float
    hi: float
    n: int
    mean_probability: float | None
    positive_share: float | None


@dataclass(frozen=True)
class Calibration:
    """How one label's probabilities compare with what happened.

    Parameters
    ----------
    brier : float or None
        Mean squared error, in [0, 1].
    ece : float or None
        Mean gap between probability and share of positives over bins, weighted by their images.
    slope : float or None
        1 is right; below 1 the probabilities are too extreme.
    intercept : float or None
        With the slope held at 1: 0 is right; above 0 the probabilities are too low on the whole.
    bins : tuple of Bin
    note : str
    """

    brier: float | None
    ece: float | None
    slope: float | None
    intercept: float | None
    bins: tuple[Bin, ...]
    note: str = ""


def assess(y: NDArray[np.float64], p: NDArray[np.float64], bins: int = BINS) -> Calibration:
    """Assess the probabilities of one label.

    Parameters
    ----------
    y : numpy.ndarray of shape (n_images,)
        1, 0 or nan, which is left out.
    p : numpy.ndarray of shape (n_images,), float64
        In [0, 1]; nan is left out.
    bins : int
        Of equal width.
    """
    known = ~np.isnan(y) & ~np.isnan(p)
    y, p = y[known], p[known]
    if not len(y):
        return Calibration(None, None, None, None, (), "nothing to assess")
    found = _bins(y, p, bins)
    gaps = [
        b.n * abs(b.mean_probability - b.positive_share)
        for b in found
        if b.mean_probability is not None and b.positive_share is not None
    ]
    slope, intercept, note = _line(y, p)
    return Calibration(float(np.mean((p - y) ** 2)), float(sum(gaps) / len(y)), slope, intercept, found, note)


def _bins(y: NDArray[np.float64], p: NDArray[np.float64], bins: int) -> tuple[Bin, ...]:
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.digitize(p, edges[1:-1], right=True), 0, bins - 1)
    found = []
    for i in range(bins):
        here = place == i
        n = int(here.sum())
        means = (float(p[here].mean()), float(y[here].mean())) if n else (None, None)
        found.append(Bin(float(edges[i]), float(edges[i + 1]), n, *means))
    return tuple(found)


def _line(y: NDArray[np.float64], p: NDArray[np.float64]) -> tuple[float | None, float | None, str]:
    """Return slope, and intercept at slope 1, by maximum likelihood."""
    from scipy.optimize import minimize
    from scipy.special import expit

    if y.min() == y.max():
        return None, None, "one class only: no slope"
    x = logit(p)
    if np.ptp(x) == 0:
        return None, None, "all probabilities are equal: no slope"

    def loss(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = theta[0] + theta[1] * x
        gap = expit(z) - y
        return float(np.logaddexp(0, z).sum() - (y * z).sum()), np.array([gap.sum(), (gap * x).sum()])

    def shifted(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = theta[0] + x
        return float(np.logaddexp(0, z).sum() - (y * z).sum()), np.array([(expit(z) - y).sum()])

    both = minimize(loss, np.array([0.0, 1.0]), jac=True, method="BFGS")
    shift = minimize(shifted, np.array([0.0]), jac=True, method="BFGS")
    if p[y == 1].min() > p[y == 0].max() or p[y == 1].max() < p[y == 0].min():
        return None, float(shift.x[0]), "the probabilities separate the classes: the slope has no limit"
    return float(both.x[1]), float(shift.x[0]), ""


def logit(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(p / (1 - p)) of probabilities, kept a millionth away from 0 and 1."""
    kept = np.clip(p, _EDGE, 1 - _EDGE)
    return np.asarray(np.log(kept / (1 - kept)))


@dataclass(frozen=True)
class Calibrator:
    """A monotone map from a label's probabilities to calibrated ones.

    Parameters
    ----------
    method : {"platt", "isotonic"}
    x, y : numpy.ndarray, float64
        Platt (1999): intercept and slope in ``y``; isotonic (Zadrozny and Elkan, 2002): knots and their values.
    """

    method: Method
    x: NDArray[np.float64]
    y: NDArray[np.float64]

    def apply(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return calibrated probabilities of any shape, in [0, 1]; nan stays nan."""
        if self.method == "isotonic":
            return np.where(np.isnan(p), np.nan, np.interp(p, self.x, self.y))
        from scipy.special import expit

        return np.asarray(expit(self.y[0] + self.y[1] * logit(p)))


def fit_calibrator(method: Method, y: NDArray[np.float64], p: NDArray[np.float64]) -> Calibrator:
    """Learn a calibration from probabilities of images that the model did not see.

    Parameters
    ----------
    method : {"platt", "isotonic"}
        Isotonic regression needs at least 100 positives: with fewer it learns its steps by heart.
    y, p : numpy.ndarray of shape (n_images,), float64

    Raises
    ------
    UsageError
        For one class, or isotonic regression on fewer than 100 positives.
    """
    known = ~np.isnan(y) & ~np.isnan(p)
    y, p = y[known], p[known]
    positives = int(y.sum())
    if not 0 < positives < len(y):
        raise UsageError(f"{positives} positives among {len(y)} images: calibration needs both classes")
    if method == "platt":
        from sklearn.linear_model import LogisticRegression

        line = LogisticRegression(C=np.inf).fit(logit(p)[:, None], y.astype(np.int64))
        return Calibrator("platt", np.empty(0), np.array([line.intercept_[0], line.coef_[0, 0]]))
    if positives < MIN_POSITIVES_ISOTONIC:
        raise UsageError(f"isotonic calibration on {positives} positives: it needs {MIN_POSITIVES_ISOTONIC}; use platt")
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p, y)
    return Calibrator("isotonic", np.asarray(fitted.X_thresholds_), np.asarray(fitted.y_thresholds_))
