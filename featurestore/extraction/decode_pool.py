"""Decoding away from the networks: one shard's images to one block of pixels, on any CPU. Without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import ImageRejected
from featurestore.extraction.plan import WorkItem
from featurestore.extraction.result import RejectedPair
from featurestore.images.decode import read_image
from featurestore.images.preprocess import get_preprocess


@dataclass(frozen=True)
class DecodedShard:
    """The images of one shard as the networks take them, and those that they cannot have.

    Parameters
    ----------
    items : tuple of WorkItem
        In the shard's order, without the rejected ones.
    pixels : ndarray of shape (n_items, size, size), uint8
        Grey; 50 KB an image at 224 pixels.
    rejects : tuple of RejectedPair
    seconds : float
        Of decoding and preprocessing what was usable.
    """

    items: tuple[WorkItem, ...]
    pixels: NDArray[np.uint8]
    rejects: tuple[RejectedPair, ...]
    seconds: float

    def __iter__(self) -> Iterator[tuple[WorkItem, NDArray[np.uint8]]]:
        """Yield each image with its pixels."""
        return zip(self.items, self.pixels, strict=True)


def decode_item(item: WorkItem, preprocess: str, size: int) -> tuple[NDArray[np.uint8], float]:
    """Return one image, ``(size, size)`` uint8 grey, and the seconds it took.

    Raises
    ------
    featurestore.errors.ImageRejected
        If it cannot be used, or is not what was ingested.
    """
    start = perf_counter()
    image = read_image(item.uri, expected=item.file_hash)
    return get_preprocess(preprocess).apply(image.pixels, size), perf_counter() - start


def rejected(item: WorkItem, error: ImageRejected) -> RejectedPair:
    """Return the row that an image gets which no network will see."""
    return RejectedPair(item.image_id, item.uri, error.stage, error.reason, error.retryable)


def decode_shard(items: Sequence[WorkItem], preprocess: str, size: int) -> DecodedShard:
    """Decode images one after the other; a broken one becomes a reject and stops nothing.

    Parameters
    ----------
    items : sequence of WorkItem
    preprocess : str
    size : int
        Pixels.
    """
    usable: list[WorkItem] = []
    pixels = np.empty((len(items), size, size), np.uint8)
    rejects: list[RejectedPair] = []
    total = 0.0
    for item in items:
        try:
            pixels[len(usable)], seconds = decode_item(item, preprocess, size)
        except ImageRejected as error:
            rejects.append(rejected(item, error))
        else:
            usable.append(item)
            total += seconds
    return DecodedShard(tuple(usable), pixels[: len(usable)], tuple(rejects), total)
