"""From what a person calls an image to its row."""

from __future__ import annotations

import re
from dataclasses import dataclass

from featurestore.errors import UsageError
from featurestore.store.store import Store

_PREFIX = re.compile(r"[0-9a-f]{6,64}")
_FIND = """
SELECT image_id, dataset, source_key, uri, file_hash, patient_id FROM images
WHERE (source_key = $1 OR ($2 AND starts_with(image_id, $1))) AND ($3 IS NULL OR dataset = $3)
ORDER BY image_id
"""
_OF_PATIENT = """
SELECT image_id, dataset, source_key, uri, file_hash, patient_id FROM images
WHERE dataset = ? AND patient_id = ? ORDER BY image_id
"""


# Of one whose image is stored, that says whose it is.
_UNDECIDED = """
SELECT count(*) AS n FROM rejects r
WHERE dataset = ? AND image_id IS NULL AND patient_id IS NULL AND stage <> 'forgotten' AND NOT EXISTS (
    SELECT 1 FROM images i WHERE i.dataset = r.dataset AND i.source_key = r.source_key AND i.patient_id IS NOT NULL)
"""


@dataclass(frozen=True)
class FoundImage:
    """One stored image."""

    image_id: str
    dataset: str
    source_key: str
    uri: str
    file_hash: str
    patient_id: str | None


def find_images(store: Store, text: str, dataset: str | None = None) -> list[FoundImage]:
    """Return the images that ``text`` may mean: an image_id, at least 6 hex digits it starts with, or a source key."""
    parameters = [text, bool(_PREFIX.fullmatch(text)), dataset]
    return [FoundImage(**row) for row in store.query(_FIND, parameters).to_pylist()]


def find_image(store: Store, text: str, dataset: str | None = None) -> FoundImage:
    """Return the one image that ``text`` means.

    Raises
    ------
    UsageError
        If it means none or several.
    """
    found = find_images(store, text, dataset)
    if len(found) == 1:
        return found[0]
    where = f" of data set {dataset!r}" if dataset else ""
    if not found:
        message = (
            f"no image {text!r}{where} in the store at {store.uri}; give an image_id, at least 6 hex digits it starts "
            "with, or a source key as in the view images"
        )
        raise UsageError(message)
    several = ", ".join(f"{image.image_id[:12]} ({image.dataset})" for image in found[:5])
    message = f"{text!r}{where} means {len(found)} images: {several}; give more of the image_id, or --dataset NAME"
    raise UsageError(message)


def require_mentioned(store: Store, dataset: str) -> None:
    """Raise UsageError, naming the data sets there are, unless any image or reject is of this one."""
    sql = "SELECT dataset FROM images UNION SELECT dataset FROM rejects ORDER BY dataset"
    known = store.query(sql)["dataset"].to_pylist()
    if dataset not in known:
        message = f"no data set {dataset!r} in the store at {store.uri}; it has {', '.join(known) or 'none'}"
        raise UsageError(message)


def rejected_keys(store: Store, dataset: str, patient_id: str) -> list[str]:
    """Return the source keys of a person's images that were rejected, sorted."""
    # A region's reject carries what the file of regions calls the image.
    sql = (
        "SELECT DISTINCT source_key FROM rejects WHERE dataset = ? AND patient_id = ? AND source_key <> '' "
        "AND stage <> 'roi' ORDER BY source_key"
    )
    return list(store.query(sql, [dataset, patient_id])["source_key"].to_pylist())


def undecided_rejects(store: Store, dataset: str) -> int:
    """Return how many rejects of a data set say neither of which image nor of which person they are."""
    return int(store.query(_UNDECIDED, [dataset])["n"][0].as_py())


def images_of_patient(store: Store, dataset: str, patient_id: str) -> list[FoundImage]:
    """Return all images of a person; empty where there is none."""
    return [FoundImage(**row) for row in store.query(_OF_PATIENT, [dataset, patient_id]).to_pylist()]
