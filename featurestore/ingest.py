"""From a source to rows of `images`, `labels`, `rois` and `rejects`: hashed, decoded once to be sure, identified."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import pyarrow as pa

from featurestore.errors import ImageRejected, UsageError
from featurestore.images.decode import DecodedImage, read_image
from featurestore.images.records import ImageRecord, Reject, Source
from featurestore.names import check_name
from featurestore.store import Store
from featurestore.store.lease import writing
from featurestore.store.schema import TABLES
from featurestore.store.tombstones import Tombstones

BATCH_RECORDS = 2000
_AHEAD = 64


@dataclass
class IngestCounts:
    """What one ingest did. Rows that were stored before count too: ingesting twice says the same."""

    images: int = 0
    labels: int = 0
    rois: int = 0
    rejected: int = 0


def image_id(dataset: str, source_key: str, content_hash: str) -> str:
    """Return the identity of an image: hex SHA-256 over data set, source key and content.

    Equal content under two keys has two ids: it is kept twice and found by the leakage report, never merged.
    """
    text = "\0".join((dataset, source_key, content_hash))
    return hashlib.sha256(text.encode()).hexdigest()


def ingest(
    store: Store,
    dataset: str,
    source: Source,
    *,
    run_id: str,
    threads: int = 2,
    advance: Callable[[int], object] = lambda n: None,
) -> IngestCounts:
    """Read a source into the store. Repeating it adds nothing; a broken image loses nothing else.

    Parameters
    ----------
    store : Store
    dataset : str
        ``[a-z0-9_]+``, not a table's name.
    source : Source
    run_id : str
    threads : int
        Decode threads.
    advance : callable
        Told how many records each step has settled.

    Raises
    ------
    UsageError
        For a name that cannot be one, or a source that cannot be used as a whole.
    """
    check_name(dataset, "data set")
    counts = IngestCounts()
    settled = 0
    with writing(store.location, "an ingest"), ThreadPoolExecutor(threads, "ingest") as pool:
        forgotten = Tombstones.of(store, dataset)
        records = source.records()
        decoded = _decode_ahead(pool, records)
        while batch := list(islice(decoded, BATCH_RECORDS)):
            _Batch(store, dataset, run_id, batch, forgotten).write(counts)
            settled += len(batch)
            advance(len(batch))
    if not settled:
        message = f"{source.name}: no image found; look at the path"
        raise UsageError(message)
    return counts


def _decode_ahead(
    pool: ThreadPoolExecutor, records: Iterator[ImageRecord | Reject]
) -> Iterator[tuple[ImageRecord, DecodedImage | ImageRejected] | Reject]:
    """Yield records with their decoded image, in order, a bounded number being decoded ahead."""
    ahead: deque[Future[tuple[ImageRecord, DecodedImage | ImageRejected]] | Reject] = deque()
    for record in records:
        ahead.append(record if isinstance(record, Reject) else pool.submit(_decode, record))
        if len(ahead) > _AHEAD:
            yield _settled(ahead.popleft())
    while ahead:
        yield _settled(ahead.popleft())


def _settled(
    item: Future[tuple[ImageRecord, DecodedImage | ImageRejected]] | Reject,
) -> tuple[ImageRecord, DecodedImage | ImageRejected] | Reject:
    return item if isinstance(item, Reject) else item.result()


def _decode(record: ImageRecord) -> tuple[ImageRecord, DecodedImage | ImageRejected]:
    try:
        return record, _without_pixels(read_image(record.uri))
    except ImageRejected as rejected:
        return record, rejected


def _without_pixels(image: DecodedImage) -> DecodedImage:
    # Only hashes and sizes are needed from here on; a batch of thousands must not hold its pixels.
    return replace(image, pixels=image.pixels[:0])


class _Batch:
    """Some records on their way into the tables."""

    def __init__(
        self,
        store: Store,
        dataset: str,
        run_id: str,
        items: list[tuple[ImageRecord, DecodedImage | ImageRejected] | Reject],
        forgotten: Tombstones,
    ) -> None:
        self._store, self._dataset, self._run_id = store, dataset, run_id
        self._now = datetime.now(UTC).replace(tzinfo=None)
        self._tombstones, self._forgotten = forgotten, 0
        self._rejects: list[Reject] = []
        self._usable: dict[str, tuple[ImageRecord, DecodedImage]] = {}
        for item in items:
            if isinstance(item, Reject):
                self._sort_reject(item)
            else:
                self._sort(*item)

    def _sort_reject(self, reject: Reject) -> None:
        stones = self._tombstones
        if stones.hold("source", reject.source_key) or stones.hold("patient", reject.patient_id):
            self._forgotten += 1
        else:
            self._rejects.append(reject)

    def _sort(self, record: ImageRecord, image: DecodedImage | ImageRejected) -> None:
        if self._was_forgotten(record, image):
            self._forgotten += 1
        elif isinstance(image, ImageRejected):
            self._reject(record, image.stage, image.reason, retryable=image.retryable)
        else:
            self._usable[image_id(self._dataset, record.source_key, image.file_hash)] = (record, image)

    def _was_forgotten(self, record: ImageRecord, image: DecodedImage | ImageRejected) -> bool:
        stones = self._tombstones
        if stones.hold("patient", record.patient_id) or stones.hold("source", record.source_key):
            return True
        if isinstance(image, ImageRejected):
            return False
        return stones.hold("image", image_id(self._dataset, record.source_key, image.file_hash))

    def _reject(self, record: ImageRecord, stage: str, reason: str, *, retryable: bool = False) -> None:
        self._rejects.append(Reject(record.uri, record.source_key, stage, reason, retryable, record.patient_id))

    def write(self, counts: IngestCounts) -> None:
        """Append what is new, and count what is there."""
        self._drop_contradictions()
        labels, rois = self._label_rows(), self._roi_rows()
        # Images last: one that is visible has its labels.
        self._append("labels", labels)
        self._append("rois", rois)
        self._append("images", [self._image_row(key, *item) for key, item in self._usable.items()])
        self._append("rejects", [self._reject_row(reject) for reject in self._rejects])
        self._append("rejects", [self._forgotten_row()] if self._forgotten else [])
        counts.images += len(self._usable)
        counts.labels += len(labels)
        counts.rois += len(rois)
        counts.rejected += len(self._rejects) + self._forgotten

    def _append(self, table: str, rows: list[dict[str, Any]]) -> None:
        if rows:
            self._store.append(table, pa.Table.from_pylist(rows, TABLES[table].schema))

    def _drop_contradictions(self) -> None:
        """Reject records that say something else than what an earlier ingest stored under the same source key."""
        stored = self._stored_images()
        moved: dict[str, str] = {}
        for key, (record, image) in list(self._usable.items()):
            before = stored.get(record.source_key)
            if before is None:
                continue
            new = self._image_row(key, record, image)
            if before["image_id"] == key and before["uri"] != record.uri:
                moved[key] = record.uri
            changed = [c for c in _IDENTITY if before[c] != new[c]]
            if changed:
                del self._usable[key]
                what = ", ".join(_change(c, before[c], new[c]) for c in changed)
                reason = f"{record.source_key} is stored with other facts: {what}; ingest it under another --dataset"
                self._reject(record, "changed", reason)
        # The same image in another folder: what is stored about it holds, and it must be found there from now on.
        self._store.relocate(moved)

    def _stored_images(self) -> dict[str, dict[str, Any]]:
        keys = [record.source_key for record, _ in self._usable.values()]
        rows = self._store.query(
            f"SELECT source_key, uri, {', '.join(_IDENTITY)} FROM images "
            "WHERE dataset = ? AND source_key IN (SELECT unnest(?::VARCHAR[]))",
            [self._dataset, keys],
        )
        return {row["source_key"]: row for row in rows.to_pylist()}

    def _image_row(self, key: str, record: ImageRecord, image: DecodedImage) -> dict[str, Any]:
        return {
            "image_id": key,
            "dataset": self._dataset,
            "source_key": record.source_key,
            "uri": record.uri,
            "file_hash": image.file_hash,
            "pixel_hash": image.pixel_hash,
            "patient_id": record.patient_id,
            "study_id": record.study_id,
            "view": record.view,
            "sex": record.sex,
            "age": record.age,
            "width": image.width,
            "height": image.height,
            "bits": image.bits,
            "official_part": record.official_part,
            "ingested_at": self._now,
        }

    def _label_rows(self) -> list[dict[str, Any]]:
        """Return one row an image and label; a value that contradicts the stored one is rejected, not overwritten."""
        stored = self._stored_labels()
        rows: list[dict[str, Any]] = []
        for key, (record, _) in self._usable.items():
            for label, value in record.labels.items():
                before = stored.get((key, label), value)
                if before != value:
                    reason = f"label {label!r} is stored as {before} and now given as {value}; the stored one is kept"
                    self._reject(record, "label", reason)
                rows.append({"image_id": key, "dataset": self._dataset, "label": label, "value": value})
        return rows

    def _stored_labels(self) -> dict[tuple[str, str], int | None]:
        rows = self._store.query(
            "SELECT image_id, label, value FROM labels WHERE image_id IN (SELECT unnest(?::VARCHAR[]))",
            [list(self._usable)],
        )
        return {(row["image_id"], row["label"]): row["value"] for row in rows.to_pylist()}

    def _roi_rows(self) -> list[dict[str, Any]]:
        rows = [asdict(roi) | {"image_id": key} for key, (record, _) in self._usable.items() for roi in record.rois]
        for row in rows:
            text = "\0".join(
                str(row[c]) for c in ("image_id", "label", "kind", "geometry", "width", "height", "source")
            )
            row["roi_id"] = hashlib.sha256(text.encode()).hexdigest()[:32]
        return rows

    def _reject_row(self, reject: Reject) -> dict[str, Any]:
        return asdict(reject) | {"dataset": self._dataset, "run_id": self._run_id, "rejected_at": self._now}

    def _forgotten_row(self) -> dict[str, Any]:
        # One for all of them, and without a key or a place: it must not bring back what was forgotten.
        reason = "it was forgotten by cxr forget and stays out; ingest it under another --dataset if that was a mistake"
        return {
            "dataset": self._dataset,
            "stage": "forgotten",
            "reason": reason,
            "retryable": False,
            "run_id": self._run_id,
            "rejected_at": self._now,
        }


_IDENTITY = ("image_id", "patient_id", "study_id", "view", "sex", "official_part")


def _change(column: str, before: object, new: object) -> str:
    # Reasons are not searched when somebody is forgotten: they never say who it is, nor who it was.
    if column in ("patient_id", "study_id"):
        return f"{column} became another"
    return f"{column} {_short(before)} became {_short(new)}"


def _short(value: object) -> str:
    return repr(value)[:15]
