"""The template of `chest-crop-v1`, and the window of an image that looks most like it.

``python -m featurestore.images.crop OUT.png`` builds the template again from phantoms.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.resources import files
from itertools import count, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featurestore.errors import UsageError

TEMPLATE_SIDE = 224
"""Side of the shipped template in pixels."""
RESIZED_SIDE = 256
"""Side an image is resized to before a 224-pixel window is chosen ([C]; at another size the ratio stays)."""
TEMPLATE_IMAGES = 64


def resize(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize to ``side`` x ``side``, Pillow's bilinear: antialiased, its support grows with the reduction.

    Parameters
    ----------
    pixels : ndarray of shape (height, width), uint8
    side : int

    Returns
    -------
    ndarray of shape (side, side), uint8
    """
    return np.array(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR), dtype=np.uint8)


def build_template(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the mean image of a reference set: each resized to 256 x 256, its central 224 x 224 taken.

    Parameters
    ----------
    images : iterable of ndarray of shape (height, width), uint8
        At least one.

    Returns
    -------
    ndarray of shape (224, 224), uint8

    Raises
    ------
    featurestore.errors.UsageError
        Where there are no images.
    """
    total, n_images = np.zeros((TEMPLATE_SIDE, TEMPLATE_SIDE)), 0
    edge = (RESIZED_SIDE - TEMPLATE_SIDE) // 2
    for pixels in images:
        total += resize(pixels, RESIZED_SIDE)[edge : edge + TEMPLATE_SIDE, edge : edge + TEMPLATE_SIDE]
        n_images += 1
    if not n_images:
        raise UsageError("a template is the mean of at least one image, and none was given")
    return np.rint(total / n_images).astype(np.uint8)


@cache
def load_template() -> NDArray[np.uint8]:
    """Return the shipped template, shape (224, 224), uint8, read-only."""
    with files("featurestore.images").joinpath("chest_template.png").open("rb") as stream, Image.open(stream) as image:
        template = np.array(image.convert("L"), dtype=np.uint8)
    template.setflags(write=False)
    return template


@cache
def template_sha256() -> str:
    """Return the hex SHA-256 of the shipped template's grey bytes (not of the PNG, whose bytes depend on zlib)."""
    return hashlib.sha256(load_template().tobytes()).hexdigest()


@cache
def _template_at(size: int) -> NDArray[np.uint8]:
    return resize(load_template(), size)


def crop_chest(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return the window that correlates best with the template.

    Parameters
    ----------
    pixels : ndarray of shape (height, width), uint8
    size : int
        Side of the window; the image is first resized to ``round(size * 256 / 224)``.

    Returns
    -------
    ndarray of shape (size, size), uint8
    """
    from skimage.feature import match_template

    resized = resize(pixels, round(size * RESIZED_SIDE / TEMPLATE_SIDE))
    top, left = _best(match_template(resized, _template_at(size)))  # type: ignore[no-untyped-call]
    return resized[top : top + size, left : left + size]


def _best(response: NDArray[np.floating]) -> tuple[int, int]:
    """Return the highest correlation's position, nearest the centre among equals.

    Rounded to 5 decimals: the correlation goes through an FFT, whose last bits differ between machines, and a blank
    image (correlation 0 everywhere) should give its centre.
    """
    rounded = np.round(response, 5)
    places = np.argwhere(rounded == rounded.max())
    centre = (np.array(response.shape) - 1) / 2
    row, column = places[np.argmin(((places - centre) ** 2).sum(axis=1))]
    return int(row), int(column)


def reference_images() -> Iterator[NDArray[np.uint8]]:
    """Yield the template's reference set: the first 32 frontal phantoms of seed 0 from each of the two hospitals.

    Yields
    ------
    ndarray of shape (256, 256), uint8
    """
    from featurestore.images.phantoms import Hospital, generate_patient

    hospitals: tuple[Hospital, ...] = ("a", "b")
    for hospital in hospitals:
        patients = (generate_patient(0, hospital, index, RESIZED_SIDE) for index in count())
        frontal = (image.to_uint8() for patient in patients for image in patient if image.view != "LATERAL")
        yield from islice(frontal, TEMPLATE_IMAGES // 2)


if __name__ == "__main__":
    Image.fromarray(build_template(reference_images())).save(Path(sys.argv[1]), optimize=True)
