"""How well a saliency map finds a drawn region: each metric on one map and one mask.

``S = max(map, 0)`` at the image's native size, ``M`` the region of interest (ROI). Two rules hold for every metric:

- an **empty ROI** cannot be scored: the functions refuse it, `score` marks the image and `summarise` leaves it out;
- a **dead map** (``max S = 0``) scores 0 and stays in the denominator.

Ties share: a metric that picks among equal pixels takes its mean over all picks. A uniform map, which knows nothing,
therefore scores the ROI's share of the image (`uniform_baseline`), in AUROC 0.5, in Dice 2 share / (1 + share).

References: Saporta et al., *Benchmarking saliency methods for chest X-ray interpretation*, Nat Mach Intell 4 (2022)
867-878 (CheXlocalize); Arras et al., *CLEVR-XAI*, Information Fusion 81 (2022) 14-40 (mass and rank accuracy).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec, TypeAlias

import numpy as np
import numpy.typing as npt

from featurestore.errors import UsageError

Floats: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]
_Rest = ParamSpec("_Rest")


def bilinear(grid: npt.ArrayLike, height: int, width: int) -> Floats:
    """Resize a map bilinearly, pixels as areas (half-pixel centres), edges repeated.

    Parameters
    ----------
    grid : array of float, shape (h, w)
        Finite, signed or not.
    height, width : int
        The size wanted, at least 1.

    Returns
    -------
    ndarray of float64, shape (height, width)
        Within the range of `grid`, rounded to float32 precision.

    Raises
    ------
    featurestore.errors.UsageError
        Where `grid` is not a finite, non-empty array of two dimensions.
    """
    from scipy.ndimage import zoom

    values = _finite_map(grid)
    factors = height / values.shape[0], width / values.shape[1]
    # order 1 without a smoothing filter: it would mix neighbours where the map is finer than the image
    resized = zoom(values, factors, order=1, mode="nearest", grid_mode=True)
    # the interpolation's last bits would break ties (a 1x1 map must stay uniform): float32 gives them up
    return np.asarray(resized, dtype=np.float32).astype(np.float64)


def saliency_at(grid: npt.ArrayLike, height: int, width: int) -> Floats:
    """Return ``S = max(map, 0)`` at the image's native size; parameters and errors as `bilinear`.

    The positive part is taken on the native grid first: interpolating before it would let a negative cell eat into
    its positive neighbour.
    """
    return bilinear(np.maximum(np.asarray(grid, dtype=np.float64), 0.0), height, width)


def _metric(function: Callable[Concatenate[Floats, Mask, _Rest], float]) -> Callable[..., float]:
    """Check map and mask once for every metric, and score a dead map 0."""

    @wraps(function)
    def checked(S: npt.ArrayLike, mask: npt.ArrayLike, *args: _Rest.args, **kwargs: _Rest.kwargs) -> float:
        saliency, region = _checked(S, mask)
        if not region.any():
            raise UsageError("the region of interest is empty; expected a pixel or more: count it as empty_roi")
        return 0.0 if saliency.max() == 0 else float(function(saliency, region, *args, **kwargs))

    return checked


@_metric
def iou(S: Floats, mask: Mask, alpha: float = 0.5) -> float:
    """Intersection over union, ``|B & M| / |B | M|`` with ``B = S >= alpha max(S)`` (Saporta et al. 2022).

    Parameters
    ----------
    S : array of float, shape (height, width)
        Finite, >= 0.
    mask : array of bool, shape (height, width)
        Not empty.
    alpha : float
        Share of the maximum, in (0, 1].

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    featurestore.errors.UsageError
        Where an argument is not as said above.
    """
    predicted = _above(S, alpha)
    return float((predicted & mask).sum() / (predicted | mask).sum())


@_metric
def dice(S: Floats, mask: Mask, alpha: float = 0.5) -> float:
    """Dice coefficient, ``2 |B & M| / (|B| + |M|)`` with ``B = S >= alpha max(S)``; parameters and errors as `iou`."""
    predicted = _above(S, alpha)
    return float(2 * (predicted & mask).sum() / (predicted.sum() + mask.sum()))


@_metric
def hit_rate(S: Floats, mask: Mask) -> float:
    """Pointing game, ``M[argmax S]``: 1 where the highest pixel lies in the ROI, else 0; several maxima share.

    Zhang et al., *Top-down neural attention by excitation backprop*, IJCV 126 (2018) 1084-1102. Parameters and errors
    as `iou`.
    """
    return float(mask[S.max() == S].mean())


@_metric
def mass_accuracy(S: Floats, mask: Mask) -> float:
    """Share of the map's mass in the ROI, ``sum(S M) / sum(S)``, in [0, 1].

    Arras et al. 2022; the *energy-based pointing game* of Wang et al., *Score-CAM*, CVPRW 2020. Parameters and errors
    as `iou`.
    """
    return float(S[mask].sum() / S.sum())


@_metric
def rank_accuracy(S: Floats, mask: Mask) -> float:
    """Share of the ``|M|`` highest pixels that lie in the ROI, in [0, 1]; ties at the cut share (Arras et al. 2022).

    Parameters and errors as `iou`.
    """
    size = int(mask.sum())
    cut = np.partition(S, S.size - size, axis=None)[S.size - size]
    above, tied = cut < S, cut == S
    return float((mask[above].sum() + (size - above.sum()) * mask[tied].mean()) / size)


@_metric
def pixel_auroc(S: Floats, mask: Mask) -> float:
    """Area under the ROC curve of `S` as a score of "in the ROI" over pixels, in [0, 1].

    NaN where the ROI is the whole image: there is then no pixel outside to rank against. Parameters and errors as
    `iou`.
    """
    from sklearn.metrics import roc_auc_score

    return float("nan") if mask.all() else float(roc_auc_score(mask.ravel(), S.ravel()))


@_metric
def average_precision(S: Floats, mask: Mask) -> float:
    """Average precision of `S` as a score of "in the ROI" over pixels, in [0, 1]; parameters and errors as `iou`."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(mask.ravel(), S.ravel()))


METRICS: dict[str, Callable[..., float]] = {
    "iou": iou,
    "dice": dice,
    "hit_rate": hit_rate,
    "mass_accuracy": mass_accuracy,
    "rank_accuracy": rank_accuracy,
    "pixel_auroc": pixel_auroc,
    "average_precision": average_precision,
}
"""Every metric by the name it is reported under."""

_THRESHOLDED = frozenset({"iou", "dice"})


def uniform_baseline(mask: npt.ArrayLike) -> float:
    """Return what a uniform map scores: the ROI's share of the image, in (0, 1]; errors as `iou`."""
    return mass_accuracy(np.ones(np.shape(mask)), mask)


@dataclass(frozen=True)
class Scores:
    """One map against one ROI.

    Parameters
    ----------
    state : {"evaluated", "empty_roi", "dead_map"}
    values : dict of str to float
        By the names of `METRICS`; all 0 for a dead map, none for an empty ROI.
    baseline : float
        `uniform_baseline`, NaN for an empty ROI.
    """

    state: str
    values: dict[str, float]
    baseline: float


@dataclass(frozen=True)
class Summary:
    """Means over the images that have an ROI.

    Parameters
    ----------
    means : dict of str to float
        By the names of `METRICS`; NaN where nothing could be scored. AUROC leaves out ROIs that fill the image.
    baseline : float
        Mean of `Scores.baseline`.
    evaluated : int
        Images in the denominator, dead maps among them.
    empty_roi, dead_map : int
    """

    means: dict[str, float]
    baseline: float
    evaluated: int
    empty_roi: int
    dead_map: int


def score(S: npt.ArrayLike, mask: npt.ArrayLike, alpha: float = 0.5) -> Scores:
    """Score one map by every metric, applying the rules for an empty ROI and a dead map.

    Parameters
    ----------
    S, mask, alpha
        As in `iou`, which also names the errors; the mask may be empty. `alpha` is the threshold of IoU and Dice.
    """
    saliency, region = _checked(S, mask)
    if not region.any():
        return Scores("empty_roi", {}, float("nan"))
    values = {
        name: metric(saliency, region, **({"alpha": alpha} if name in _THRESHOLDED else {}))
        for name, metric in METRICS.items()
    }
    return Scores("evaluated" if saliency.max() > 0 else "dead_map", values, uniform_baseline(region))


def summarise(scores: Iterable[Scores]) -> Summary:
    """Average over every image that has an ROI, and count those left out and those that scored 0 for a dead map."""
    found = list(scores)
    states = [one.state for one in found]
    scored = [one for one in found if one.state != "empty_roi"]
    return Summary(
        means={name: _mean([one.values[name] for one in scored]) for name in METRICS},
        baseline=_mean([one.baseline for one in scored]),
        evaluated=len(scored),
        empty_roi=states.count("empty_roi"),
        dead_map=states.count("dead_map"),
    )


def _mean(values: list[float]) -> float:
    """Return the mean of the defined values, NaN where there are none."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _above(S: Floats, alpha: float) -> Mask:
    if not 0 < alpha <= 1:
        raise UsageError(f"threshold alpha is {alpha}; expected a share of the map's maximum, above 0 and at most 1")
    above: Mask = np.greater_equal(S, alpha * S.max())
    return above


def _finite_map(grid: npt.ArrayLike) -> Floats:
    values = np.asarray(grid, dtype=np.float64)
    if values.ndim != 2 or values.size == 0:
        raise UsageError(f"a saliency map has shape {values.shape}; expected (height, width), both at least 1")
    if not np.isfinite(values).all():
        raise UsageError("a saliency map holds NaN or infinite values; expected finite numbers: recompute it")
    return values


def _checked(S: npt.ArrayLike, mask: npt.ArrayLike) -> tuple[Floats, Mask]:
    saliency, region = _finite_map(S), np.asarray(mask)
    if saliency.min() < 0:
        raise UsageError(
            f"a saliency map falls to {saliency.min():.4g}; expected >= 0: pass it through saliency_at first"
        )
    if region.dtype != np.bool_ or region.shape != saliency.shape:
        raise UsageError(
            f"the region of interest is {region.dtype} of shape {region.shape}; expected bool of the map's shape "
            f"{saliency.shape}: draw it at the image's native size, and resize the map to it with saliency_at"
        )
    return saliency, region
