"""Which images a cell is fitted on, and which it is asked about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifiers.grouped_labels import truth_matrix
from classifiers.splits import Split, load_split
from featurestore.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from classifiers.cells import Cell
    from featurestore.store import Store


@dataclass(frozen=True)
class CellRows:
    """A cell's images.

    Parameters
    ----------
    train_ids : list of str
        Part train; of a fold, all other folds.
    train_patients : list of str
    held_ids : list of str
        Parts val and test; of a fold, the fold itself.
    held_parts : list of str
    train_labels : numpy.ndarray of shape (n_train, n_labels), float64
        1, 0 or nan.
    fold : int or None
    without_vector : int
        Images of the split left out because the extraction rejected them.
    digest : str
        Over ids, parts, folds and labels of every image used.
    """

    train_ids: list[str]
    train_patients: list[str]
    held_ids: list[str]
    held_parts: list[str]
    train_labels: NDArray[np.float64]
    fold: int | None
    without_vector: int
    digest: str


def load_rows(store: Store, cell: Cell) -> CellRows:
    """Read a cell's images and training labels.

    Raises
    ------
    UsageError
        An unknown split or label; images without a vector that no reject explains; no image to train on.
    """
    split = load_split(store, cell.dataset, cell.split)
    used = _with_vector(store, cell, split)
    ids = [split.ids[i] for i in used]
    labels = truth_matrix(store, cell.dataset, ids, cell.labels, cell.policy, dict(cell.groups))
    parts, folds = [split.parts[i] for i in used], [split.folds[i] for i in used]
    if cell.fold is None:
        train = np.array([part == "train" for part in parts], dtype=bool)
    else:
        train = np.array([fold != cell.fold for fold in folds], dtype=bool)
    if not train.any():
        raise UsageError(f"split {cell.split!r} has no training image with a vector; choose another split")
    held = np.flatnonzero(~train)
    return CellRows(
        train_ids=[ids[i] for i in np.flatnonzero(train)],
        train_patients=[split.patients[used[i]] for i in np.flatnonzero(train)],
        held_ids=[ids[i] for i in held],
        held_parts=[parts[i] for i in held],
        train_labels=labels[train],
        fold=cell.fold,
        without_vector=len(split.ids) - len(ids),
        digest=data_digest(ids, parts, folds, labels),
    )


def data_digest(
    ids: Sequence[str], parts: Sequence[str], folds: Sequence[int | None], labels: NDArray[np.float64]
) -> str:
    """Return a SHA-256 over image ids, their parts and folds, and their labels, shape (n_images, n_labels)."""
    digest = hashlib.sha256(json.dumps([list(ids), list(parts), list(folds)]).encode())
    # -1 for nan: nan has many bit patterns.
    digest.update(np.nan_to_num(labels, nan=-1.0).astype(np.int8).tobytes())
    return digest.hexdigest()


def _with_vector(store: Store, cell: Cell, split: Split) -> list[int]:
    """Return the positions of the split's images that have a vector; a missing one must be known as rejected."""
    usable = set(split.ids)
    for backbone, spec_id in cell.specs:
        sql = "SELECT image_id FROM embeddings WHERE backbone = ? AND spec_id = ?"
        stored = set(store.query(sql, [backbone, spec_id])["image_id"].to_pylist())
        missing = [image for image in split.ids if image not in stored]
        if missing:
            _check_rejected(store, cell, (backbone, spec_id), missing, len(split.ids))
        usable &= stored
    return [i for i, image in enumerate(split.ids) if image in usable]


def _check_rejected(store: Store, cell: Cell, spec: tuple[str, str], missing: Sequence[str], total: int) -> None:
    sql = "SELECT DISTINCT image_id FROM rejects WHERE image_id IS NOT NULL AND coalesce(spec_id, '') IN ('', ?)"
    rejected = set(store.query(sql, [spec[1]])["image_id"].to_pylist())
    pending = [image for image in missing if image not in rejected]
    if pending:
        raise UsageError(
            f"{len(pending)} of {total} images of split {cell.split!r} have no {spec[0]} vector of spec "
            f"{spec[1]}; run `cxr extract` for data set {cell.dataset!r} first"
        )
