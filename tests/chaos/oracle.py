"""What a store holds, read from Delta's log and the Parquet files alone: neither `Store` nor deltalake is asked.

The code under test cannot vouch for itself, so nothing of it is imported here. Keys are compared one by one: a lost and
a duplicated row would leave every count as it was.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow.parquet as pq

KEYS = {
    "embeddings": ("image_id", "spec_id"),
    "scores": ("image_id", "spec_id", "label"),
    "specs": ("spec_id",),
    "weights": ("name", "backbone", "sha256"),
    "images": ("image_id",),
    "labels": ("image_id", "label"),
    "rejects": ("dataset", "uri", "source_key", "image_id", "stage", "reason", "spec_id"),
    "runs": ("run_id",),
}
"""What identifies a row; each may appear once."""
VALUES = {"embeddings": "embedding", "scores": "probability"}
"""What is compared with the undisturbed run."""
TOLERANCE = 1e-5

Key = tuple[str, ...]


@dataclass
class Verdict:
    """What is wrong with a store; each entry is (table, key...).

    Parameters
    ----------
    lost, duplicated, wrong : list of tuple
        Expected and absent; there more than once (each surplus row); unexpected, or another value.
    orphans : list of str
        Parquet files that the log does not name: harmless, invisible.
    """

    lost: list[Key] = field(default_factory=list)
    duplicated: list[Key] = field(default_factory=list)
    wrong: list[Key] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Return whether nothing is lost, duplicated or wrong."""
        return not (self.lost or self.duplicated or self.wrong)


def judge(store: Path, reference: Path, without: Collection[str] = ()) -> Verdict:
    """Compare a store with one that an undisturbed run has filled, of which the images ``without`` are to be gone."""
    verdict = Verdict()
    for table, key in KEYS.items():
        found = [(row_key(row, key), row) for row in rows(store / table)]
        counts = Counter(name for name, _ in found)
        verdict.duplicated += [(table, *name) for name, n in counts.items() for _ in range(n - 1)]
        verdict.orphans += orphans(store / table)
        if table == "runs":  # every run has a row of its own
            continue
        there = (row for row in rows(reference / table) if row.get("image_id") not in without)
        expected = {row_key(row, key): row for row in there}
        verdict.lost += [(table, *name) for name in expected if name not in counts]
        verdict.wrong += [(table, *name) for name, row in found if not _equal(table, row, expected.get(name))]
    return verdict


def pending(store: Path, reference: Path) -> int:
    """Return how many of the reference's pairs of image and spec a store lacks."""
    return len(keys(reference, "embeddings") - keys(store, "embeddings"))


def keys(store: Path, table: str) -> set[Key]:
    """Return the distinct keys of a table's live rows."""
    return {row_key(row, KEYS[table]) for row in rows(store / table)}


def row_key(row: dict[str, Any], columns: tuple[str, ...]) -> Key:
    """Return what identifies a row."""
    return tuple(str(row[column]) for column in columns)


def _equal(table: str, row: dict[str, Any], expected: dict[str, Any] | None) -> bool:
    if expected is None:
        return False
    column = VALUES.get(table)
    return column is None or relative_difference(row[column], expected[column]) <= TOLERANCE


def relative_difference(mine: Any, reference: Any) -> float:
    """Return the largest difference over the largest value; infinite where the lengths differ, NaN for a NaN."""
    a, b = np.atleast_1d(np.asarray(mine, np.float64)), np.atleast_1d(np.asarray(reference, np.float64))
    return float(np.abs(a - b).max() / np.abs(b).max()) if a.shape == b.shape else float("inf")


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the live rows of a table, partition values included; none where the table is absent."""
    for path, partition in live_files(folder).items():
        # A file that the log names and nobody can read: what should be in it is lost.
        if (folder / path).is_file():
            for row in pq.ParquetFile(folder / path).read().to_pylist():
                yield row | partition


def orphans(folder: Path) -> list[str]:
    """Return the Parquet files under a table's folder that its log does not name as live."""
    found = {str(p.relative_to(folder)) for p in folder.rglob("*.parquet") if "_delta_log" not in p.parts}
    return sorted(f"{folder.name}/{path}" for path in found - live_files(folder).keys())


def live_files(folder: Path) -> dict[str, dict[str, str]]:
    """Return {relative path: partition values} of a table's newest version: what was added and not removed."""
    log = folder / "_delta_log"
    version, live = _from_checkpoint(log)
    for commit in sorted(log.glob("*.json")):
        if int(commit.stem) <= version:
            continue
        version += 1
        if int(commit.stem) != version:
            message = f"{log}: version {version} is missing before {commit.name}; the log has a hole"
            raise ValueError(message)
        for line in commit.read_text().splitlines():
            _apply(json.loads(line), live)
    return live


def _from_checkpoint(log: Path) -> tuple[int, dict[str, dict[str, str]]]:
    """Return the newest checkpoint's version and files; -1 and none where there is none."""
    names = sorted(path for path in log.glob("*.parquet"))
    if not names:
        return -1, {}
    if not names[-1].name.endswith(".checkpoint.parquet") or names[-1].name.count(".") != 2:
        message = f"{names[-1].name}: expected a checkpoint in one part; the oracle reads no other"
        raise ValueError(message)
    adds = pq.ParquetFile(names[-1]).read(["add"])["add"].to_pylist()
    live = {unquote(add["path"]): dict(add["partitionValues"]) for add in adds if add}
    return int(names[-1].name.partition(".")[0]), live


def _apply(action: dict[str, Any], live: dict[str, dict[str, str]]) -> None:
    if "add" in action:
        live[unquote(action["add"]["path"])] = dict(action["add"]["partitionValues"])
    elif "remove" in action:
        live.pop(unquote(action["remove"]["path"]), None)
