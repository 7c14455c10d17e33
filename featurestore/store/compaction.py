"""Many small files into few large ones, while others read and append."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa

from featurestore.store.location import Location
from featurestore.store.rewrite import Exchange, exchange, read_rows, stage_rows
from featurestore.store.schema import TABLES, TableSpec
from featurestore.store.snapshot import DataFile, read_snapshot

TARGET_BYTES = 128 << 20
"""Between the 64 and 256 MiB that readers like best (field notes)."""


@dataclass(frozen=True)
class Compacted:
    """Live files of all tables, before and after."""

    files_before: int
    files_after: int


def compact(location: Location, target_bytes: int = TARGET_BYTES, tables: Collection[str] = tuple(TABLES)) -> Compacted:
    """Merge the small files of tables, of all by default; versions that are there stay readable.

    Our own merge instead of Delta's: it keeps checksums in names, the store's writer properties and the rows' order.

    Parameters
    ----------
    location : Location
    target_bytes : int
        How large a merged file gets at most; files of that size or more are left alone.
    tables : collection of str
        Of the others, files are counted only.

    Raises
    ------
    HarmError
        If other exchanges of files won `featurestore.store.commit.MAX_ATTEMPTS` times in a row, or if a file is
        damaged; what was merged before stays merged.
    """
    before = after = 0
    for spec in TABLES.values():
        before += len(read_snapshot(location, spec).files)
        if spec.name in tables:
            _compact_table(location, spec, target_bytes)
        after += len(read_snapshot(location, spec).files)
    return Compacted(before, after)


def _compact_table(location: Location, spec: TableSpec, target_bytes: int) -> None:
    # A partition at a time: of a large table, only little is in memory, and little to do again after a conflict.
    for partition in _partitions(read_snapshot(location, spec).files):

        def plan(files: tuple[DataFile, ...], partition: tuple[str, ...] = partition) -> list[Exchange]:
            mine = [file for file in files if tuple(file.partition.values()) == partition]
            return [_merge(location, spec, group) for group in _groups(mine, target_bytes)]

        exchange(location, spec, plan, changes_rows=False)


def _partitions(files: Sequence[DataFile]) -> list[tuple[str, ...]]:
    return [values for values, _ in groupby(sorted(tuple(file.partition.values()) for file in files))]


def _groups(files: Sequence[DataFile], target_bytes: int) -> list[list[DataFile]]:
    """Return what to merge: runs of small files that fit into one, each of at least two."""
    groups: list[list[DataFile]] = [[]]
    size = 0
    for file in files:
        if file.size >= target_bytes:
            continue
        if size + file.size > target_bytes:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += file.size
    return [group for group in groups if len(group) > 1]


def _merge(location: Location, spec: TableSpec, files: Sequence[DataFile]) -> Exchange:
    rows = pa.concat_tables([read_rows(location, spec, file) for file in files])
    return Exchange(tuple(files), stage_rows(location, spec, rows))
