"""From any bit depth to 8 bits, by one named rule that PNG, TIFF and DICOM share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import ImageRejected

DEPTH_RULE = (
    "up to 8 bits: the declared range to 0..255; deeper: the declared VOI LUT or window, else the image's own "
    "minimum..maximum (padding left out) to 0..255; rounded half to even"
)
"""What happens to the grey levels, in words. Part of every preprocessing description: changing it makes new specs."""


def scale_to_8bit(values: NDArray[np.generic], low: float, high: float) -> NDArray[np.uint8]:
    """Map ``low..high`` linearly to 0..255.

    Parameters
    ----------
    values : ndarray of shape (height, width), any real dtype
        Every value has to lie in ``low..high``.
    low, high : float
        The declared range, ``low < high``.

    Returns
    -------
    ndarray of shape (height, width), uint8

    Raises
    ------
    featurestore.errors.ImageRejected
        Stage ``decode`` where a value is not finite or leaves the range: clipping it would hide a wrong header.
    """
    smallest, largest = float(values.min()), float(values.max())
    if not (low <= smallest and largest <= high):  # also false for NaN
        raise ImageRejected(
            "decode",
            f"values {smallest:g}..{largest:g} leave the declared range {low:g}..{high:g}; "
            "the header (bits stored, rescale or lookup table) does not fit the pixels",
        )
    scaled = (values.astype(np.float64) - low) * (255.0 / (high - low))
    return np.rint(scaled).astype(np.uint8)


def stretch_to_8bit(values: NDArray[np.generic], ignore: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Map the image's own minimum..maximum to 0..255.

    Parameters
    ----------
    values : ndarray of shape (height, width), any real dtype
    ignore : ndarray of shape (height, width), bool, optional
        Pixels (padding) that do not count for the range; they are clipped into it.

    Returns
    -------
    ndarray of shape (height, width), uint8

    Raises
    ------
    featurestore.errors.ImageRejected
        Stage ``decode`` where all counted pixels are equal, since no range can be read off them.
    """
    counted = values if ignore is None else values[~ignore]
    if counted.size == 0 or counted.min() == counted.max():
        level = "no pixel counts" if counted.size == 0 else f"every pixel is {float(counted.flat[0]):g}"
        raise ImageRejected("decode", f"{level}: more than 8 bits without a window need at least two grey levels")
    low, high = float(counted.min()), float(counted.max())
    return scale_to_8bit(np.clip(values, low, high), low, high)
