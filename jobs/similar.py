"""The images that look most like one to a network."""

from __future__ import annotations

from typing import Any

from featurestore.errors import UsageError
from featurestore.store import Store
from featurestore.store.finding import find_image
from featurestore.store.vector_cache import open_vectors


def find_similar(
    store: Store, image: str, *, backbone: str | None, spec: str | None, k: int, dataset: str | None = None
) -> list[dict[str, Any]]:
    """Return the images nearest to one by the cosine of their vectors.

    Parameters
    ----------
    store : Store
    image : str
        An image_id, at least 6 hex digits it starts with, or a source key.
    backbone, spec : str, optional
        Which vectors; at least one of the two.
    k : int
        Most images.
    dataset : str, optional
        Where the source key stands in several data sets; the images found may be of any.

    Returns
    -------
    list of dict
        ``image_id``, ``similarity`` in [-1, 1], ``dataset``, ``source_key``; the most similar first.

    Raises
    ------
    featurestore.errors.UsageError
        For an image or vectors that are not there, or a name that means several.
    """
    chosen = _chosen(store, backbone, spec)
    found = find_image(store, image, dataset)
    with open_vectors(store, chosen) as vectors:
        rows = vectors.nearest(found.image_id, k).to_pylist()
    names = _names(store, [row["image_id"] for row in rows])
    return [row | names.get(row["image_id"], {}) for row in rows]


def _chosen(store: Store, backbone: str | None, spec: str | None) -> str:
    """Return the spec_id meant."""
    if backbone is None and spec is None:
        message = "which vectors? give --backbone NAME, or --spec where a backbone has several"
        raise UsageError(message)
    found, spec_id, _ = store.resolve_spec(spec or backbone or "")
    if backbone not in (None, found, spec_id):
        message = f"--spec {spec} is of backbone {found!r}, not {backbone!r}; leave one of the two out"
        raise UsageError(message)
    return spec_id


def _names(store: Store, ids: list[str]) -> dict[str, dict[str, str]]:
    sql = "SELECT image_id, dataset, source_key FROM images WHERE image_id IN (SELECT unnest(?::VARCHAR[]))"
    return {row.pop("image_id"): row for row in store.query(sql, [ids]).to_pylist()}
