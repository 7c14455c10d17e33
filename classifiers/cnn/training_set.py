"""What a network is trained on: images, coded labels, parts. Read by every worker itself; without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifiers.cnn.targets import check_trainable, read_groups
from classifiers.rows import data_digest
from classifiers.splits import load_split
from featurestore.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurestore.store import Store

_IMAGES = """
    SELECT image_id, uri, file_hash, pixel_hash, patient_id FROM images
    WHERE dataset = ? AND coalesce(upper(view), '') <> 'LATERAL' ORDER BY image_id
"""


@dataclass(frozen=True)
class ImageFile:
    """Where an image lies and what its file has to be."""

    image_id: str
    uri: str
    file_hash: str


@dataclass(frozen=True)
class TrainingSet:
    """Frontal images of a split's parts train and val, by ascending id.

    Parameters
    ----------
    dataset, split : str
    labels : tuple of str, of length n_labels
    files : list of ImageFile, of length n_images
    patients : list of str
        One of its own for an image without.
    pixel_hashes : list of str
    codes : numpy.ndarray of shape (n_images, n_labels), int8
        See `classifiers.cnn.targets`.
    train, val : numpy.ndarray, int64
        Rows of each part.
    digest : str
        SHA-256 over ids, parts and codes.
    """

    dataset: str
    split: str
    labels: tuple[str, ...]
    files: list[ImageFile]
    patients: list[str]
    pixel_hashes: list[str]
    codes: NDArray[np.int8]
    train: NDArray[np.int64]
    val: NDArray[np.int64]
    digest: str


def read_training_set(store: Store, dataset: str, split: str, groups: Mapping[str, Sequence[str]]) -> TrainingSet:
    """Read images and labels.

    Parameters
    ----------
    store : Store
    dataset, split : str
    groups : mapping of str to sequence of str
        The labels to train, each the maximum over labels of the data set.

    Raises
    ------
    UsageError
        For an unknown split or label, or a split without training or validation images.
    """
    division = load_split(store, dataset, split)
    part_of = dict(zip(division.ids, division.parts, strict=True))
    rows = [r for r in store.query(_IMAGES, [dataset]).to_pylist() if part_of.get(r["image_id"]) in ("train", "val")]
    ids = [row["image_id"] for row in rows]
    parts = [part_of[image] for image in ids]
    for part in ("train", "val"):
        if part not in parts:
            raise UsageError(
                f"split {split!r} of data set {dataset!r} has no frontal image in part {part!r}; name a holdout split "
                "that has both, or leave --split out to have one made"
            )
    codes = read_groups(store, dataset, ids, groups)
    return TrainingSet(
        dataset,
        split,
        tuple(groups),
        [ImageFile(row["image_id"], row["uri"], row["file_hash"]) for row in rows],
        [row["patient_id"] or f"image:{row['image_id']}" for row in rows],
        [row["pixel_hash"] for row in rows],
        codes,
        np.flatnonzero([part == "train" for part in parts]),
        np.flatnonzero([part == "val" for part in parts]),
        data_digest(ids, parts, [None] * len(ids), codes.astype(np.float64)),
    )


def check_set(data: TrainingSet, policy: str) -> None:
    """Raise `UsageError` where a label has one value in all training images."""
    check_trainable(data.codes[data.train], data.labels, policy)
