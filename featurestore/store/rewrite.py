"""Changing rows that are stored: the files that hold them are written anew and exchanged in one commit."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction

from featurestore.errors import HarmError
from featurestore.store.commit import MAX_ATTEMPTS, add_action, back_off, next_version
from featurestore.store.files import StagedFile, discard, now_ms, stage
from featurestore.store.location import Location
from featurestore.store.schema import TableSpec
from featurestore.store.snapshot import DataFile, files_of, open_table

Change = Callable[[pa.Table], pa.Table | None]
"""Takes one file's rows, in the table's schema, and returns what shall stand there instead; None leaves it as it is."""


def rewrite(location: Location, spec: TableSpec, change: Change) -> int:
    """Apply ``change`` to every file of a table, in one commit.

    No predicate is used, so no value that is changed or removed enters Delta's log.

    Parameters
    ----------
    location : Location
    spec : TableSpec
    change : callable
        Called with the rows of one file at a time; called again where another writer was faster.

    Returns
    -------
    int
        Files exchanged.

    Raises
    ------
    HarmError
        After `MAX_ATTEMPTS` conflicts; nothing was changed.
    """
    for attempt in range(MAX_ATTEMPTS):
        dt = open_table(location, spec)
        if dt is None:
            return 0
        exchanged = [
            (old, new)
            for old in files_of(dt, spec)
            for new in [_changed(location, spec, old, change)]
            if new is not None
        ]
        if not exchanged:
            return 0
        try:
            _exchange(dt, spec, exchanged)
        except CommitFailedError:
            discard(location, spec, [file for _, new in exchanged for file in new])
            back_off(attempt)
            continue
        return len(exchanged)
    message = f"table {spec.name!r}: {MAX_ATTEMPTS} rewrites in a row lost against other writers; nothing was changed"
    raise HarmError(message)


def _changed(location: Location, spec: TableSpec, old: DataFile, change: Change) -> list[StagedFile] | None:
    rows = pq.ParquetFile(f"{location.table(spec.name)}/{old.path}").read()
    for column, value in old.partition.items():
        rows = rows.append_column(column, pa.repeat(value, rows.num_rows))
    changed = change(rows.select(spec.schema.names).cast(spec.schema))
    return None if changed is None else stage(location, spec, changed)


def _exchange(dt: DeltaTable, spec: TableSpec, exchanged: list[tuple[DataFile, list[StagedFile]]]) -> None:
    actions: list[AddAction | RemoveAction] = []
    for old, new in exchanged:
        actions.append(RemoveAction(old.path, True, now_ms(), old.size, dict(old.partition)))
        actions += [add_action(file) for file in new]
    app_ids = sorted({"/".join([spec.name, *old.partition.values()]) for old, _ in exchanged})
    dt.create_write_transaction(
        actions,
        "append",
        spec.schema,
        list(spec.partition_by),
        commit_properties=CommitProperties(
            max_commit_retries=MAX_ATTEMPTS,
            app_transactions=[Transaction(app_id, next_version(dt, app_id)) for app_id in app_ids],
        ),
    )
