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
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction

from featurestore.errors import HarmError
from featurestore.store.engine import open_memory
from featurestore.store.files import StagedFile, discard, now_ms, stage
from featurestore.store.location import Location
from featurestore.store.schema import TableSpec
from featurestore.store.snapshot import DataFile, create_table, files_of

MAX_ATTEMPTS = 200


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
    """

    def __init__(self, location: Location, spec: TableSpec, known: Sequence[str] = ()) -> None:
        self._location = location
        self._spec = spec
        self._known = set(known)

    def commit(self, files: Sequence[StagedFile]) -> int:
        """Commit ``files``, leaving out rows whose key is already in the table.

        A file that is in the table already is left alone: committing it again changes nothing.

        Returns
        -------
        int
            Rows that became visible.

        Raises
        ------
        HarmError
            After `MAX_ATTEMPTS` conflicts; nothing was committed, and the rows are still pending.
        """
        create_table(self._location, self._spec)
        pending = list(files)
        compared = set(self._known)
        landed = 0
        for attempt in range(MAX_ATTEMPTS):
            dt = DeltaTable(self._location.table(self._spec.name))
            pending, there = self._sift(files_of(dt, self._spec), pending, compared)
            # A store that answers late reports a commit as failed that succeeded.
            landed += there if attempt else 0
            if not pending:
                return landed
            self._check_there(pending)
            try:
                self._commit_through(dt, pending)
            except CommitFailedError:
                back_off(attempt)
                continue
            self._known.update(f.path for f in pending)
            return landed + sum(f.rows for f in pending)
        message = (
            f"table {self._spec.name!r}: {MAX_ATTEMPTS} commits in a row lost against other writers; nothing of this "
            "part was written: run the same command again, with fewer writers at a time"
        )
        raise HarmError(message)

    def _commit_through(self, dt: DeltaTable, files: list[StagedFile]) -> None:
        actions: list[AddAction | RemoveAction] = [add_action(file) for file in files]
        app_ids = sorted({"/".join([self._spec.name, *f.partition.values()]) for f in files})
        transactions = [Transaction(app_id, next_version(dt, app_id)) for app_id in app_ids]
        dt.create_write_transaction(
            actions,
            "append",
            self._spec.schema,
            list(self._spec.partition_by),
            commit_properties=CommitProperties(max_commit_retries=MAX_ATTEMPTS, app_transactions=transactions),
        )

    def _check_there(self, files: list[StagedFile]) -> None:
        """Refuse to commit a file this process cannot see: every reader would fail on it."""
        for staged in files:
            path = Path(self._absolute(staged.path))
            if not path.is_file() or path.stat().st_size != staged.size:
                message = (
                    f"{staged.path} of {self._spec.name!r} was written elsewhere and is not whole here; a store that "
                    "several machines write to must lie on a disk they all share"
                )
                raise HarmError(message)

    def _sift(
        self, live: Sequence[DataFile], pending: list[StagedFile], compared: set[str]
    ) -> tuple[list[StagedFile], int]:
        """Return what is to be committed still, without rows of ``live`` files, and the rows that landed before."""
        # A live file must not be compared with itself: all its rows would be found and the file discarded.
        paths = {f.path for f in live}
        there = [f for f in pending if f.path in paths]
        absent = [f for f in pending if f.path not in paths]
        unseen = [f for f in live if f.path not in compared]
        # A repeated attempt has the same rows or fewer, so what was compared once need not be compared again.
        compared.update(paths)
        return self._without(unseen, absent), sum(f.rows for f in there)

    def _without(self, unseen: Sequence[DataFile], pending: list[StagedFile]) -> list[StagedFile]:
        result: list[StagedFile] = []
        for staged in pending:
            others = [self._absolute(f.path) for f in unseen if f.partition == staged.partition]
            result.extend(self._filtered(staged, others) if others else [staged])
        return result

    def _filtered(self, staged: StagedFile, others: list[str]) -> list[StagedFile]:
        keys = [column for column in self._spec.key if column not in self._spec.partition_by]
        fresh = anti_join(self._absolute(staged.path), others, keys)
        if fresh.num_rows == staged.rows:
            return [staged]
        discard(self._location, self._spec, [staged])
        if fresh.num_rows == 0:
            return []
        for column, value in staged.partition.items():
            fresh = fresh.append_column(column, pa.array([value] * fresh.num_rows, pa.string()))
        return stage(self._location, self._spec, fresh.select(self._spec.schema.names))

    def _absolute(self, path: str) -> str:
        return str(Path(self._location.table(self._spec.name)) / path)


def add_action(file: StagedFile) -> AddAction:
    """Return the log entry that makes a staged file part of its table; its only statistic is the number of rows."""
    statistics = json.dumps({"numRecords": file.rows})
    return AddAction(file.path, file.size, file.partition, now_ms(), True, statistics)


def anti_join(path: str, others: list[str], keys: list[str]) -> pa.Table:
    """Return the rows of the Parquet file ``path`` whose ``keys`` stand in none of the files ``others``.

    Null is a value here like any other: two rejects without a spec are the same reject.
    """
    same = " AND ".join(f"o.{key} IS NOT DISTINCT FROM n.{key}" for key in keys)
    with open_memory() as con:
        return con.sql(
            "SELECT n.* FROM read_parquet(?, hive_partitioning=false) n WHERE NOT EXISTS "
            f"(SELECT 1 FROM read_parquet(?, hive_partitioning=false) o WHERE {same})",
            params=[path, others],
        ).to_arrow_table()


def next_version(dt: DeltaTable, app_id: str) -> int:
    """Return the version that the next transaction of ``app_id`` has to carry."""
    version = dt.transaction_version(app_id)
    return 0 if version is None else version + 1


def back_off(attempt: int) -> None:
    """Wait a little, longer after each attempt."""
    # Jitter keeps eight writers that lost together from losing together again.
    time.sleep(random.uniform(0, min(1.0, 0.01 * 2 ** min(attempt, 7))))  # noqa: S311
