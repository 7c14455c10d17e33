"""Rows of MedMNIST-style `.npz` files, with the few arrays in use kept open."""

from __future__ import annotations

import math
import threading
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import ImageRejected
from featurestore.images.faults import rejecting, words_of

MAX_ARRAYS = 3
"""Arrays kept in memory at once: the three parts of one data set."""
MAX_ARRAY_BYTES = 16 << 30
"""A larger array is rejected from its header (ChestMNIST at 224 pixels has 3.9 GB)."""

_Key = tuple[str, int, int, str]
_lock = threading.Lock()
_arrays: OrderedDict[_Key, NDArray[np.uint8]] = OrderedDict()


def header(path: Path, member: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype of one array of an `.npz` without reading it.

    Raises
    ------
    KeyError
        Where the file holds no such array.
    OSError, ValueError, zipfile.BadZipFile
        Where it is no readable `.npz`.
    """
    with zipfile.ZipFile(path) as archive, archive.open(f"{member}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    return shape, dtype


def read_row(path: Path, row: str) -> NDArray[np.uint8]:
    """Return one image of an `.npz`.

    Parameters
    ----------
    path : Path
    row : str
        ``part/index``, such as ``train/12`` for ``train_images[12]``.

    Returns
    -------
    ndarray of shape (height, width) or (height, width, 3), uint8

    Raises
    ------
    featurestore.errors.ImageRejected
        Stage ``path`` (retryable) for a missing file, ``decode`` for everything else.
    """
    part, _, index = row.rpartition("/")
    images = _images(path, part)
    if not index.isdecimal() or int(index) >= len(images):
        raise ImageRejected("decode", f"no row {index!r} in {part}_images, which has rows 0..{len(images) - 1}")
    chosen: NDArray[np.uint8] = images[int(index)]
    return chosen


def _images(path: Path, part: str) -> NDArray[np.uint8]:
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise ImageRejected("path", f"cannot read the file: {words_of(error)}", retryable=True) from error
    key = (str(path), status.st_mtime_ns, status.st_size, part)
    with _lock:  # held while loading: the threads that wait need the same array
        if key not in _arrays:
            _arrays[key] = _load(path, f"{part}_images")
            while len(_arrays) > MAX_ARRAYS:
                _arrays.popitem(last=False)
        _arrays.move_to_end(key)
        return _arrays[key]


def _load(path: Path, member: str) -> NDArray[np.uint8]:
    with rejecting(f"cannot read {member} of the .npz"):
        shape, dtype = header(path, member)
        _check(member, shape, dtype)
        with np.load(path, allow_pickle=False) as archive:
            images: NDArray[np.uint8] = archive[member]
    images.setflags(write=False)  # shared by all threads
    return images


def _check(member: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    grey, colour = len(shape) == 3, len(shape) == 4 and shape[3] == 3
    if dtype != np.uint8 or not (grey or colour):
        raise ImageRejected("decode", f"{member} is {dtype} {shape}; expected uint8 (n, height, width) or (..., 3)")
    if math.prod(shape) > MAX_ARRAY_BYTES:
        raise ImageRejected("size", f"{member} has {math.prod(shape)} bytes; at most {MAX_ARRAY_BYTES} are read")
