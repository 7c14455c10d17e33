"""What numbers cite and nobody can look at any more: versions of tables that a purge removed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurestore.store.store import Store


def gone(cited: Mapping[str, Any], lowest: Mapping[str, int]) -> list[str]:
    """Return the tables whose cited version was purged.

    Parameters
    ----------
    cited : mapping of str to int or None
        Version by table, as `runs.tables` and `models.tables` hold it; None where the table was not there yet.
    lowest : mapping of str to int
        The oldest version that can be read (`featurestore.store.purge.purged_versions`).
    """
    return [name for name, version in cited.items() if version is not None and version < lowest.get(name, 0)]


def purged_heads(store: Store, dataset: str, split: str, lowest: Mapping[str, int]) -> str:
    """Return a sentence on heads that were fitted on rows which a purge removed; empty where there are none."""
    rows = store.query("SELECT tables FROM models WHERE dataset = ? AND split = ?", [dataset, split]).to_pylist()
    count = sum(bool(gone(json.loads(row["tables"] or "{}"), lowest)) for row in rows)
    if not count:
        return ""
    return (
        f"{count} of {len(rows)} heads cite versions that a purge removed: what they were fitted on, patients who were "
        "forgotten perhaps among it, cannot be read again. Train and evaluate anew for numbers that can be checked."
    )
