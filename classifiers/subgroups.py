"""Whom a model serves worse: AUC and false-negative rate by sex, age band and view (Seyyed-Kalantari et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifiers.statistics import AucResult, clustered_auc

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurestore.store import Store

MIN_POSITIVES = 10
"""A group with fewer positive images is named and not judged."""
AGE_BANDS = ((0, 40), (40, 60), (60, 80), (80, 200))
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Group:
    """One group of one attribute.

    Parameters
    ----------
    attribute : {"sex", "age", "view"}
    value : str
    auc : AucResult
        Without a number where the group has fewer than 10 positives.
    false_negative_rate : float or None
        Share of the positives below the threshold; None without one, or with too few positives.
    """

    attribute: str
    value: str
    auc: AucResult
    false_negative_rate: float | None


def attributes(store: Store, dataset: str, ids: Sequence[str]) -> dict[str, list[str]]:
    """Return sex, age band and view of some images.

    Returns
    -------
    dict of str to list of str
        Each in the order of ``ids``; ``unknown`` where the source did not say.
    """
    rows = store.query("SELECT image_id, sex, age, view FROM images WHERE dataset = ?", [dataset]).to_pylist()
    by_id = {row["image_id"]: row for row in rows}
    return {
        "sex": [by_id[image]["sex"] or UNKNOWN for image in ids],
        "age": [age_band(by_id[image]["age"]) for image in ids],
        "view": [by_id[image]["view"] or UNKNOWN for image in ids],
    }


def age_band(age: float | None) -> str:
    """Return the band that an age in years falls into, such as ``40-59``."""
    if age is None or np.isnan(age):
        return UNKNOWN
    lo, hi = next((band for band in AGE_BANDS if band[0] <= age < band[1]), AGE_BANDS[-1])
    return f"{lo}-{hi - 1}" if hi < AGE_BANDS[-1][1] else f"{lo}+"


def by_group(
    y: NDArray[np.float64],
    p: NDArray[np.float64],
    patients: Sequence[str],
    known: dict[str, list[str]],
    threshold: float | None,
) -> list[Group]:
    """Judge each group apart.

    Parameters
    ----------
    y, p : numpy.ndarray of shape (n_images,), float64
        Truth (1, 0, nan) and probabilities (nan where there is none).
    patients : sequence of str
    known : dict of str to list of str
        As `attributes` gives them.
    threshold : float or None
        Chosen on validation, over all groups together.
    """
    found = []
    for attribute, values in known.items():
        of = np.asarray(values)
        for value in sorted(set(values)):
            here = (of == value) & ~np.isnan(p)
            found.append(_group(attribute, value, y[here], p[here], np.asarray(patients)[here], threshold))
    return found


def _group(
    attribute: str,
    value: str,
    y: NDArray[np.float64],
    p: NDArray[np.float64],
    patients: NDArray[np.str_],
    threshold: float | None,
) -> Group:
    positive = int((y == 1).sum())
    if positive < MIN_POSITIVES:
        note = f"under {MIN_POSITIVES} positive images: not judged"
        counts = (int((~np.isnan(y)).sum()), positive, len(set(patients[y == 1].tolist())))
        return Group(attribute, value, AucResult(None, None, None, *counts, note), None)
    result = clustered_auc(y, p, patients.tolist())
    missed = None if threshold is None else float((p[y == 1] < threshold).mean())
    return Group(attribute, value, result, missed)
