"""Who was forgotten, as salted hashes: enough to turn them away at the door, and no list of names."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import pyarrow as pa

from featurestore.store.schema import TABLES
from featurestore.store.store import Store

Kind = Literal["image", "source", "patient"]
"""What was hashed: an image_id, a source key, a patient's id."""


@dataclass(frozen=True)
class Tombstones:
    """The forgotten of one data set.

    Parameters
    ----------
    salts : frozenset of str
    hashes : frozenset of (str, str)
        Kind and hash.
    """

    salts: frozenset[str] = frozenset()
    hashes: frozenset[tuple[str, str]] = field(default=frozenset(), repr=False)

    @classmethod
    def of(cls, store: Store, dataset: str) -> Tombstones:
        """Read a data set's tombstones."""
        rows = store.query("SELECT kind, salt, hash FROM tombstones WHERE dataset = ?", [dataset]).to_pylist()
        return cls(frozenset(r["salt"] for r in rows), frozenset((r["kind"], r["hash"]) for r in rows))

    def hold(self, kind: Kind, value: str | None) -> bool:
        """Return whether ``value`` was forgotten."""
        return value is not None and any((kind, salted(salt, value)) in self.hashes for salt in self.salts)


def salted(salt: str, value: str) -> str:
    """Return the hex SHA-256 of salt and value."""
    return hashlib.sha256((salt + value).encode()).hexdigest()


def bury(store: Store, dataset: str, values: Iterable[tuple[Kind, str]]) -> None:
    """Write tombstones; those that stand stay."""
    there = Tombstones.of(store, dataset)
    # One salt a data set: with one a row, each image that comes in would be hashed once for every tombstone.
    salt = min(there.salts, default=secrets.token_hex(16))
    new = sorted({(kind, salted(salt, value)) for kind, value in values} - there.hashes)
    if new:
        now = datetime.now(UTC).replace(tzinfo=None)
        rows = [{"dataset": dataset, "kind": k, "salt": salt, "hash": h, "created_at": now} for k, h in new]
        store.append("tombstones", pa.Table.from_pylist(rows, TABLES["tombstones"].schema))
