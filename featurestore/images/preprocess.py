"""The two ways from a decoded radiograph to a network's square input, named and versioned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import UsageError
from featurestore.images.crop import RESIZED_SIDE, TEMPLATE_SIDE, crop_chest, resize, template_sha256
from featurestore.images.depth import DEPTH_RULE

_INTERPOLATION = "bilinear, antialiased (triangle filter whose support grows with the reduction), 8-bit result"


@dataclass(frozen=True)
class Preprocess:
    """One preprocessing; what it does never changes under its name.

    Normalisation by ImageNet mean and standard deviation belongs to the backbone and happens on the device.

    Parameters
    ----------
    name : str
        As the command line says it.
    crop : bool
        Whether the window that looks most like a chest is cut out.
    """

    name: str
    crop: bool

    def apply(self, pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
        """Return the network's input in grey.

        Parameters
        ----------
        pixels : ndarray of shape (height, width), uint8
        size : int
            Side in pixels.

        Returns
        -------
        ndarray of shape (size, size), uint8
        """
        return crop_chest(pixels, size) if self.crop else resize(pixels, size)

    def describe(self, size: int) -> dict[str, Any]:
        """Return everything here that changes a vector, ready for JSON; it goes into the spec's hash.

        Parameters
        ----------
        size : int
            Side in pixels.

        Returns
        -------
        dict
            ``name``, ``size``, ``interpolation``, ``crop`` (None, or the crop's parameters with its template's
            SHA-256) and ``depth``. No library versions: those are provenance.
        """
        return {
            "name": self.name,
            "size": size,
            "interpolation": _INTERPOLATION,
            "crop": self._describe_crop(size) if self.crop else None,
            "depth": DEPTH_RULE,
        }

    def _describe_crop(self, size: int) -> dict[str, Any]:
        return {
            "resized_to": round(size * RESIZED_SIDE / TEMPLATE_SIDE),
            "window": size,
            "choice": "highest normalised cross-correlation with the template, 5 decimals, nearest the centre",
            "template_sha256": template_sha256(),
        }


PREPROCESSES: dict[str, Preprocess] = {
    preprocess.name: preprocess
    for preprocess in (Preprocess("bilinear-v1", crop=False), Preprocess("chest-crop-v1", crop=True))
}
"""Every preprocessing by name."""


def get_preprocess(name: str) -> Preprocess:
    """Return a preprocessing by its name.

    Raises
    ------
    featurestore.errors.UsageError
        For an unknown name.
    """
    try:
        return PREPROCESSES[name]
    except KeyError:
        raise UsageError(f"no preprocessing {name!r}; there are {', '.join(PREPROCESSES)}") from None
