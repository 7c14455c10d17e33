"""Vectors out of Parquet into one NumPy matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from featurestore.errors import HarmError, UsageError

Matrix = tuple[list[str], NDArray[np.float32]]


def read_matrix(paths: Sequence[str], n_features: int, ids: Sequence[str] | None = None) -> Matrix:
    """Read ``image_id`` and ``embedding`` of Parquet files into one matrix.

    Plain ``pyarrow.parquet`` on paths: reading through Delta's own filesystem aborts some interpreters at exit.

    Parameters
    ----------
    paths : sequence of str
        Files of one spec.
    n_features : int
        Length of every vector.
    ids : sequence of str, optional
        The images wanted, in the order wanted; all of them, sorted by id, where absent.

    Returns
    -------
    ids : list of str
    X : ndarray of shape (n_images, n_features), float32

    Raises
    ------
    UsageError
        If a wanted image has no vector; says how many.
    HarmError
        If an image has two vectors, or a vector another length.
    """
    found: list[pa.ChunkedArray] = []
    blocks: list[NDArray[np.float32]] = []
    for path in paths:
        table = pq.ParquetFile(path).read(columns=["image_id", "embedding"])
        found.append(table["image_id"])
        blocks.append(_block(table["embedding"], table.num_rows, n_features, path))
    stored = pa.chunked_array([chunk for column in found for chunk in column.chunks], pa.string())
    order = _order(stored, ids)
    wanted = stored.take(pa.array(order)).to_pylist()
    return wanted, _gather(blocks, order, n_features)


def _block(column: pa.ChunkedArray, rows: int, n_features: int, path: str) -> NDArray[np.float32]:
    # Vector by vector: a short one beside a long one has the right sum.
    fitting = pc.equal(pc.list_value_length(column), n_features)
    wrong = rows - pc.sum(fitting, min_count=0).as_py()
    flat = pa.concat_arrays([chunk.flatten() for chunk in column.chunks] or [pa.array([], pa.float32())])
    if wrong or flat.null_count:
        message = (
            f"{path}: {wrong} of {rows} vectors are not of length {n_features}, {flat.null_count} values are null; the "
            "file does not fit its spec: extract into a new store"
        )
        raise HarmError(message)
    values: NDArray[np.float32] = flat.to_numpy(zero_copy_only=True).reshape(rows, n_features)
    return values


def _order(stored: pa.ChunkedArray, ids: Sequence[str] | None) -> NDArray[np.int64]:
    if len(pc.unique(stored)) != len(stored):
        message = f"{len(stored) - len(pc.unique(stored))} images have more than one vector for this spec"
        raise HarmError(message)
    if ids is None:
        return np.asarray(pc.array_sort_indices(stored), dtype=np.int64)
    positions = pc.index_in(pa.array(ids, pa.string()), value_set=stored.combine_chunks())
    if positions.null_count:
        message = (
            f"{positions.null_count} of {len(ids)} images have no vector for this spec; "
            "run cxr extract for their data set and backbone first"
        )
        raise UsageError(message)
    return np.asarray(positions, dtype=np.int64)


def _gather(blocks: list[NDArray[np.float32]], order: NDArray[np.int64], n_features: int) -> NDArray[np.float32]:
    """Copy each block's rows straight to their place: the matrix is held once, never twice."""
    X = np.empty((len(order), n_features), np.float32)
    place = np.argsort(order, kind="stable")
    sorted_order = order[place]
    start = 0
    for block in blocks:
        lo, hi = np.searchsorted(sorted_order, (start, start + len(block)))
        X[place[lo:hi]] = block[sorted_order[lo:hi] - start]
        start += len(block)
    return X
