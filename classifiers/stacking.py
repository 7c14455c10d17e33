"""What stacked heads are fitted on: other models' probabilities side by side, one column a model and label.

Stacking A takes the source networks' own scores (Gozzi et al., Diagnostics 2022): they never saw the local images, so
nothing leaks. Stacking B takes local heads' probabilities. Those of the training images have to come from heads that
did not see them, or the stacked head learns to believe what was learnt by heart: the published code did that, and lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from classifiers.heads import HeadSpec, fit_head
from classifiers.labels import positions
from classifiers.stratify import deal_patients
from featurestore.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurestore.store import Store

INNER_FOLDS = 5
"""Folds that a training image's own probability comes from."""


def score_columns(store: Store, spec_ids: Sequence[str], ids: Sequence[str]) -> NDArray[np.float32]:
    """Read the networks' own scores of some images.

    Parameters
    ----------
    store : Store
    spec_ids : sequence of str
    ids : sequence of str

    Returns
    -------
    numpy.ndarray of shape (n_images, n_specs * n_labels), float32
        Spec by spec, its labels in alphabetical order.

    Raises
    ------
    UsageError
        If a network has no head, or an image no scores.
    """
    columns = []
    for spec_id in spec_ids:
        table = store.query(
            "SELECT image_id, label, probability FROM scores WHERE spec_id = ? ORDER BY label", [spec_id]
        )
        labels = sorted(set(table["label"].to_pylist()))
        if not labels:
            raise UsageError(
                f"spec {spec_id} has no scores: its weights have no head. Stacking A needs source networks with one, "
                "such as those of cxr pretrain or cxr weights import"
            )
        block = np.full((len(ids), len(labels)), np.nan, np.float32)
        rows, places = positions(table["image_id"], ids), positions(table["label"], labels)
        block[rows[rows >= 0], places[rows >= 0]] = table["probability"].to_numpy()[rows >= 0]
        missing = int(np.isnan(block).any(axis=1).sum())
        if missing:
            raise UsageError(f"{missing} of {len(ids)} images have no scores of spec {spec_id}; run cxr extract first")
        columns.append(block)
    return np.concatenate(columns, axis=1)


def out_of_fold(
    spec: HeadSpec,
    X: NDArray[np.float32],
    Y: NDArray[np.float64],
    labels: Sequence[str],
    patients: Sequence[str],
    *,
    seed: int,
    n_jobs: int = 1,
    backbone: str = "",
) -> NDArray[np.float32]:
    """Return each training image's probabilities by a head that saw no image of its patient.

    Parameters
    ----------
    spec : HeadSpec
        The base head.
    X : numpy.ndarray of shape (n_images, n_features), float32
    Y : numpy.ndarray of shape (n_images, n_labels), float64
        1, 0 or nan.
    labels : sequence of str
    patients : sequence of str
    seed : int
        Of folds and heads.
    n_jobs : int
    backbone : str

    Returns
    -------
    numpy.ndarray of shape (n_images, n_labels), float32
        A label that one fold's training images show one class of has the label's share of positives there.
    """
    fold = deal_patients(patients, Y, [1.0] * INNER_FOLDS, seed)
    result = np.empty(Y.shape, np.float32)
    for k in range(INNER_FOLDS):
        here, rest = fold == k, fold != k
        head = fit_head(spec, X[rest], Y[rest], labels, seed=seed, n_jobs=n_jobs, backbone=backbone)
        result[here] = filled(head.predict(X[here]), Y[rest])
    return result


def filled(p: NDArray[np.float64], Y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Put each label's share of positives where there is no probability: a column without information."""
    shares = np.array([np.nanmean(y) if (~np.isnan(y)).any() else 0.5 for y in Y.T])
    return np.where(np.isnan(p), shares, p)
