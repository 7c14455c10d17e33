"""Parquet files as the store writes them, before anyone commits them.

A staged file is invisible until its add-action is committed: a worker may write one, die, and leave nothing but
an orphan that the next vacuum removes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurestore.store.checksums import checked_name
from featurestore.store.location import Location
from featurestore.store.schema import TableSpec

ROW_GROUP_ROWS = 4096
_HIVE_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


@dataclass(frozen=True)
class StagedFile:
    """One Parquet file that waits for its commit.

    Parameters
    ----------
    path : str
        Relative to the table's folder, as Delta's log wants it.
    size : int
        Bytes.
    rows : int
    partition : dict of str to str
    """

    path: str
    size: int
    rows: int
    partition: dict[str, str] = field(default_factory=dict)


def writer_properties(schema: pa.Schema) -> dict[str, Any]:
    """Return how Parquet is written: zstd level 1, and no dictionary on floats, which are all distinct."""
    text = [f.name for f in schema if pa.types.is_string(f.type)]
    return {"compression": "zstd", "compression_level": 1, "use_dictionary": text, "row_group_size": ROW_GROUP_ROWS}


def conform(table: pa.Table, spec: TableSpec) -> pa.Table:
    """Order, cast and complete the columns of ``table`` as ``spec`` says; absent ones become null.

    Raises
    ------
    ValueError
        For a column the table does not have.
    """
    unknown = sorted(set(table.column_names) - set(spec.schema.names))
    if unknown:
        message = f"table {spec.name!r} has no column {unknown}; it has {spec.schema.names}"
        raise ValueError(message)
    columns = [
        table[f.name].cast(f.type) if f.name in table.column_names else pa.nulls(table.num_rows, f.type)
        for f in spec.schema
    ]
    return pa.table(columns, schema=spec.schema)


def stage(location: Location, spec: TableSpec, table: pa.Table) -> list[StagedFile]:
    """Write ``table`` as Parquet, one file a partition, and return what a commit needs.

    Parameters
    ----------
    location : Location
    spec : TableSpec
    table : pyarrow.Table
        Rows in the table's schema (see `conform`).

    Returns
    -------
    list of StagedFile
    """
    return [_write(location, spec, rows, values) for values, rows in _partitions(table, spec.partition_by)]


def _partitions(table: pa.Table, columns: tuple[str, ...]) -> Iterator[tuple[dict[str, str], pa.Table]]:
    if not columns:
        yield {}, table
        return
    for values in table.select(columns).group_by(columns).aggregate([]).to_pylist():
        mask = None
        for column, value in values.items():
            _check_hive(column, value)
            here = pc.equal(table[column], value)
            mask = here if mask is None else pc.and_(mask, here)
        yield values, table.filter(mask).drop_columns(list(columns))


def _check_hive(column: str, value: str | None) -> None:
    # Names and ids are [a-z0-9_]+, so that a folder name never needs escaping.
    if not value or not set(value) <= _HIVE_SAFE:
        message = f"partition {column}={value!r}: letters, digits, '_', '-' and '.' only"
        raise ValueError(message)


def _write(location: Location, spec: TableSpec, rows: pa.Table, values: dict[str, str]) -> StagedFile:
    folder = "".join(f"{column}={values[column]}/" for column in spec.partition_by)
    content = pa.BufferOutputStream()
    pq.write_table(rows, content, **writer_properties(rows.schema))
    buffer = content.getvalue()
    relative = f"{folder}{checked_name(buffer)}"
    location.write_bytes(f"{spec.name}/{relative}", buffer)
    return StagedFile(relative, buffer.size, rows.num_rows, values)


def discard(location: Location, spec: TableSpec, files: list[StagedFile]) -> None:
    """Remove staged files that will not be committed."""
    for staged in files:
        location.remove(f"{spec.name}/{staged.path}")


def read_parquet(location: Location, path: str, columns: list[str] | None = None) -> pa.Table:
    """Return the rows of one file; ``path`` as `Location` takes it."""
    # Read ahead only where a read is a request.
    with pq.ParquetFile(
        location.inside(path), filesystem=location.filesystem(), pre_buffer=not location.is_local
    ) as file:
        return file.read(columns=columns)


def now_ms() -> int:
    """Return the time in milliseconds, as Delta's log writes it."""
    return int(time.time() * 1000)
