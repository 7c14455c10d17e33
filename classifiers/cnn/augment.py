"""Augmentations by name, off unless named. Nothing is mirrored: the heart's side is a finding."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SHIFT = 1 / 16
"""Of the side."""


def draw_shifts(name: str, images: int, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw one epoch's shifts; zeros without augmentation.

    Parameters
    ----------
    name : str
        ``none``, or ``shift-v1``: up to a sixteenth of the side along both axes.
    images, size : int
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of shape (images, 2), int64
        Pixels down and to the right.
    """
    reach = round(size * _SHIFT) if name == "shift-v1" else 0
    return rng.integers(-reach, reach, (images, 2), endpoint=True)


def shift(grey: NDArray[np.uint8], shifts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Move each image; what comes in at an edge repeats it.

    Parameters
    ----------
    grey : ndarray of shape (n, size, size), uint8
    shifts : ndarray of shape (n, 2), int64

    Returns
    -------
    ndarray of shape (n, size, size), uint8
    """
    if not shifts.any():
        return grey
    size = grey.shape[1]
    places = np.clip(np.arange(size) - shifts[:, :, None], 0, size - 1)
    which = np.arange(len(grey))[:, None, None]
    moved: NDArray[np.uint8] = grey[which, places[:, 0, :, None], places[:, 1, None, :]]
    return moved
