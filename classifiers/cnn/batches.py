"""Which images make which step, the same on every worker and again after a restart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")
Made = TypeVar("Made")
ORDER, SMOOTHING, AUGMENTATION, REST, CALIBRATION = range(5)
"""What an epoch draws, each from numbers of its own."""


def draws(seed: int, epoch: int, what: int) -> np.random.Generator:
    """Return the random numbers of one epoch for one purpose."""
    return np.random.default_rng([seed, epoch, what])


def deal(rows: NDArray[np.int64], batch: int, world: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Shuffle rows into batches of nearly equal size: every row once, no small batch at the end.

    Parameters
    ----------
    rows : ndarray of shape (n,), int64
    batch : int
        Largest size, over all workers.
    world : int
        Workers; each gets at least two rows of a batch, which batch normalisation needs, where there are enough.
    rng : numpy.random.Generator

    Returns
    -------
    list of ndarray
        Sizes differ by at most one.
    """
    steps = max(1, min(-(-len(rows) // batch), len(rows) // (2 * world)))
    return np.array_split(rng.permutation(rows), steps)


def ahead(items: Iterable[Item], make: Callable[[Item], Made]) -> Iterator[Made]:
    """Yield ``make(item)`` of each item, with the next one under way on a thread meanwhile."""
    with ThreadPoolExecutor(1, "ahead") as pool:
        following = None
        for item in items:
            current, following = following, pool.submit(make, item)
            if current is not None:
                yield current.result()
        if following is not None:
            yield following.result()
