"""Files in a table's folder that no version names: left by a worker or a writer that died before its commit."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

from featurestore.store.files import read_parquet
from featurestore.store.location import Location
from featurestore.store.snapshot import Snapshot

LOG = "_delta_log"
_VERSION = re.compile(r"(?P<version>\d{20})\.(?P<kind>json|checkpoint.*\.parquet)")


def dead_files(snapshot: Snapshot) -> set[str]:
    """Return the files in a table's folder, its log apart, that the snapshot does not use.

    Paths are relative to the table's folder.
    """
    live = {file.path for file in snapshot.files}
    there = snapshot.location.list_files(snapshot.table)
    return {path for path in there if path not in live and not path.startswith(f"{LOG}/")}


def orphans(snapshot: Snapshot) -> list[str]:
    """Return the dead files that no version named either, sorted.

    A job that runs right now has files that wait for their commit; they are among them.
    """
    dead = dead_files(snapshot)
    # With nothing dead there is no need to read a log of thousands of commits.
    return sorted(dead - _named(snapshot.location, snapshot.table)) if dead else []


def lowest_version(location: Location, table: str) -> int | None:
    """Return the oldest version of a table that can still be read; None where it was never written."""
    found = [_VERSION.fullmatch(name) for name in location.list_files(f"{table}/{LOG}")]
    matches = [match for match in found if match]
    checkpoints = [int(m["version"]) for m in matches if m["kind"] != "json"]
    if any(int(m["version"]) == 0 for m in matches):
        return 0
    return min(checkpoints, default=None)


def log_litter(location: Location, table: str) -> list[str]:
    """Return what lies in a table's log without being of it: commits that were never finished."""
    names = location.list_files(f"{table}/{LOG}")
    return [f"{LOG}/{name}" for name in names if not _VERSION.fullmatch(name) and name != "_last_checkpoint"]


def _named(location: Location, table: str) -> set[str]:
    """Return every file that any kept commit or checkpoint adds or removes."""
    paths: set[str] = set()
    for name in location.list_files(f"{table}/{LOG}"):
        match = _VERSION.fullmatch(name)
        if match:
            actions = _commit if match["kind"] == "json" else _checkpoint
            paths |= {unquote(a["path"]) for a in actions(location, f"{table}/{LOG}/{name}")}
    return paths


def _commit(location: Location, path: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in location.read_bytes(path).decode().splitlines()]
    return [line[kind] for line in lines for kind in ("add", "remove") if kind in line]


def _checkpoint(location: Location, path: str) -> list[dict[str, Any]]:
    rows = read_parquet(location, path, ["add.path", "remove.path"]).to_pylist()
    return [row[kind] for row in rows for kind in ("add", "remove") if row[kind] and row[kind]["path"]]
