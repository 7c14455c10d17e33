"""The job that merges small files, and on request removes old versions for good."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass

from featurestore import failpoints
from featurestore.store import Store
from featurestore.store.compaction import TARGET_BYTES
from featurestore.store.compaction import compact as merge_files
from featurestore.store.lease import alone
from featurestore.store.purge import Purged, tables_to_purge
from featurestore.store.purge import purge as remove_versions
from featurestore.store.schema import TABLES
from jobs.runlog import record_run


@dataclass(frozen=True)
class CompactSummary:
    """What a compaction did.

    Parameters
    ----------
    files_before, files_after : int
        Live files of all tables.
    versions_removed : int
        Versions that can no longer be read; 0 without a purge.
    files_removed : int
        Files of old versions, and litter of writers that died; 0 without a purge.
    """

    files_before: int
    files_after: int
    versions_removed: int
    files_removed: int


def compact(store: Store, *, purge: bool = False, target_bytes: int = TARGET_BYTES) -> CompactSummary:
    """Merge small files while others read and append; with ``purge``, also remove what the newest versions do not need.

    With ``purge``, tables in which nothing is dead are not merged either: a merge would make their files dead, and the
    results that cite their versions would have nothing to cite.

    Raises
    ------
    featurestore.errors.StoppedError
        With ``purge``, if anybody writes now; nothing was done.
    featurestore.errors.HarmError
        If something that had to go is still there, or if a file is damaged.
    """
    # Alone from the beginning: a purge that is refused should be refused before the work of merging.
    by_ourselves = alone(store.location, "cxr compact --purge") if purge else nullcontext()
    arguments = {"purge": purge, "target_bytes": target_bytes}
    with by_ourselves, record_run(store, "compact", None, arguments) as run:
        merged = merge_files(store.location, target_bytes, tables_to_purge(store.location) if purge else tuple(TABLES))
        failpoints.reach("compact.merged")
        purged = remove_versions(store) if purge else Purged(0, 0)
        run.counts = {**asdict(merged), "versions_removed": purged.versions, "files_removed": purged.files}
    return CompactSummary(**run.counts)
