"""Regions of interest: which pixels they cover, and what may be wrong with them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from featurestore.errors import UsageError
from featurestore.images.decode import MAX_PIXELS
from featurestore.images.records import Roi

SLACK = 1.0
"""Pixels by which a box or polygon may stick out of its frame: drawing tools round outwards."""


def to_mask(roi: Roi) -> NDArray[np.bool_]:
    """Return the pixels a region covers.

    A box covers the pixels whose centre it holds (at least one each way); a polygon is filled with its outline, as
    CheXlocalize's ``annotation_to_segmentation.py`` does; run lengths are COCO's.

    Parameters
    ----------
    roi : Roi

    Returns
    -------
    ndarray of shape (roi.height, roi.width), bool

    Raises
    ------
    ValueError
        Where run lengths do not fit their frame, or the frame has more than `MAX_PIXELS` pixels.
    """
    if roi.width * roi.height > MAX_PIXELS:
        raise ValueError(f"a frame of {roi.width} x {roi.height}; at most {MAX_PIXELS} pixels")
    geometry = json.loads(roi.geometry)
    if roi.kind == "box":
        return _box_mask(geometry, roi.width, roi.height)
    if roi.kind == "polygon":
        return _polygon_mask(geometry, roi.width, roi.height)
    if roi.kind == "rle":
        return _rle_mask(geometry, roi.width, roi.height)
    raise UsageError(f"region of kind {roi.kind!r}; there are box, polygon and rle")


def fault_of(roi: Roi) -> str | None:
    """Return what is wrong with a region (outside its frame, no area, unreadable), or None."""
    if roi.width <= 0 or roi.height <= 0:
        return f"the frame is {roi.width} x {roi.height}; expected the image's width and height"
    try:
        outside = _outside(roi)
        empty = not outside and not to_mask(roi).any()
    except (ValueError, TypeError, IndexError) as error:
        return f"the {roi.kind} of {roi.label!r} cannot be read: {error}"
    if outside:
        return f"the {roi.kind} of {roi.label!r} reaches {outside} outside its {roi.width} x {roi.height} frame"
    return f"the {roi.kind} of {roi.label!r} has no area" if empty or _flat(roi) else None


def encode_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return COCO's uncompressed run lengths of a mask (column-major, starting with the zeros).

    Parameters
    ----------
    mask : ndarray of shape (height, width), bool
    """
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": ([0] if flat[:1].any() else []) + runs}


def decode_counts(text: str) -> list[int]:
    """Return the run lengths in COCO's compressed string.

    Six bits a character from ``0``: five of the number, low ones first, and one that says more follow; from the
    fourth run on, the difference to the run before last (pycocotools, ``maskApi.c``, ``rleFrString``).

    Raises
    ------
    ValueError
        Where the string ends inside a number or holds other characters.
    """
    counts: list[int] = []
    number, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"character {character!r} is not part of COCO run lengths")
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            signed = number - (1 << shift) if bits & 16 else number
            counts.append(signed + (counts[-2] if len(counts) > 2 else 0))
            number, shift = 0, 0
    if shift:
        raise ValueError("the run lengths end inside a number")
    return counts


def _box_mask(box: Sequence[float], width: int, height: int) -> NDArray[np.bool_]:
    x, y, w, h = box
    mask = np.zeros((height, width), dtype=bool)
    mask[_covered(y, h, height), _covered(x, w, width)] = True
    return mask


def _covered(start: float, length: float, limit: int) -> slice:
    first = int(np.clip(np.ceil(start - 0.5), 0, limit - 1))
    return slice(first, max(first + 1, int(np.clip(np.ceil(start + length - 0.5), 0, limit))))


def _polygon_mask(polygons: Sequence[Sequence[float]], width: int, height: int) -> NDArray[np.bool_]:
    canvas = Image.new("1", (width, height))
    for polygon in polygons:
        ImageDraw.Draw(canvas).polygon(list(polygon), outline=1, fill=1)
    return np.array(canvas, dtype=bool)


def _rle_mask(rle: dict[str, Any], width: int, height: int) -> NDArray[np.bool_]:
    counts = decode_counts(rle["counts"]) if isinstance(rle["counts"], str) else [int(run) for run in rle["counts"]]
    if list(rle["size"]) != [height, width]:
        raise ValueError(f"run lengths of size {rle['size']} in a frame of [{height}, {width}]")
    if any(run < 0 for run in counts) or sum(counts) != width * height:
        raise ValueError(f"run lengths cover {sum(counts)} pixels of {width * height}")
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape((height, width), order="F")


def _points(roi: Roi) -> NDArray[np.float64] | None:
    """Return the corners, shape (n, 2), x and y; None for run lengths, which cannot leave their frame."""
    geometry = json.loads(roi.geometry)
    if roi.kind == "box":
        x, y, w, h = (float(number) for number in geometry)
        return np.array([[x, y], [x + w, y + h]])
    if roi.kind == "polygon":
        if not geometry or any(len(polygon) < 6 or len(polygon) % 2 for polygon in geometry):
            raise ValueError("a polygon needs three corners, x and y each")
        return np.concatenate([np.array(polygon, dtype=float).reshape(-1, 2) for polygon in geometry])
    return None


def _outside(roi: Roi) -> str:
    points = _points(roi)
    if points is None:
        return ""
    if not np.isfinite(points).all():
        raise ValueError("a corner is not a finite number")
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    far = max(-left, -top, right - roi.width, bottom - roi.height)
    return f"{far:g} pixels" if far > SLACK else ""


def _flat(roi: Roi) -> bool:
    """Say whether a box or polygon encloses nothing, though its outline may touch pixels."""
    points = _points(roi)
    if points is None:
        return False
    if roi.kind == "box":
        return bool((points[1] <= points[0]).any())
    return bool((np.ptp(points, axis=0) == 0).any())
