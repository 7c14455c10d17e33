"""Which files of a table hold certain rows: one scan over all, since one file after the other takes longer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from featurestore.store.engine import open_memory
from featurestore.store.location import AT_ONCE, Location
from featurestore.store.schema import TableSpec
from featurestore.store.snapshot import DataFile


def files_with(
    location: Location,
    spec: TableSpec,
    files: Sequence[DataFile],
    columns: Sequence[str],
    chosen: Callable[[pa.Table], pa.Array | pa.ChunkedArray],
    images: Sequence[str] | None = None,
) -> list[DataFile]:
    """Return the files with at least one chosen row, in their order.

    Parameters
    ----------
    location : Location
    spec : TableSpec
    files : sequence of DataFile
        Live files of the table.
    columns : sequence of str
        What is read; no partition columns.
    chosen : callable
        Takes rows with these columns and returns a mask.
    images : sequence of str, optional
        The image_ids of all rows that can be chosen: no others leave the scan.
    """
    if not files:
        return []
    paths = {f"{location.table(spec.name)}/{file.path}": file for file in files}
    sql = f"SELECT filename, {', '.join(columns)} FROM read_parquet($paths, filename=true, hive_partitioning=false)"
    params: dict[str, list[str]] = {"paths": list(paths)}
    if images is not None:
        sql, params["images"] = f"{sql} WHERE list_contains($images, image_id)", list(images)
    with open_memory(location) as con:
        if not location.is_local:  # a thread there waits for the network and needs no core
            con.execute(f"SET threads = {AT_ONCE}")
        rows = con.sql(sql, params=params).to_arrow_table()
    hit = set(rows["filename"].filter(chosen(rows)).to_pylist())
    return [file for path, file in paths.items() if path in hit]
