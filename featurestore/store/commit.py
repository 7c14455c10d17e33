"""Every row once: the commit protocol (docs/adr/0002).

delta-rs does not refuse a repeated transaction version. Only a commit made *through a stale snapshot, with an app_id
that another commit used since,* conflicts. So a commit is: load the table, look which keys that very snapshot holds
already, and commit through it under an app_id that all writers of these keys share. Whoever loses reloads and looks
again.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction

from featurestore import failpoints
from featurestore.errors import HarmError
from featurestore.store.files import StagedFile, discard, now_ms, stage
from featurestore.store.lease import Lease, writing
from featurestore.store.location import Location
from featurestore.store.schema import TableSpec
from featurestore.store.snapshot import create_table, files_of
from featurestore.store.stored_keys import StoredKeys

MAX_ATTEMPTS = 200
COMMIT_RETRIES = 5
"""What delta-rs tries by itself before this module looks again, at its lease first of all."""


class Committer:
    """Commits staged files to one table so that each key appears once, whoever else is writing.

    One committer serves one driver, whose shards are disjoint. It remembers the files its plan excluded and those it
    wrote itself, so a commit reads nothing unless somebody else committed since the plan.

    Parameters
    ----------
    location : Location
    spec : TableSpec
    known : sequence of str
        Relative paths of files whose keys the caller has already excluded (the snapshot its plan was made from).
    images : pyarrow.Array or ChunkedArray of string, optional
        The image_ids of all rows that will ever be committed through this. What others wrote is then read once, and
        not once a commit; their keys of these images are held in memory.
    """

    def __init__(
        self,
        location: Location,
        spec: TableSpec,
        known: Sequence[str] = (),
        images: pa.Array | pa.ChunkedArray | None = None,
    ) -> None:
        self._location = location
        self._spec = spec
        self._seen = set(known)
        self._others = StoredKeys(location, spec, images)
        self._opened: tuple[Lease, DeltaTable] | None = None

    def commit(self, files: Sequence[StagedFile]) -> int:
        """Commit ``files``, leaving out rows whose key is already in the table.

        A file that is in the table already is left alone: committing it again changes nothing. Without files, the
        table is made where it is absent, and that is all.

        Returns
        -------
        int
            Rows that became visible.

        Raises
        ------
        HarmError
            After `MAX_ATTEMPTS` conflicts; nothing was committed, and the rows are still pending.
        StoppedError
            If the store is closed to writers, or this one was taken for dead.
        """
        if not files and self._opened:
            return 0
        with writing(self._location) as lease:
            return self._commit(files, lease)

    def _commit(self, files: Sequence[StagedFile], lease: Lease) -> int:
        dt = self._open(lease)
        pending, compared, landed = list(files), dict[str, int](), 0
        for attempt in range(MAX_ATTEMPTS):
            there = self._look(dt, {f.path for f in pending})
            # A store that answers late reports a commit as failed that succeeded.
            landed += sum(f.rows for f in pending if f.path in there) if attempt else 0
            pending = [rest for f in pending if f.path not in there for rest in self._without_stored(f, compared)]
            if not pending:
                return landed
            lease.check()
            self._check_there(pending)
            failpoints.reach(f"{self._spec.name}.in-commit")
            try:
                self._commit_through(dt, pending)
            except CommitFailedError:
                back_off(attempt)
                dt.update_incremental()  # what others committed since, not the whole log again
                continue
            failpoints.reach(f"{self._spec.name}.committed")
            self._seen.update(f.path for f in pending)
            return landed + sum(f.rows for f in pending)
        message = (
            f"table {self._spec.name!r}: {MAX_ATTEMPTS} commits in a row lost against other writers; nothing of this "
            "part was written: run the same command again, with fewer writers at a time"
        )
        raise HarmError(message)

    def _open(self, lease: Lease) -> DeltaTable:
        """Return the newest version. Within one lease nobody purges the log, and only its new entries are read.

        Opening a table of 3,000 files for each commit took longer than the commit.
        """
        if self._opened is None or self._opened[0] is not lease:
            self._opened = lease, create_table(self._location, self._spec)
            return self._opened[1]
        lease.check()
        self._opened[1].update_incremental()
        return self._opened[1]

    def _look(self, dt: DeltaTable, pending: set[str]) -> set[str]:
        """Take note of the files that came since the last look; return which of ``pending`` are in the table."""
        there = pending & self._seen
        new = files_of(dt, self._spec, self._seen)
        self._seen.update(f.path for f in new)
        # A live file must not be compared with itself: all its rows would be found and the file discarded.
        self._others.add(f for f in new if f.path not in pending)
        return there | {f.path for f in new if f.path in pending}

    def _without_stored(self, staged: StagedFile, compared: dict[str, int]) -> list[StagedFile]:
        fresh = self._others.unstored(staged, compared)
        if fresh is None:
            return [staged]
        discard(self._location, self._spec, [staged])
        if fresh.num_rows == 0:
            return []
        for column, value in staged.partition.items():
            fresh = fresh.append_column(column, pa.array([value] * fresh.num_rows, pa.string()))
        (rest,) = stage(self._location, self._spec, fresh.select(self._spec.schema.names))
        compared[rest.path] = compared.get(staged.path, 0)
        return [rest]

    def _commit_through(self, dt: DeltaTable, files: list[StagedFile]) -> None:
        actions: list[AddAction | RemoveAction] = [add_action(file) for file in files]
        app_ids = sorted({"/".join([self._spec.name, *f.partition.values()]) for f in files})
        dt.create_write_transaction(
            actions,
            "append",
            self._spec.schema,
            list(self._spec.partition_by),
            commit_properties=commit_properties(dt, app_ids),
        )

    def _check_there(self, files: list[StagedFile]) -> None:
        """Refuse to commit a file this process cannot see: every reader would fail on it."""
        sizes = self._location.sizes([f"{self._spec.name}/{staged.path}" for staged in files])
        for staged, size in zip(files, sizes, strict=True):
            if size != staged.size:
                message = (
                    f"{staged.path} of {self._spec.name!r} was written elsewhere and is not whole here; a store that "
                    "several machines write to must lie on a disk they all share, or on S3"
                )
                raise HarmError(message)


def add_action(file: StagedFile, *, changes_rows: bool = True) -> AddAction:
    """Return the log entry that makes a staged file part of its table; its only statistic is the number of rows."""
    statistics = json.dumps({"numRecords": file.rows})
    return AddAction(file.path, file.size, file.partition, now_ms(), changes_rows, statistics)


def commit_properties(dt: DeltaTable, app_ids: Sequence[str], **said: str) -> CommitProperties:
    """Return what makes a commit through ``dt`` fail if any of ``app_ids`` was used since.

    Their version has to grow, nothing more: this table's does. Looking up each one's own read the log's tail from the
    last checkpoint on, on S3 a request an entry, once for every app_id.

    Parameters
    ----------
    dt : DeltaTable
    app_ids : sequence of str
    **said : str
        Stands beside the operation's name in the log.
    """
    transactions = [Transaction(app_id, dt.version() + 1) for app_id in app_ids]
    return CommitProperties(
        max_commit_retries=COMMIT_RETRIES, app_transactions=transactions, custom_metadata=dict(said) or None
    )


def back_off(attempt: int) -> None:
    """Wait a little, longer after each attempt."""
    # Jitter keeps eight writers that lost together from losing together again.
    time.sleep(random.uniform(0, min(1.0, 0.01 * 2 ** min(attempt, 7))))  # noqa: S311
