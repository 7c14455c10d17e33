"""A snapshot's files as an Arrow dataset."""

from __future__ import annotations

from functools import reduce
from operator import and_

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import LocalFileSystem

from featurestore.store.schema import TableSpec
from featurestore.store.snapshot import DataFile, Snapshot


def open_dataset(table: TableSpec, snapshot: Snapshot) -> ds.Dataset:
    """Return a lazy dataset of the snapshot's rows; nothing is read yet.

    Arrow's own local filesystem: with Delta's, some interpreters abort at exit. Partition values come from Delta's
    log, so that no folder name is ever parsed.

    Parameters
    ----------
    table : TableSpec
    snapshot : Snapshot
        With at least one file.
    """
    return ds.FileSystemDataset.from_paths(
        snapshot.paths(),
        schema=pa.schema(table.schema),
        format=ds.ParquetFileFormat(),
        filesystem=LocalFileSystem(),
        partitions=[_partition(file) for file in snapshot.files],
    )


def _partition(file: DataFile) -> ds.Expression:
    return reduce(and_, (ds.field(column) == value for column, value in file.partition.items()), ds.scalar(True))
