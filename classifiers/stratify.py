"""Iterative stratification over several labels: Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from featurestore.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def deal_patients(
    patients: Sequence[str], labels: NDArray[np.float64], shares: Sequence[float], seed: int
) -> NDArray[np.int64]:
    """Deal images into parts so that each patient's images stay together.

    Parameters
    ----------
    patients : sequence of str, of length n_images
    labels : numpy.ndarray of shape (n_images, n_labels)
        1, 0 or nan; a patient's label is the maximum over the images.
    shares : sequence of float
        Positive shares of the patients.
    seed : int

    Returns
    -------
    numpy.ndarray of shape (n_images,), int64
        Indices into ``shares``; every index occurs.

    Raises
    ------
    UsageError
        There are too few patients for every part to get one.
    """
    names, owner = np.unique(np.asarray(patients), return_inverse=True)
    maxima = np.zeros((len(names), labels.shape[1]))
    np.maximum.at(maxima, owner, np.nan_to_num(labels))
    part = stratify(maxima, shares, seed)
    empty = len(shares) - len(np.unique(part))
    if empty:
        raise UsageError(
            f"{len(names)} patients are too few for {len(shares)} parts ({empty} would be empty); "
            "ask for fewer folds, larger shares, or leave --val at 0"
        )
    return np.asarray(part[owner], dtype=np.int64)


def stratify(labels: NDArray[np.float64], shares: Sequence[float], seed: int) -> NDArray[np.int64]:
    """Deal items into parts so that each part holds its share of the items and of every label's positives.

    Parameters
    ----------
    labels : numpy.ndarray of shape (n_items, n_labels)
        1 marks a positive; anything else (0, nan) is none.
    shares : sequence of float
        The parts' shares, positive; they are scaled to a sum of 1.
    seed : int
        At least 0. The same labels, shares and seed give the same parts.

    Returns
    -------
    numpy.ndarray of shape (n_items,), int64
        The index of each item's part.
    """
    rng = np.random.default_rng(seed)
    positive = labels == 1
    share = np.asarray(shares, dtype=np.float64) / np.sum(shares)
    room = share * len(positive)
    wish = share[:, None] * positive.sum(axis=0)
    part = np.full(len(positive), -1, dtype=np.int64)
    order = rng.permutation(len(positive))
    for column in _rarest_first(positive, part):
        for item in order[(part[order] < 0) & positive[order, column]]:
            part[item] = _neediest(wish[:, column], room, rng)
            room[part[item]] -= 1
            wish[part[item]] -= positive[item]
    for item in order[part[order] < 0]:  # no label is left: only the sizes count
        part[item] = _neediest(room, room, rng)
        room[part[item]] -= 1
    return part


def _rarest_first(positive: NDArray[np.bool_], part: NDArray[np.int64]) -> Iterator[int]:
    """Yield the label with the fewest undealt positives until none has any; the caller deals them in between."""
    while True:
        left = positive[part < 0].sum(axis=0)
        if not left.any():
            return
        yield int(np.argmin(np.where(left > 0, left, len(positive) + 1)))


def _neediest(wish: NDArray[np.float64], room: NDArray[np.float64], rng: np.random.Generator) -> int:
    """Pick the part that wants the label most, among equals the one with most room, among equals by lot."""
    best = np.flatnonzero(wish == wish.max())
    best = best[room[best] == room[best].max()]
    return int(rng.choice(best)) if len(best) > 1 else int(best[0])
