"""A snapshot's files as an Arrow dataset."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import and_

import pyarrow as pa
import pyarrow.dataset as ds

from featurestore.store.location import Location
from featurestore.store.schema import TableSpec
from featurestore.store.snapshot import DataFile, Snapshot


def open_dataset(table: TableSpec, snapshot: Snapshot, n_features: int | None = None) -> ds.Dataset:
    """Return a lazy dataset of the snapshot's rows; nothing is read yet.

    Partition values come from Delta's log, so that no folder name is ever parsed.

    Parameters
    ----------
    table : TableSpec
    snapshot : Snapshot
        With at least one file.
    n_features : int, optional
        Where all vectors have this length: the column ``embedding`` is then of fixed length. Reading one of another
        length is an error of Arrow's.
    """
    return _dataset(
        snapshot.location,
        snapshot.paths(),
        pa.schema(table.schema) if n_features is None else _of_fixed_length(pa.schema(table.schema), n_features),
        [_partition(file) for file in snapshot.files],
    )


def open_files(table: TableSpec, location: Location, paths: Sequence[str], columns: Sequence[str]) -> ds.Dataset:
    """Return a lazy dataset of some columns of some of a table's files, without their partition's values.

    Parameters
    ----------
    table : TableSpec
    location : Location
    paths : sequence of str
        As `Location` takes them; at least one.
    columns : sequence of str
    """
    schema = pa.schema([pa.schema(table.schema).field(column) for column in columns])
    return _dataset(location, paths, schema, [ds.scalar(True)] * len(paths))


def _dataset(
    location: Location, paths: Sequence[str], schema: pa.Schema, partitions: Sequence[ds.Expression]
) -> ds.Dataset:
    # Read ahead only where a read is a request.
    scan = ds.ParquetFragmentScanOptions(pre_buffer=not location.is_local)
    return ds.FileSystemDataset.from_paths(
        [location.inside(path) for path in paths],
        schema=schema,
        format=ds.ParquetFileFormat(default_fragment_scan_options=scan),
        filesystem=location.filesystem(),
        partitions=partitions,
    )


def _of_fixed_length(schema: pa.Schema, n_features: int) -> pa.Schema:
    index = schema.get_field_index("embedding")
    return schema.set(index, pa.field("embedding", pa.list_(pa.float32(), n_features)))


def _partition(file: DataFile) -> ds.Expression:
    return reduce(and_, (ds.field(column) == value for column, value in file.partition.items()), ds.scalar(True))
