"""Images as 8-bit grey squares: decoded once into a bounded file, or anew each epoch where that would be too large.

The file has its owner's permissions and lies in a folder of that kind; its name is removed as soon as every worker of
the machine has it open, so that a killed one leaves no pixels behind.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from classifiers.cnn.place import Place
from classifiers.cnn.request import CACHE_LIMIT
from classifiers.cnn.training_set import ImageFile
from featurestore.errors import ImageRejected
from featurestore.images.decode import read_image
from featurestore.images.preprocess import get_preprocess

_FREE_SHARE = 0.5
_AHEAD = 256


@dataclass(frozen=True)
class Unusable:
    """An image that training goes without."""

    image_id: str
    uri: str
    stage: str
    reason: str
    retryable: bool


class Images(Protocol):
    """Squares by row number."""

    bytes: int
    """Size of the cache; 0 where there is none."""
    unusable: dict[int, Unusable]
    """What could not be read so far, by row."""

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return squares of shape (n, size, size) uint8, and which rows could be read: n of them, in order."""


class CachedImages:
    """Squares in memory that the system may drop and read again.

    Parameters
    ----------
    pixels : ndarray of shape (n_images, size, size), uint8
    unusable : dict of int to Unusable
    """

    def __init__(self, pixels: NDArray[np.uint8], unusable: dict[int, Unusable]) -> None:
        self._pixels, self.unusable = pixels, unusable
        self._good = np.ones(len(pixels), np.bool_)
        self._good[list(unusable)] = False
        self.bytes = pixels.nbytes

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """See `Images.take`."""
        good = self._good[rows]
        return self._pixels[rows[good]], good


class DecodedImages:
    """Squares that are decoded whenever they are asked for.

    Parameters
    ----------
    reader : Reader
    """

    bytes = 0

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.unusable: dict[int, Unusable] = {}

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """See `Images.take`."""
        found = dict(self._reader.read(rows.tolist()))
        self.unusable |= {row: item for row, item in found.items() if isinstance(item, Unusable)}
        squares = [square for square in found.values() if not isinstance(square, Unusable)]
        good = np.array([row not in self.unusable for row in rows.tolist()], np.bool_)
        size = self._reader.size
        return np.stack(squares) if squares else np.empty((0, size, size), np.uint8), good


class Reader:
    """Decodes images by row number on some threads.

    Parameters
    ----------
    files : sequence of ImageFile
    preprocess : str
    size : int
        Side in pixels.
    threads : int
    """

    def __init__(self, files: Sequence[ImageFile], preprocess: str, size: int, threads: int) -> None:
        self.files, self.size = files, size
        self._preprocess = get_preprocess(preprocess)
        self._pool = ThreadPoolExecutor(threads, "decode")

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, NDArray[np.uint8] | Unusable]]:
        """Yield each row's square, or why there is none; some rows ahead are decoded and no more."""
        waiting = iter(rows)
        while chunk := list(islice(waiting, _AHEAD)):
            yield from zip(chunk, self._pool.map(self._one, chunk), strict=True)

    def _one(self, row: int) -> NDArray[np.uint8] | Unusable:
        file = self.files[row]
        try:
            return self._preprocess.apply(read_image(file.uri, expected=file.file_hash).pixels, self.size)
        except ImageRejected as error:
            return Unusable(file.image_id, file.uri, error.stage, error.reason, error.retryable)


def open_images(reader: Reader, place: Place, key: str, limit: int = CACHE_LIMIT) -> Images:
    """Decode every image once, or say that it will be done anew each epoch; all workers call it together.

    Parameters
    ----------
    reader : Reader
    place : Place
    key : str
        The same for all workers of a run, and of no other.
    limit : int
        Bytes; half of what is free on the disk for temporary files is the other limit.
    """
    folder = Path(tempfile.gettempdir()) / f"cxrstore-training-{key}"
    if not _fits(len(reader.files) * reader.size**2, limit, place):
        return DecodedImages(reader)
    if place.local_rank == 0:
        _fill(folder, reader)
    place.barrier()
    images = CachedImages(np.load(folder / "grey.npy", mmap_mode="r"), _unusable(folder))
    place.barrier()
    if place.local_rank == 0:
        shutil.rmtree(folder)
    return images


def _fits(needed: int, limit: int, place: Place) -> bool:
    """Return whether the cache fits on every worker's machine: all have to go the same way."""
    import torch

    free = int(shutil.disk_usage(tempfile.gettempdir()).free * _FREE_SHARE)
    misses = place.sum(torch.tensor([float(needed > min(limit, free))]))
    return not bool(misses.item())


def _fill(folder: Path, reader: Reader) -> None:
    if folder.is_dir():  # of an attempt that was killed meanwhile
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    path = folder / "grey.npy"
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    shape = (len(reader.files), reader.size, reader.size)
    pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    unusable: dict[int, Unusable] = {}
    for row, found in reader.read(range(len(reader.files))):
        if isinstance(found, Unusable):
            unusable[row] = found
        else:
            pixels[row] = found
    pixels.flush()
    (folder / "unusable.json").write_text(json.dumps({row: vars(found) for row, found in unusable.items()}))


def _unusable(folder: Path) -> dict[int, Unusable]:
    found = json.loads((folder / "unusable.json").read_text())
    return {int(row): Unusable(**fields) for row, fields in found.items()}
