"""The files of one version of one table."""

from __future__ import annotations

import errno
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable

from featurestore.store.location import Location
from featurestore.store.schema import TableSpec


@dataclass(frozen=True)
class DataFile:
    """One live Parquet file.

    Parameters
    ----------
    path : str
        Relative to the table's folder.
    rows : int
    size : int
        Bytes.
    partition : dict of str to str
    """

    path: str
    rows: int
    size: int
    partition: dict[str, str]


@dataclass(frozen=True)
class Snapshot:
    """One version of a table: what a reader sees however long it reads, while jobs go on appending.

    Parameters
    ----------
    folder : str
    version : int or None
        None where the table was never written.
    files : tuple of DataFile
    """

    folder: str
    version: int | None
    files: tuple[DataFile, ...]

    def paths(self, **partition: Collection[str] | None) -> list[str]:
        """Return absolute paths of the files in these partitions (None means any).

        Raw root plus the relative path, unquoted once: Delta's ``file_uris`` would encode spaces in the root.
        """
        wanted = {column: set(values) for column, values in partition.items() if values is not None}
        return [
            f"{self.folder}/{f.path}"
            for f in self.files
            if all(f.partition.get(column) in values for column, values in wanted.items())
        ]


def open_table(location: Location, spec: TableSpec) -> DeltaTable | None:
    """Return the table's newest version, or None where it was never written."""
    folder = location.table(spec.name)
    if not DeltaTable.is_deltatable(folder):
        return None
    return DeltaTable(folder)


def create_table(location: Location, spec: TableSpec) -> DeltaTable:
    """Open the table, making it first where it is absent. Safe against another process doing the same.

    Column statistics are off: Delta would write patient and image ids into its log, where deletes do not reach.
    """
    folder = location.table(spec.name)
    if not DeltaTable.is_deltatable(folder):
        _create(Path(folder), spec)
    return DeltaTable(folder)


def _create(folder: Path, spec: TableSpec) -> None:
    """Write the first version beside its place and move it there, or leave the one that came first.

    Of several processes that create in place at once, delta-rs lets some fail and some write a second first version.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".new-", dir=folder) as scratch:
        DeltaTable.create(
            scratch,
            spec.schema,
            partition_by=list(spec.partition_by),
            configuration={"delta.dataSkippingNumIndexedCols": "0"},
        )
        try:
            (Path(scratch) / "_delta_log").rename(folder / "_delta_log")
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise


def files_of(dt: DeltaTable, spec: TableSpec) -> tuple[DataFile, ...]:
    """Return the live files of an opened table."""
    actions = pa.table(dt.get_add_actions(flatten=True))
    partition = [actions[f"partition.{column}"].to_pylist() for column in spec.partition_by]
    paths, sizes, rows = (actions[c].to_pylist() for c in ("path", "size_bytes", "num_records"))
    return tuple(
        DataFile(unquote(path), count or 0, size, dict(zip(spec.partition_by, values, strict=True)))
        for path, size, count, *values in zip(paths, sizes, rows, *partition, strict=True)
    )


def read_snapshot(location: Location, spec: TableSpec) -> Snapshot:
    """Return the table's newest version, empty where it was never written."""
    dt = open_table(location, spec)
    if dt is None:
        return Snapshot(location.table(spec.name), None, ())
    return Snapshot(location.table(spec.name), dt.version(), files_of(dt, spec))
