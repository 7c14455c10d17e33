"""What a cell's head sees of its images: vectors of one backbone, of several side by side, or other models' answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from classifiers.approaches import STACKING_A, STACKING_B
from classifiers.cells import Cell
from classifiers.heads import fit_head, head_spec
from classifiers.rows import CellRows
from classifiers.stacking import filled, out_of_fold, score_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurestore.store import Store


@dataclass(frozen=True)
class Design:
    """The inputs of one fit.

    Parameters
    ----------
    train : numpy.ndarray of shape (n_train, n_inputs), float32
    held : numpy.ndarray of shape (n_held, n_inputs), float32
    """

    train: NDArray[np.float32]
    held: NDArray[np.float32]


def design(store: Store, cell: Cell, rows: CellRows, n_jobs: int = 1) -> Design:
    """Read a cell's inputs; of stacking B, fit the heads below.

    Parameters
    ----------
    store : Store
    cell : Cell
    rows : CellRows
    n_jobs : int
        Threads for fitting; the result does not depend on it.
    """
    if cell.approach == STACKING_B:
        parts = [_answers(store, cell, rows, backbone, spec_id, n_jobs) for backbone, spec_id in cell.specs]
        return Design(*(np.concatenate(side, axis=1) for side in zip(*parts, strict=True)))
    ids = rows.train_ids + rows.held_ids
    if cell.approach == STACKING_A:
        X = score_columns(store, [spec_id for _, spec_id in cell.specs], ids)
    else:
        X = np.concatenate([store.matrix(spec_id, ids)[1] for _, spec_id in cell.specs], axis=1)
    return Design(X[: len(rows.train_ids)], X[len(rows.train_ids) :])


def _answers(
    store: Store, cell: Cell, rows: CellRows, backbone: str, spec_id: str, n_jobs: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what one backbone's head says of training images, which it did not see, and of held-out ones."""
    spec, Y, labels = head_spec(cell.head), rows.train_labels, cell.labels
    _, X = store.matrix(spec_id, rows.train_ids + rows.held_ids)
    train, held = X[: len(rows.train_ids)], X[len(rows.train_ids) :]
    whole = fit_head(spec, train, Y, labels, seed=cell.seed, n_jobs=n_jobs, backbone=backbone)
    said = filled(whole.predict(held), Y).astype(np.float32)
    if cell.in_sample:
        return filled(whole.predict(train), Y).astype(np.float32), said
    own = out_of_fold(spec, train, Y, labels, rows.train_patients, seed=cell.seed, n_jobs=n_jobs, backbone=backbone)
    return own, said
