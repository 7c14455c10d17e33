"""Removing a person or an image from every table (docs/adr/0007).

Old versions keep the rows until `featurestore.store.purge`; only then they are gone.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from featurestore import failpoints
from featurestore.store.cache_files import empty_caches
from featurestore.store.finding import FoundImage
from featurestore.store.lease import alone
from featurestore.store.location import Location
from featurestore.store.rewrite import Exchange, exchange, read_rows, stage_rows
from featurestore.store.scan import files_with
from featurestore.store.schema import TABLES, TableSpec
from featurestore.store.snapshot import DataFile
from featurestore.store.store import Store
from featurestore.store.tombstones import Kind, bury
from featurestore.store.training_sources import forget_sources


@dataclass(frozen=True)
class Forgotten:
    """Who or what is to be forgotten.

    Parameters
    ----------
    dataset : str
    images : tuple of FoundImage
    patient_id : str, optional
        Where a person is meant and not single images.
    source_keys : tuple of str
        Of things that never became images: they stand among the rejects only, and may be a person's.
    """

    dataset: str
    images: tuple[FoundImage, ...]
    patient_id: str | None = None
    source_keys: tuple[str, ...] = ()

    @property
    def image_ids(self) -> set[str]:
        """Return the images' ids."""
        return {image.image_id for image in self.images}

    @property
    def keys(self) -> set[str]:
        """Return the source keys, of images and others."""
        return {*self.source_keys, *(image.source_key for image in self.images if image.source_key)}


def forget(store: Store, forgotten: Forgotten) -> dict[str, int]:
    """Remove the rows from every table, and keep them from being ingested again.

    Rows are found by reading, and files exchanged whole: no predicate and no value of theirs enters Delta's log.

    Parameters
    ----------
    store : Store
    forgotten : Forgotten

    Returns
    -------
    dict of str to int
        Rows removed, by table; tables without any are left out. ``training_sources`` are hashes beside weights.

    Raises
    ------
    StoppedError
        If anybody writes now: a running job has read rows that it would bring back.
    """
    with alone(store.location, "cxr forget"):
        _bury(store, forgotten)
        failpoints.reach("forget.buried")
        # Images last: where this is interrupted, the same request finds the person again.
        seen = _forget_training(store, forgotten)
        order = sorted(TABLES.values(), key=lambda spec: spec.name == "images")
        removed: dict[str, int] = {}
        for spec in order:
            if spec.name == "images":
                failpoints.reach("forget.before-images")
                # Now that nobody finds the vectors any more, nobody makes a cache of them again.
                empty_caches(store.location)
            removed[spec.name] = _remove(store.location, spec, forgotten)
    return {name: rows for name, rows in (removed | {"training_sources": seen}).items() if rows}


def _forget_training(store: Store, forgotten: Forgotten) -> int:
    """Remove the hashes that say which weights were trained on these images; return how many there were."""
    sql = "SELECT DISTINCT pixel_hash FROM images WHERE list_contains(?, image_id)"
    pixels = store.query(sql, [sorted(forgotten.image_ids)])["pixel_hash"].to_pylist()
    return forget_sources(store.location, forgotten.dataset, forgotten.patient_id, pixels)


def count_rejects(store: Store, forgotten: Forgotten) -> int:
    """Return how many rejects speak of what is to be forgotten."""
    rows = store.query("SELECT * FROM rejects").select(TABLES["rejects"].schema.names)
    return int(pc.sum(_mask(rows, TABLES["rejects"], forgotten)).as_py() or 0)


def _bury(store: Store, forgotten: Forgotten) -> None:
    people: list[tuple[Kind, str]] = [] if forgotten.patient_id is None else [("patient", forgotten.patient_id)]
    # Images and keys too: they would come back from a source that does not say whose they are.
    images: list[tuple[Kind, str]] = [("image", image_id) for image_id in forgotten.image_ids]
    keys: list[tuple[Kind, str]] = [("source", key) for key in forgotten.keys]
    bury(store, forgotten.dataset, [*people, *images, *keys])


def _remove(location: Location, spec: TableSpec, forgotten: Forgotten) -> int:
    if "image_id" not in spec.schema.names:
        return 0
    columns = _TELLING if spec.name == "rejects" else ("image_id",)
    ids = None if spec.name == "rejects" else sorted(forgotten.image_ids)

    def plan(files: tuple[DataFile, ...]) -> list[Exchange]:
        hit = files_with(location, spec, files, columns, lambda rows: _mask(rows, spec, forgotten), ids)
        return [Exchange((f,), stage_rows(location, spec, _without(read_rows(location, spec, f)))) for f in hit]

    def _without(rows: pa.Table) -> pa.Table:
        return rows.filter(pc.invert(_mask(rows, spec, forgotten)))

    return sum(done.rows_removed for done in exchange(location, spec, plan, changes_rows=True))


_TELLING = ("image_id", "dataset", "uri", "source_key", "patient_id")


def _mask(rows: pa.Table, spec: TableSpec, forgotten: Forgotten) -> pa.ChunkedArray | pa.Array:
    """Return which rows have to go."""
    if spec.name == "rejects":
        return _mask_of_rejects(rows, forgotten)
    return _among(rows["image_id"], forgotten.image_ids)


def _mask_of_rejects(rows: pa.Table, forgotten: Forgotten) -> pa.ChunkedArray:
    """Return which rejects are of what is to be forgotten: by equality only, since a text may speak of anybody."""
    uris = {image.uri for image in forgotten.images}
    people = set() if forgotten.patient_id is None else {forgotten.patient_id}
    of_image = pc.or_(_among(rows["image_id"], forgotten.image_ids), _among(rows["uri"], uris))
    # Keys and patients' ids mean something within their data set only.
    named = pc.or_(_among(rows["source_key"], forgotten.keys), _among(rows["patient_id"], people))
    return pc.or_(of_image, pc.and_(_among(rows["dataset"], {forgotten.dataset}), named))


def _among(column: pa.ChunkedArray, values: set[str]) -> pa.ChunkedArray:
    return pc.is_in(column, value_set=pa.array(sorted(values), pa.string()))
