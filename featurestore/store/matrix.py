"""Vectors out of Parquet into one NumPy matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurestore.errors import HarmError, UsageError
from featurestore.store.dataset import open_files
from featurestore.store.location import Location
from featurestore.store.schema import TABLES

Matrix = tuple[list[str], NDArray[np.float32]]


def read_matrix(location: Location, paths: Sequence[str], n_features: int, ids: Sequence[str] | None = None) -> Matrix:
    """Read ``image_id`` and ``embedding`` of Parquet files into one matrix.

    Through Arrow's own filesystem: reading through Delta's aborts some interpreters at exit.

    Parameters
    ----------
    location : Location
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
    found = [(path, batch.column(0)) for path, batch in _parts(location, paths, ["image_id"])]
    stored = pa.chunked_array([part for _, part in found], pa.string())
    order = _order(stored, ids)
    X = np.empty((len(order), n_features), np.float32)
    _fill(X, order, location, _first_rows(found))
    return stored.take(pa.array(order)).to_pylist(), X


def read_blocks(
    location: Location, paths: Sequence[str], n_features: int
) -> Iterator[tuple[pa.Array, NDArray[np.float32]]]:
    """Yield ids and their vectors part by part, in the order of the files, for what need not be in memory at once.

    Yields
    ------
    ids : pyarrow.Array of string
    block : ndarray of shape (n_images, n_features), float32

    Raises
    ------
    HarmError
        If a vector has another length.
    """
    for path, batch in _parts(location, paths, ["image_id", "embedding"]):
        yield batch.column("image_id"), _block(batch.column("embedding"), n_features, path)


def _parts(location: Location, paths: Sequence[str], columns: list[str]) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Yield columns of the files, in their order, in parts that are decoded side by side a little ahead."""
    if not paths:
        return
    names = {location.inside(path): path for path in paths}
    dataset = open_files(TABLES["embeddings"], location, paths, columns)
    for tagged in dataset.scanner(columns=columns).scan_batches():
        yield names[tagged.fragment.path], tagged.record_batch


def _first_rows(found: Sequence[tuple[str, pa.Array]]) -> dict[str, range]:
    """Return which of all rows each file has."""
    rows: dict[str, range] = {}
    stop = 0
    for path, part in found:
        start = rows[path].start if path in rows else stop
        stop += len(part)
        rows[path] = range(start, stop)
    return rows


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


def _fill(X: NDArray[np.float32], order: NDArray[np.int64], location: Location, rows_of: dict[str, range]) -> None:
    """Copy each vector to its place as it is decoded: the matrix is held once, never twice."""
    place = np.argsort(order, kind="stable")
    wanted = order[place]

    def between(start: int, stop: int) -> slice:
        return slice(*np.searchsorted(wanted, (start, stop)))

    needed = [path for path, rows in rows_of.items() if len(wanted[between(rows.start, rows.stop)])]
    next_row = {path: rows_of[path].start for path in needed}
    for path, batch in _parts(location, needed, ["embedding"]):
        block = _block(batch.column(0), X.shape[1], path)
        start = next_row[path]
        next_row[path] = stop = start + len(block)
        here = between(start, stop)
        X[place[here]] = _rows(block, wanted[here] - start)


def _rows(block: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return these rows of a block, without a copy where they are all."""
    everything = len(rows) == len(block) and np.array_equal(rows, np.arange(len(block)))
    return block if everything else block[rows]


def _block(column: pa.Array, n_features: int, path: str) -> NDArray[np.float32]:
    # Vector by vector: a short one beside a long one has the right sum.
    fitting = pc.equal(pc.list_value_length(column), n_features)
    wrong = len(column) - (pc.sum(fitting).as_py() or 0)
    flat = column.flatten()
    if wrong or flat.null_count:
        message = (
            f"{path}: {wrong} of {len(column)} vectors are not of length {n_features}, {flat.null_count} values are "
            "null; the file does not fit its spec: extract into a new store"
        )
        raise HarmError(message)
    values: NDArray[np.float32] = flat.to_numpy(zero_copy_only=True).reshape(len(column), n_features)
    return values
