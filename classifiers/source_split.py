"""The split a source network is trained on: the published test images kept apart, a validation part cut by patient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from classifiers.frozen import check_same
from classifiers.labels import dataset_labels, label_matrix
from classifiers.splits import Split, load_split
from classifiers.stratify import deal_patients
from featurestore.errors import UsageError
from featurestore.store.lease import writing

if TYPE_CHECKING:
    from featurestore.store import Store

VAL_IMAGES = 1911
"""As many as Gozzi et al. cut from CheXpert's training images, on average."""
LARGEST_SHARE = 0.2
_FRONTAL = """
    SELECT image_id, patient_id, official_part FROM images
    WHERE dataset = ? AND coalesce(upper(view), '') <> 'LATERAL' ORDER BY image_id
"""
_STORED = "SELECT * FROM splits WHERE dataset = ? AND split = ? ORDER BY image_id"


def make_source_split(store: Store, dataset: str, name: str, seed: int) -> Split:
    """Freeze the split under a name, or read it where it is frozen.

    Images that the source published as anything but training, and all of their patients' others, are part test. Of the
    rest some 1,911 images are part val, at most a fifth of the patients, stratified over the labels.

    Parameters
    ----------
    store : Store
    dataset : str
    name : str
    seed : int

    Raises
    ------
    UsageError
        If the name is taken by a split that differs, or there are fewer than two patients to train on.
    """
    with writing(store.location, "cxr split"):
        wanted = _divide(store, dataset, name, seed)
        if not store.query(_STORED, [dataset, name]).num_rows:
            store.append("splits", wanted)
        check_same(store.query(_STORED, [dataset, name]), wanted, name)
    return load_split(store, dataset, name)


def _divide(store: Store, dataset: str, name: str, seed: int) -> pa.Table:
    columns = store.query(_FRONTAL, [dataset]).to_pydict()
    ids = columns["image_id"]
    if not ids:
        store.require_dataset(dataset)
        raise UsageError(f"data set {dataset!r} has lateral views only; networks are trained on frontal ones")
    patients = [p or f"image:{i}" for i, p in zip(ids, columns["patient_id"], strict=True)]
    held = {p for p, part in zip(patients, columns["official_part"], strict=True) if part not in (None, "train")}
    source = np.array([patient not in held for patient in patients], np.bool_)
    parts = np.full(len(ids), "test", dtype="<U5")
    parts[source] = _deal(store, dataset, np.asarray(ids)[source].tolist(), np.asarray(patients)[source].tolist(), seed)
    n = len(ids)
    constant = {"dataset": [dataset] * n, "split": [name] * n, "kind": ["holdout"] * n}
    return pa.table(
        {**constant, "image_id": ids, "part": parts.tolist(), "fold": pa.nulls(n, pa.int16()), "seed": [seed] * n}
    )


def _deal(store: Store, dataset: str, ids: list[str], patients: list[str], seed: int) -> list[str]:
    if len(set(patients)) < 2:
        raise UsageError(
            f"data set {dataset!r} has {len(set(patients))} patients to train on; at least 2 are needed, one of them "
            "for validation"
        )
    share = min(LARGEST_SHARE, max(0.01, VAL_IMAGES / len(ids)))
    matrix = label_matrix(store, dataset, ids, dataset_labels(store, dataset))
    return [("train", "val")[i] for i in deal_patients(patients, matrix, [1 - share, share], seed).tolist()]
