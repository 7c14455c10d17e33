"""The job that looks whether the store is whole: files, keys, and some vectors computed again. It changes nothing."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

from featurestore.backbones.weights_checksum import damaged_weights
from featurestore.errors import StoppedError
from featurestore.extraction.verify import Recomputed, StoredVector, recompute
from featurestore.store import Store
from featurestore.store.catalogue import open_catalogue
from featurestore.store.checksums import DamagedFile, checksum_in, damage
from featurestore.store.orphans import lowest_version, orphans
from featurestore.store.schema import TABLES
from featurestore.store.snapshot import Snapshot
from jobs.progress import progress
from jobs.workers import Workers

_READERS = 8
"""Files read at once: hashing leaves Python's lock alone, and a bucket answers slowly, but many at a time."""


@dataclass(frozen=True)
class TableState:
    """One table.

    Parameters
    ----------
    rows, distinct_keys : int
        In the files that are whole.
    checksum_errors : int
        Live files that are gone or not what was committed.
    unchecked : int
        Live files from before names held a checksum; only their size was compared.
    orphans : int
        Files that no version names.
    """

    rows: int
    distinct_keys: int
    checksum_errors: int
    unchecked: int
    orphans: int


@dataclass
class Verification:
    """What was found.

    Parameters
    ----------
    tables : dict of str to TableState
    seed : int
        Decided which vectors were computed again.
    recomputed, mismatched : int
        Vectors.
    without_image, without_spec : int
        Vectors whose row in `images` or `specs` is gone: nobody can say what they are of, nor compute them again.
    largest_difference : float
        Of a vector computed again, relative to its largest value.
    damaged, orphan_files, mismatches, notes : list of str
        For a person: files of tables and of weights, vectors, and what could not be computed again.
    """

    tables: dict[str, TableState] = field(default_factory=dict)
    seed: int = 0
    recomputed: int = 0
    mismatched: int = 0
    without_image: int = 0
    without_spec: int = 0
    largest_difference: float = 0.0
    damaged: list[str] = field(default_factory=list)
    orphan_files: list[str] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def harm(self) -> bool:
        """Return whether anything is damaged, double, different or without what it was made from."""
        double = any(state.rows != state.distinct_keys for state in self.tables.values())
        return bool(double or self.damaged or self.mismatched or self.without_image or self.without_spec)

    def document(self) -> dict[str, Any]:
        """Return it for JSON: ``rows`` and ``distinct_keys`` of the vectors, each table's under ``tables``."""
        vectors = self.tables["embeddings"]
        return {
            "rows": vectors.rows,
            "distinct_keys": vectors.distinct_keys,
            "checksum_errors": len(self.damaged),
            "recomputed": self.recomputed,
            "mismatched": self.mismatched,
            "orphans": len(self.orphan_files),
            "without_image": self.without_image,
            "without_spec": self.without_spec,
            "seed": self.seed,
            "largest_difference": self.largest_difference,
            "tables": {name: vars(state) for name, state in self.tables.items()},
            "damaged": self.damaged,
            "orphan_files": self.orphan_files,
            "mismatches": self.mismatches,
            "notes": self.notes,
        }


def verify(
    store: Store, workers: Workers, *, sample: int, seed: int | None = None, weights: str | None = None
) -> Verification:
    """Read every live file, count keys, and compute a sample of the vectors again.

    Parameters
    ----------
    store : Store
    workers : Workers
        Compute vectors; not started where ``sample`` is 0.
    sample : int
        How many vectors, taken at random over all specs.
    seed : int, optional
        Decides which; drawn where absent, so that one run after the other looks at others.
    weights : str, optional
        Path of weights that were given by path; those with a name are found by it.

    Raises
    ------
    featurestore.errors.StoppedError
        If a purge took files of the version being read.
    """
    found = Verification(seed=secrets.randbelow(1 << 31) if seed is None else seed)
    # All at one moment: a job that appends meanwhile changes nothing here. TABLES has `images` first, so that none of
    # the vectors read later can have lost its image to a request to forget.
    snapshots = {name: store.snapshot(name) for name in TABLES}
    whole = {name: _look_at_files(snapshot, found) for name, snapshot in snapshots.items()}
    bad_weights = _look_at_weights(store, whole["weights"], found)
    for name, snapshot in whole.items():
        found.tables[name] = _state(snapshots[name], snapshot, found)
    _look_for_strays(store, whole, found)
    for spec, vectors in _sample(whole, sample, found.seed):
        if spec["weights_sha256"] in bad_weights:
            found.notes.append(f"{len(vectors)} vectors of {spec['spec_id']} not computed again: see its weights")
        else:
            _add(found, workers.call(recompute, spec, vectors, weights, store.location.root))
    return found


def _look_at_files(snapshot: Snapshot, found: Verification) -> Snapshot:
    """Return the snapshot without its damaged files."""
    damaged: dict[str, DamagedFile] = {}
    with (
        progress(f"verify {snapshot.table}", len(snapshot.files), "files") as bar,
        ThreadPoolExecutor(_READERS, "verify") as pool,
    ):
        for file, problem in zip(snapshot.files, pool.map(partial(damage, snapshot), snapshot.files), strict=True):
            if problem:
                damaged[file.path] = problem
            bar.update(1)
    _check_not_purged(snapshot, damaged)
    found.damaged += [f"{problem.path}: {problem.problem}" for problem in damaged.values()]
    return replace(snapshot, files=tuple(f for f in snapshot.files if f.path not in damaged))


def _check_not_purged(snapshot: Snapshot, damaged: dict[str, DamagedFile]) -> None:
    """Tell files that are gone from files that a purge took, with the version being read."""
    gone = any(snapshot.location.size(problem.path) is None for problem in damaged.values())
    if gone and (lowest_version(snapshot.location, snapshot.table) or 0) > (snapshot.version or 0):
        message = f"table {snapshot.table!r} was purged while it was being verified; run cxr verify again"
        raise StoppedError(message)


def _look_at_weights(store: Store, rows: Snapshot, found: Verification) -> set[str]:
    """Return the SHA-256 of registered weights that are gone, or no longer what they were."""
    sql = "SELECT DISTINCT sha256 FROM weights WHERE remembered IS NULL"
    with open_catalogue({"weights": rows}, backbones=False) as con:
        registered = [sha256 for (sha256,) in con.execute(sql).fetchall()]
    damaged = damaged_weights(store.location, registered)
    found.damaged += [f"{problem.path}: {problem.problem}" for problem in damaged]
    return {PurePosixPath(problem.path).stem for problem in damaged}


def _state(snapshot: Snapshot, whole: Snapshot, found: Verification) -> TableState:
    left = orphans(snapshot)
    found.orphan_files += [f"{snapshot.table}/{path}" for path in left]
    rows, distinct = _count_keys(whole)
    unchecked = sum(checksum_in(file.path) is None for file in whole.files)
    return TableState(rows, distinct, len(snapshot.files) - len(whole.files), unchecked, len(left))


def _count_keys(snapshot: Snapshot) -> tuple[int, int]:
    keys = ", ".join(TABLES[snapshot.table].key)
    sql = f'SELECT coalesce(sum(n), 0), count(*) FROM (SELECT count(*) AS n FROM "{snapshot.table}" GROUP BY {keys})'
    with open_catalogue({snapshot.table: snapshot}, backbones=False) as con:
        ((rows, distinct),) = con.execute(sql).fetchall()
    return int(rows), int(distinct)


_STRAYS = """
SELECT count(*) FILTER (NOT EXISTS (SELECT 1 FROM images i WHERE i.image_id = e.image_id)),
       count(*) FILTER (NOT EXISTS (SELECT 1 FROM specs s WHERE s.spec_id = e.spec_id))
FROM embeddings e
"""


def _look_for_strays(store: Store, whole: dict[str, Snapshot], found: Verification) -> None:
    """Count vectors whose image or spec is gone."""
    found.without_image, found.without_spec = _count_strays(whole)
    if found.damaged or not (found.without_image or found.without_spec):
        return
    # An ingest and its extraction may have come between the reading of one table's log and of another's.
    newest = {name: store.snapshot(name) for name in ("images", "specs")}
    images, specs = _count_strays(whole | newest)
    found.without_image, found.without_spec = min(images, found.without_image), min(specs, found.without_spec)


def _count_strays(whole: dict[str, Snapshot]) -> tuple[int, int]:
    tables = {name: whole[name] for name in ("images", "embeddings", "specs")}
    with open_catalogue(tables, backbones=False) as con:
        ((images, specs),) = con.execute(_STRAYS).fetchall()
    return int(images), int(specs)


# Sorted by a hash over seed and key: a sample that the same seed gives again, and no list of all pairs in memory. Of
# what `_look_for_strays` counts nothing can be computed.
_SAMPLE = """
WITH chosen AS (
    SELECT image_id, spec_id, runtime, embedding FROM embeddings
    JOIN (SELECT image_id AS i, spec_id AS s FROM embeddings
          WHERE image_id IN (SELECT image_id FROM images) AND spec_id IN (SELECT spec_id FROM specs)
          ORDER BY md5(concat_ws('/', ?, spec_id, image_id)) LIMIT ?)
    ON image_id = i AND spec_id = s
)
SELECT c.*, uri, file_hash FROM chosen c JOIN images USING (image_id) ORDER BY spec_id, image_id
"""


def _sample(whole: dict[str, Snapshot], sample: int, seed: int) -> Iterator[tuple[dict[str, Any], list[StoredVector]]]:
    """Yield some vectors by spec, with the row of `specs` that says how they were made."""
    if not sample:
        return
    tables = {name: whole[name] for name in ("images", "embeddings", "specs")}
    with open_catalogue(tables, backbones=False) as con:
        rows = con.sql(_SAMPLE, params=[str(seed), sample]).to_arrow_table().to_pylist()
        specs = {row["spec_id"]: row for row in con.sql("SELECT * FROM specs").to_arrow_table().to_pylist()}
    for spec_id, group in groupby(rows, lambda row: row["spec_id"]):
        yield specs[spec_id], [_vector(row) for row in group]


def _vector(row: dict[str, Any]) -> StoredVector:
    return StoredVector(row["image_id"], row["uri"], row["file_hash"], row["runtime"], tuple(row["embedding"]))


def _add(found: Verification, again: Recomputed) -> None:
    found.recomputed += again.compared
    found.mismatched += len(again.mismatches)
    found.mismatches += again.mismatches
    found.notes += again.notes
    found.damaged += again.damaged
    found.largest_difference = max(found.largest_difference, again.largest)
