"""Changing rows that are stored: the files that hold them are written anew and exchanged in one commit.

delta-rs takes no offence at two exchanges of one file, where the first changed no row (tried, 1.6.6: a merge, then a
delete through an older snapshot, brings every row twice). So all exchanges of a table share an app_id, and who comes
second begins anew. Appends have their own: a merge neither waits for them nor is undone by them.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction

from featurestore import failpoints
from featurestore.errors import HarmError
from featurestore.store.checksums import read_whole
from featurestore.store.commit import MAX_ATTEMPTS, add_action, back_off, commit_properties
from featurestore.store.files import StagedFile, discard, now_ms, stage
from featurestore.store.lease import writing
from featurestore.store.location import Location
from featurestore.store.schema import TableSpec
from featurestore.store.snapshot import DataFile, files_of, open_table

_MARK = "exchange"

Change = Callable[[pa.Table], pa.Table | None]
"""Takes one file's rows, in the table's schema, and returns what shall stand there instead; None leaves it as it is."""


@dataclass(frozen=True)
class Exchange:
    """Files that go, and those that come for them.

    Parameters
    ----------
    old : tuple of DataFile
    new : tuple of StagedFile
    """

    old: tuple[DataFile, ...]
    new: tuple[StagedFile, ...]

    @property
    def rows_removed(self) -> int:
        """Return how many rows fewer there are."""
        return sum(f.rows for f in self.old) - sum(f.rows for f in self.new)


Plan = Callable[[tuple[DataFile, ...]], list[Exchange]]
"""Takes a table's live files, writes the new ones and says what shall be exchanged; an empty list is nothing."""


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

    def plan(files: tuple[DataFile, ...]) -> list[Exchange]:
        changed = [(old, change(read_rows(location, spec, old))) for old in files]
        return [Exchange((old,), stage_rows(location, spec, rows)) for old, rows in changed if rows is not None]

    return len(exchange(location, spec, plan, changes_rows=True))


def exchange(location: Location, spec: TableSpec, plan: Plan, *, changes_rows: bool) -> list[Exchange]:
    """Exchange files of a table in one commit, planned again on the newest version as often as another was faster.

    Parameters
    ----------
    location : Location
    spec : TableSpec
    plan : callable
    changes_rows : bool
        False where the new files hold just the rows of the old ones: appends go on meanwhile, unhindered.

    Returns
    -------
    list of Exchange
        What was done.

    Raises
    ------
    HarmError
        After `MAX_ATTEMPTS` conflicts, or if a file that was to be exchanged is damaged; nothing was changed.
    """
    with writing(location) as lease:
        for attempt in range(MAX_ATTEMPTS):
            dt = open_table(location, spec)
            exchanges = [] if dt is None else plan(files_of(dt, spec))
            if dt is None or not exchanges:
                return []
            lease.check()
            failpoints.reach(f"{spec.name}.in-exchange")
            mark = uuid.uuid4().hex
            try:
                _commit(dt, spec, exchanges, changes_rows, mark)
            except CommitFailedError:
                # A store that answers late reports a commit as failed that succeeded: its files are live.
                if not _landed(location, spec, dt.version(), mark):
                    discard(location, spec, [file for done in exchanges for file in done.new])
                    back_off(attempt)
                    continue
            failpoints.reach(f"{spec.name}.exchanged")
            return exchanges
    message = f"table {spec.name!r}: {MAX_ATTEMPTS} rewrites in a row lost against other writers; nothing was changed"
    raise HarmError(message)


def read_rows(location: Location, spec: TableSpec, file: DataFile) -> pa.Table:
    """Return a live file's rows in the table's schema, partition columns included.

    Raises
    ------
    HarmError
        If the file is not what was committed: what is written from it would look whole.
    """
    rows = pq.read_table(pa.BufferReader(read_whole(location, spec.name, file)), partitioning=None)
    for column, value in file.partition.items():
        rows = rows.append_column(column, pa.repeat(value, rows.num_rows))
    return rows.select(spec.schema.names).cast(spec.schema)


def stage_rows(location: Location, spec: TableSpec, rows: pa.Table) -> tuple[StagedFile, ...]:
    """Write rows as `stage` does; no file where there are none."""
    return tuple(stage(location, spec, rows)) if rows.num_rows else ()


def _landed(location: Location, spec: TableSpec, version: int, mark: str) -> bool:
    """Return whether any commit after ``version`` has our mark."""
    dt = open_table(location, spec)
    since = dt.history(dt.version() - version) if dt and dt.version() > version else []
    return any(commit.get(_MARK) == mark for commit in since)


def _commit(dt: DeltaTable, spec: TableSpec, exchanges: Sequence[Exchange], changes_rows: bool, mark: str) -> None:
    actions: list[AddAction | RemoveAction] = []
    for done in exchanges:
        actions += [RemoveAction(f.path, changes_rows, now_ms(), f.size, dict(f.partition)) for f in done.old]
        actions += [add_action(file, changes_rows=changes_rows) for file in done.new]
    dt.create_write_transaction(
        actions,
        "append",
        spec.schema,
        list(spec.partition_by),
        commit_properties=commit_properties(dt, _app_ids(spec, exchanges, changes_rows), **{_MARK: mark}),
    )


def _app_ids(spec: TableSpec, exchanges: Sequence[Exchange], changes_rows: bool) -> list[str]:
    exchanged = f"{spec.name}#exchanged"
    if not changes_rows:
        return [exchanged]
    # An append compared its keys with rows that go: it has to look again.
    appended = {"/".join([spec.name, *old.partition.values()]) for done in exchanges for old in done.old}
    return [exchanged, *sorted(appended)]
