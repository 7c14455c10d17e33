"""The files of one version of one table."""

from __future__ import annotations

import errno
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from deltalake.transaction import CommitProperties

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
    location : Location
    table : str
    version : int or None
        None where the table was never written.
    files : tuple of DataFile
    """

    location: Location
    table: str
    version: int | None
    files: tuple[DataFile, ...]

    @property
    def folder(self) -> str:
        """Return the table's folder."""
        return self.location.table(self.table)

    def limited(self, **partition: Collection[str] | None) -> Snapshot:
        """Return the snapshot with the files of these partitions only (None means any)."""
        wanted = {column: set(values) for column, values in partition.items() if values is not None}
        kept = (f for f in self.files if all(f.partition.get(column) in values for column, values in wanted.items()))
        return replace(self, files=tuple(kept))

    def paths(self, **partition: Collection[str] | None) -> list[str]:
        """Return absolute paths of the files in these partitions (None means any).

        Raw root plus the relative path, unquoted once: Delta's ``file_uris`` would encode spaces in the root.
        """
        folder = self.folder
        return [f"{folder}/{file.path}" for file in self.limited(**partition).files]


def open_table(location: Location, spec: TableSpec) -> DeltaTable | None:
    """Return the table's newest version, or None where it was never written."""
    folder, options = location.delta(spec.name), location.storage_options()
    if not DeltaTable.is_deltatable(folder, options):
        return None
    return DeltaTable(folder, storage_options=options)


def create_table(location: Location, spec: TableSpec) -> DeltaTable:
    """Open the table, making it first where it is absent. Safe against another process doing the same.

    Column statistics are off: Delta would write patient and image ids into its log, where deletes do not reach.
    """
    table = open_table(location, spec)
    if table is not None:
        return table
    if location.is_local:
        _create_local(Path(location.table(spec.name)), spec)
    else:
        _create_on_s3(location, spec)
    return DeltaTable(location.delta(spec.name), storage_options=location.storage_options())


def _create(uri: str, spec: TableSpec, **how: Any) -> None:
    DeltaTable.create(
        uri,
        spec.schema,
        partition_by=list(spec.partition_by),
        configuration={"delta.dataSkippingNumIndexedCols": "0"},
        **how,
    )


def _create_on_s3(location: Location, spec: TableSpec) -> None:
    """Write the first version unless it is there: the put is conditional, and without retries no second one follows."""
    once = CommitProperties(max_commit_retries=0)
    try:
        _create(location.delta(spec.name), spec, storage_options=location.storage_options(), commit_properties=once)
    except DeltaError:
        if open_table(location, spec) is None:
            raise


def _create_local(folder: Path, spec: TableSpec) -> None:
    """Write the first version beside its place and move it there, or leave the one that came first.

    Of several processes that create in place at once, delta-rs lets some fail and some write a second first version.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".new-", dir=folder) as scratch:
        _create(scratch, spec)
        try:
            (Path(scratch) / "_delta_log").rename(folder / "_delta_log")
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise


def files_of(dt: DeltaTable, spec: TableSpec, known: Collection[str] = frozenset()) -> tuple[DataFile, ...]:
    """Return the live files of an opened table, those whose paths are ``known`` left out."""
    actions = pa.table(dt.get_add_actions(flatten=True))
    if known:
        # A path is cheap, an object a file is not: with 22,000 known files it took longer than the commit.
        paths = actions["path"].to_pylist()
        new = [row for row, path in enumerate(paths) if unquote(path) not in known]
        actions = actions.take(pa.array(new, pa.int64()))
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
        return Snapshot(location, spec.name, None, ())
    return Snapshot(location, spec.name, dt.version(), files_of(dt, spec))
