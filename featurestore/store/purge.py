"""Making old versions go, with everything that was forgotten in them (docs/adr/0007)."""

from __future__ import annotations

from dataclasses import dataclass

from deltalake import DeltaTable
from deltalake.transaction import PostCommitHookProperties

from featurestore import failpoints
from featurestore.errors import HarmError
from featurestore.store.lease import Lease, alone
from featurestore.store.location import Location
from featurestore.store.orphans import LOG, dead_files, log_litter, lowest_version
from featurestore.store.schema import TABLES, TableSpec
from featurestore.store.snapshot import Snapshot, open_table, read_snapshot
from featurestore.store.store import Store

_RETENTION = "delta.logRetentionDuration"
_NONE, _DEFAULT = "interval 0 seconds", "interval 30 days"
# The automatic checkpoint, every hundred commits, would clean the log up at a version that is not ours to choose.
_NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


@dataclass(frozen=True)
class Purged:
    """What a purge removed.

    Parameters
    ----------
    versions : int
        Versions of all tables that can no longer be read.
    files : int
        Parquet files of old versions, and litter of writers that died.
    """

    versions: int
    files: int


def purge(store: Store) -> Purged:
    """Remove every file that the newest version of a table does not need, and every older version from its log.

    A table without such files is left alone, so that results can go on citing its versions. The newest version of
    each table stays readable under its number.

    Raises
    ------
    StoppedError
        If there is any writer now; files that wait for their commit would be lost.
    HarmError
        If something that had to go is still there, or if a file that has to stay is not: that table is left alone.
    """
    with alone(store.location, "cxr compact --purge") as lease:
        purged = [_purge_table(store.location, spec, lease) for spec in TABLES.values()]
    return Purged(sum(p.versions for p in purged), sum(p.files for p in purged))


def tables_to_purge(location: Location) -> list[str]:
    """Return the tables with files that their newest version does not need: a purge leaves the others alone."""
    opened = [(spec, open_table(location, spec)) for spec in TABLES.values()]
    return [spec.name for spec, dt in opened if dt is not None and _anything_to_do(location, spec, dt)]


def purged_versions(store: Store) -> dict[str, int]:
    """Return the lowest version of each table that can still be read.

    A result that cites an older one (`runs.tables`, `models.tables`) cites rows that nobody can look at again.
    """
    found = {name: lowest_version(store.location, name) for name in TABLES}
    return {name: version for name, version in found.items() if version is not None}


def _purge_table(location: Location, spec: TableSpec, lease: Lease) -> Purged:
    dt = open_table(location, spec)
    lowest = lowest_version(location, spec.name)
    if dt is None or lowest is None or not _anything_to_do(location, spec, dt):
        return Purged(0, 0)
    lease.check()
    snapshot = read_snapshot(location, spec)
    _check_live(snapshot)
    dead = len(dead_files(snapshot))
    version = dt.version()
    dt.create_checkpoint()
    failpoints.reach(f"{spec.name}.purge-checkpointed")
    _clean_log(dt, spec.name)
    failpoints.reach(f"{spec.name}.purge-log-cleaned")
    # Taken for dead meanwhile, others may have committed: looked at and opened at the last moment.
    lease.check()
    dt = _reopened(location, spec)
    dt.vacuum(
        0, dry_run=False, enforce_retention_duration=False, full=True, post_commithook_properties=_NO_HOOKS
    )  # fmt: skip
    failpoints.reach(f"{spec.name}.purge-vacuumed")
    _sweep(location, spec, lease)
    _check_gone(location, spec, version)
    return Purged(version - lowest, dead)


def _check_live(snapshot: Snapshot) -> None:
    """Refuse to cut the history of a table that is not whole: older versions may be what it can be mended from."""
    there = snapshot.location.list_files(snapshot.table)
    if missing := [file.path for file in snapshot.files if there.get(file.path) != file.size]:
        message = (
            f"table {snapshot.table!r} was not purged: {len(missing)} of its {len(snapshot.files)} files are gone or "
            f"have another size, the first of them {missing[0]}; put them back from a backup, or give up their rows "
            "as docs/adr/0002 says, then run cxr compact --purge again; cxr verify lists them"
        )
        raise HarmError(message)


def _anything_to_do(location: Location, spec: TableSpec, dt: DeltaTable) -> bool:
    if dt.metadata().configuration.get(_RETENTION) == _NONE:  # an earlier purge was killed half-way
        return True
    return bool(dead_files(read_snapshot(location, spec)) or log_litter(location, spec.name))


def _clean_log(dt: DeltaTable, table: str) -> None:
    """Remove the log before the newest checkpoint; the retention is put back whatever happens."""
    before = dt.metadata().configuration.get(_RETENTION, _DEFAULT)
    _keep_log(dt, _NONE)
    failpoints.reach(f"{table}.purge-retention-off")
    try:
        dt.cleanup_metadata()
    finally:
        _keep_log(dt, _DEFAULT if before == _NONE else before)


def _keep_log(dt: DeltaTable, duration: str) -> None:
    dt.alter.set_table_properties({_RETENTION: duration}, post_commithook_properties=_NO_HOOKS)
    dt.update_incremental()


def _reopened(location: Location, spec: TableSpec) -> DeltaTable:
    return DeltaTable(location.delta(spec.name), storage_options=location.storage_options())


def _sweep(location: Location, spec: TableSpec, lease: Lease) -> None:
    """Remove what vacuum leaves: files whose names start with a dot or an underscore, and unfinished commits."""
    for path in [*dead_files(read_snapshot(location, spec)), *log_litter(location, spec.name)]:
        lease.check()
        location.remove(f"{spec.name}/{path}")


def _check_gone(location: Location, spec: TableSpec, version: int) -> None:
    lowest = lowest_version(location, spec.name)
    left = dead_files(read_snapshot(location, spec))
    numbers = [int(name[:20]) for name in location.list_files(f"{spec.name}/{LOG}") if name[:20].isdigit()]
    if lowest != version or left or min(numbers) < version:
        message = (
            f"table {spec.name!r}: after the purge, versions from {min(numbers)} on and {len(left)} files that should "
            "be gone are still there; if this machine's clock is behind the store's, set it, then run cxr compact "
            "--purge again"
        )
        raise HarmError(message)
