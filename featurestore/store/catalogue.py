"""DuckDB views over one snapshot of every table."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import duckdb
import pyarrow as pa

from featurestore.errors import UsageError
from featurestore.store.engine import open_memory
from featurestore.store.location import Location
from featurestore.store.schema import TABLES, TableSpec
from featurestore.store.snapshot import Snapshot

_DUCKDB_TYPES = {
    "string": "VARCHAR", "float": "FLOAT", "double": "DOUBLE", "int8": "TINYINT", "int16": "SMALLINT",
    "int32": "INTEGER", "int64": "BIGINT", "bool": "BOOLEAN", "timestamp[us]": "TIMESTAMP",
}  # fmt: skip

_BACKBONE_COLUMNS = "image_id, spec_id, run_id, runtime, embedding"


def open_catalogue(
    snapshots: Mapping[str, Snapshot], *, spec: str | None = None, guarded: bool = False, backbones: bool = True
) -> duckdb.DuckDBPyConnection:
    """Return a DuckDB connection with one view per table, and one per backbone with vectors of fixed length.

    Parameters
    ----------
    snapshots : mapping of str to Snapshot
        Snapshots of the tables to show, all read at the same moment.
    spec : str, optional
        Limits the view of this spec's backbone to it.
    guarded : bool
        For SQL that is not ours: the connection can open no file at all, neither to read nor to write, and its
        settings are locked. The rows come in through Arrow.
    backbones : bool
        Make the per-backbone views too; they need `specs` and `embeddings`.

    Raises
    ------
    UsageError
        If ``spec`` names no stored spec.
    """
    con = open_memory(_location(snapshots, guarded))
    show = _show_arrow if guarded else _show_files
    for name, snapshot in snapshots.items():
        if snapshot.files:
            show(con, TABLES[name], snapshot)
        else:
            _show_nothing(con, TABLES[name])
    if backbones:
        _create_backbone_views(con, spec, snapshots["embeddings"] if guarded else None)
    if guarded:
        _lock(con)
    return con


def _location(snapshots: Mapping[str, Snapshot], guarded: bool) -> Location | None:
    # What is guarded gets no filesystem: its rows come in through Arrow.
    return None if guarded else next((snapshot.location for snapshot in snapshots.values()), None)


def _show_nothing(con: duckdb.DuckDBPyConnection, table: TableSpec) -> None:
    columns = ", ".join(f'NULL::{_duckdb_type(f.type)} AS "{f.name}"' for f in table.schema)
    con.execute(f'CREATE VIEW "{table.name}" AS SELECT {columns} WHERE false')


def _duckdb_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"{_duckdb_type(kind.value_type)}[]"
    return _DUCKDB_TYPES[str(kind)]


def _show_files(con: duckdb.DuckDBPyConnection, table: TableSpec, snapshot: Snapshot) -> None:
    # A variable holds the list: the SQL text stays short with tens of thousands of files.
    con.execute(f"SET VARIABLE files_{table.name} = ?", [snapshot.paths()])
    columns = ", ".join(f'"{f.name}"' for f in table.schema)
    # Without explicit types an id of digits only would become a number.
    types = ", ".join(f"'{column}': VARCHAR" for column in table.partition_by)
    hive = f"hive_partitioning=true, hive_types={{{types}}}" if table.partition_by else "hive_partitioning=false"
    source = f"read_parquet(getvariable('files_{table.name}'), {hive})"
    con.execute(f'CREATE VIEW "{table.name}" AS SELECT {columns} FROM {source}')


def _show_arrow(con: duckdb.DuckDBPyConnection, table: TableSpec, snapshot: Snapshot) -> None:
    # Paths that DuckDB may read are paths it may write: since 2.0 even a SELECT can hold a COPY ... TO.
    from featurestore.store.dataset import open_dataset

    # Not `register`: that makes a view which the connection's cursors do not see.
    con.from_arrow(open_dataset(table, snapshot)).create_view(table.name)


def _create_backbone_views(con: duckdb.DuckDBPyConnection, spec: str | None, vectors: Snapshot | None) -> None:
    specs: dict[str, dict[str, int]] = {}
    rows: list[tuple[Any, ...]] = con.execute("SELECT backbone, spec_id, n_features FROM specs").fetchall()
    for backbone, spec_id, n_features in rows:
        specs.setdefault(backbone, {})[spec_id] = n_features
    known = {spec_id for by_spec in specs.values() for spec_id in by_spec}
    if spec is not None and spec not in known:
        message = f"no spec {spec!r} in this store; it has {sorted(known) or 'none: run cxr extract first'}"
        raise UsageError(message)
    for backbone, by_spec in sorted(specs.items()):
        chosen = {spec: by_spec[spec]} if spec in by_spec else by_spec
        if len(chosen) > 1:
            message = (
                f"view {backbone!r} mixes {len(chosen)} specs ({', '.join(sorted(chosen))}); choose one with --spec"
            )
            warnings.warn(message, stacklevel=4)
        mine = vectors.limited(backbone=[backbone], spec_id=chosen) if vectors else None
        if mine and mine.files and len(set(chosen.values())) == 1:
            _create_arrow_backbone_view(con, backbone, mine, next(iter(chosen.values())))
        else:
            _create_backbone_view(con, backbone, chosen)


def _create_arrow_backbone_view(con: duckdb.DuckDBPyConnection, name: str, mine: Snapshot, n_features: int) -> None:
    # Arrow hands vectors of fixed length over as they are; DuckDB's own cast to them copies every one.
    from featurestore.store.dataset import open_dataset

    dataset = open_dataset(TABLES["embeddings"], mine, n_features)
    con.from_arrow(dataset).project(_BACKBONE_COLUMNS).create_view(name)


def _create_backbone_view(con: duckdb.DuckDBPyConnection, backbone: str, specs: dict[str, int]) -> None:
    lengths = set(specs.values())
    vector = f"embedding::FLOAT[{lengths.pop()}] AS embedding" if len(lengths) == 1 else "embedding"
    # Both columns are partitions: the filter skips the files of other backbones unread.
    wanted = f"backbone = {_quoted(backbone)} AND spec_id IN ({', '.join(map(_quoted, specs))})"
    columns = _BACKBONE_COLUMNS.replace("embedding", vector)
    con.execute(f'CREATE VIEW "{backbone}" AS SELECT {columns} FROM embeddings WHERE {wanted}')


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _lock(con: duckdb.DuckDBPyConnection) -> None:
    # The folder for spilling would stay open to reading and COPY ... TO.
    con.execute("SET temp_directory = ''")
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")
