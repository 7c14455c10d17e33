"""Which images and people weights were trained on, as hashes in a file beside the weights (docs/adr/0011).

Pixel hashes are compared as they are; a person is known to whoever has the salt and the id only.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from featurestore.store.files import read_parquet
from featurestore.store.location import Location
from featurestore.store.tombstones import salted

FOLDER = "_weights"
SUFFIX = ".sources.parquet"
_SCHEMA = pa.schema([(name, pa.string()) for name in ("kind", "salt", "hash")])


def source_table(dataset: str, pixel_hashes: Iterable[str], patients: Iterable[str]) -> pa.Table:
    """Return the hashes of a training set.

    Parameters
    ----------
    dataset : str
    pixel_hashes : iterable of str
    patients : iterable of str
        Ids within the data set.

    Returns
    -------
    pyarrow.Table
        ``kind`` (``pixels`` or ``patient``), ``salt`` (null for pixels) and ``hash``; each once, in no telling order.
    """
    salt = secrets.token_hex(16)
    pixels = sorted(set(pixel_hashes))
    people = sorted({_person(salt, dataset, patient) for patient in patients})
    kinds = ["pixels"] * len(pixels) + ["patient"] * len(people)
    salts = [None] * len(pixels) + [salt] * len(people)
    return pa.table({"kind": kinds, "salt": salts, "hash": pixels + people}, schema=_SCHEMA)


@dataclass(frozen=True)
class TrainingSources:
    """What one set of weights has seen.

    Parameters
    ----------
    pixels : frozenset of str
    people : frozenset of str
    salts : frozenset of str
    """

    pixels: frozenset[str] = field(repr=False)
    people: frozenset[str] = field(repr=False)
    salts: frozenset[str]

    @classmethod
    def read(cls, location: Location, path: str) -> TrainingSources:
        """Read the file that `RegisteredWeights.trained_on` names."""
        rows = read_parquet(location, path).to_pylist()
        of_kind = {kind: frozenset(r["hash"] for r in rows if r["kind"] == kind) for kind in ("pixels", "patient")}
        return cls(of_kind["pixels"], of_kind["patient"], frozenset(r["salt"] for r in rows if r["salt"]))

    def saw_pixels(self, pixel_hash: str) -> bool:
        """Return whether an image with these pixels was trained on."""
        return pixel_hash in self.pixels

    def saw_patient(self, dataset: str, patient_id: str) -> bool:
        """Return whether images of this person were trained on, under this data set's name."""
        return any(_person(salt, dataset, patient_id) in self.people for salt in self.salts)


def forget_sources(location: Location, dataset: str, patient_id: str | None, pixel_hashes: Collection[str]) -> int:
    """Remove a person's and images' hashes from beside all weights.

    Parameters
    ----------
    location : Location
    dataset : str
    patient_id : str or None
        None where single images are meant.
    pixel_hashes : collection of str

    Returns
    -------
    int
        Hashes removed.
    """
    paths = [f"{FOLDER}/{name}" for name in location.list_files(FOLDER) if name.endswith(SUFFIX)]
    return sum(_forget(location, path, dataset, patient_id, pixel_hashes) for path in paths)


def _forget(location: Location, path: str, dataset: str, patient_id: str | None, pixel_hashes: Collection[str]) -> int:
    rows = read_parquet(location, path)
    gone = set(pixel_hashes)
    if patient_id is not None:
        gone |= {_person(salt, dataset, patient_id) for salt in pc.unique(rows["salt"]).to_pylist() if salt}
    kept = rows.filter(pc.invert(pc.is_in(rows["hash"], value_set=pa.array(sorted(gone), pa.string()))))
    if kept.num_rows < rows.num_rows:
        content = pa.BufferOutputStream()
        pq.write_table(kept, content, compression="zstd")
        location.write_bytes(path, content.getvalue())
    return int(rows.num_rows - kept.num_rows)


def _person(salt: str, dataset: str, patient_id: str) -> str:
    return salted(salt, f"{dataset}:{patient_id}")
