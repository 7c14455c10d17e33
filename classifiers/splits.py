"""Frozen splits: no patient stands in two parts, and a name means one division for good."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from classifiers.frozen import check_same
from classifiers.labels import check_labels, dataset_labels, label_matrix
from classifiers.stratify import deal_patients
from featurestore.errors import UsageError
from featurestore.store.lease import writing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurestore.store import Store

KINDS = ("holdout", "kfold", "official")
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """A stored split.

    Parameters
    ----------
    dataset, name, kind : str
        ``kind`` is holdout, kfold or official.
    seed : int or None
        None for an official split.
    ids : list of str
        Image ids, ascending.
    parts : list of str
        ``train``, ``val`` or ``test`` of each image; all ``test`` for kfold.
    folds : list of (int or None)
        The fold whose test set holds the image (kfold), else None.
    patients : list of str
        The patient of each image; one of its own where the source gave none.
    patients_known : bool
        Whether every image has a patient id. If not, patient overlap is unknowable.
    """

    dataset: str
    name: str
    kind: str
    seed: int | None
    ids: list[str]
    parts: list[str]
    folds: list[int | None]
    patients: list[str]
    patients_known: bool

    def fold_numbers(self) -> list[int | None]:
        """Return the folds in order, or ``[None]`` where there are none."""
        numbers = sorted({fold for fold in self.folds if fold is not None})
        return list(numbers) or [None]


@dataclass(frozen=True)
class _Images:
    """The images a split is made over, by ascending id."""

    ids: list[str]
    patients: list[str]
    official: list[str | None]


def make_split(
    store: Store,
    dataset: str,
    name: str,
    kind: str = "holdout",
    *,
    seed: int = 0,
    test: float = 0.2,
    val: float = 0.1,
    folds: int = 5,
    labels: Sequence[str] | None = None,
    frontal_only: bool = True,
) -> dict[str, dict[str, int]]:
    """Divide a data set's images by patient and freeze the division under a name.

    Parts are stratified over several labels at once, on each patient's label maxima, by `stratify`.

    Parameters
    ----------
    store : Store
    dataset : str
    name : str
        Matches ``[a-z0-9_]+``.
    kind : {"holdout", "kfold", "official"}
        ``holdout``: train, val and test; ``kfold``: each image is in the test set of one fold; ``official``: the parts
        the source published (`images.official_part`).
    seed : int
        At least 0. Plays no part in an official split.
    test, val : float
        The shares of the patients (holdout): 0 < test, 0 <= val, test + val < 1.
    folds : int
        At least 2 (kfold).
    labels : sequence of str, optional
        What to stratify over; default every label the data set offers. Uncertain counts as positive here.
    frontal_only : bool
        Leave lateral views out. An image whose view is not known counts as frontal.

    Returns
    -------
    dict
        ``{part: {"images": n, "patients": n}}`` of the stored split; a kfold split also has ``fold0``, ``fold1``, ...

    Raises
    ------
    UsageError
        A parameter cannot be used; there are fewer patients than parts; an official split puts a patient in two parts;
        or the name is taken by a split that differs (the message says in what).
    """
    _check_request(name, kind, seed, test, val, folds)
    # Nobody may be forgotten between the reading of the images and the writing of their ids.
    with writing(store.location, "cxr split"):
        images = _images(store, dataset, frontal_only)
        fold_of: list[int | None] = [None] * len(images.ids)
        if kind == "official":
            parts = _official_parts(dataset, images)
        else:
            shares = _shares(kind, test, val, folds)
            dealt = _deal(store, dataset, images, shares, seed, labels)
            parts = ["test" if kind == "kfold" else PARTS[i] for i in dealt]
            fold_of = dealt.tolist() if kind == "kfold" else fold_of
        wanted = _split_table(dataset, name, images.ids, parts, fold_of, kind, seed)
        if not _stored(store, dataset, name).num_rows:
            store.append("splits", wanted)
        # Read back even after our own append: another process may have frozen the name in between.
        check_same(_stored(store, dataset, name), wanted, name)
        return summary(load_split(store, dataset, name))


def load_split(store: Store, dataset: str, name: str) -> Split:
    """Read a frozen split; `UsageError` names the splits there are. Images forgotten since are no longer in it."""
    sql = """
        SELECT s.image_id, s.part, s.fold, s.kind, s.seed, i.patient_id
        FROM splits s JOIN images i ON i.image_id = s.image_id
        WHERE s.dataset = ? AND s.split = ? ORDER BY s.image_id
    """
    columns = store.query(sql, [dataset, name]).to_pydict()
    if not columns["image_id"]:
        store.require_dataset(dataset)
        known = store.query("SELECT DISTINCT split FROM splits WHERE dataset = ? ORDER BY split", [dataset])
        there = ", ".join(known["split"].to_pylist()) or "none yet; make one with `cxr split`"
        raise UsageError(f"no split {name!r} of data set {dataset!r}; it has: {there}")
    return Split(
        dataset=dataset,
        name=name,
        kind=columns["kind"][0],
        seed=columns["seed"][0],
        ids=columns["image_id"],
        parts=columns["part"],
        folds=columns["fold"],
        patients=_patients(columns["image_id"], columns["patient_id"]),
        patients_known=all(patient is not None for patient in columns["patient_id"]),
    )


def summary(split: Split) -> dict[str, dict[str, int]]:
    """Count the images and patients of each part (and fold), in the order train, val, test, fold0, ..."""
    counts = {part: [part == other for other in split.parts] for part in PARTS if part in split.parts}
    counts |= {f"fold{k}": [k == other for other in split.folds] for k in split.fold_numbers() if k is not None}
    return {key: _count(split, member) for key, member in counts.items()}


def _count(split: Split, member: Sequence[bool]) -> dict[str, int]:
    patients = {patient for patient, here in zip(split.patients, member, strict=True) if here}
    return {"images": sum(member), "patients": len(patients)}


def _check_request(name: str, kind: str, seed: int, test: float, val: float, folds: int) -> None:
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise UsageError(f"split name {name!r}: use lower-case letters, digits and _ only")
    if kind not in KINDS:
        raise UsageError(f"split kind {kind!r}: choose one of {', '.join(KINDS)}")
    if seed < 0:
        raise UsageError(f"seed {seed}: expected 0 or more")
    if kind == "holdout" and not (test > 0 and val >= 0 and test + val < 1):
        raise UsageError(
            f"test {test} and val {val}: expected 0 < test, 0 <= val and test + val < 1 (shares of patients)"
        )
    if kind == "kfold" and folds < 2:
        raise UsageError(f"{folds} folds: expected 2 or more")


def _images(store: Store, dataset: str, frontal_only: bool) -> _Images:
    frontal = "AND coalesce(upper(view), '') <> 'LATERAL'" if frontal_only else ""
    sql = f"SELECT image_id, patient_id, official_part FROM images WHERE dataset = ? {frontal} ORDER BY image_id"
    columns = store.query(sql, [dataset]).to_pydict()
    ids = columns["image_id"]
    if not ids:
        store.require_dataset(dataset)
        raise UsageError(f"data set {dataset!r} has lateral views only; ask for them explicitly to split them")
    return _Images(ids, _patients(ids, columns["patient_id"]), columns["official_part"])


def _patients(ids: Sequence[str], patients: Sequence[str | None]) -> list[str]:
    # The prefixes keep a real patient id from meeting an image's own.
    return [
        f"image:{image}" if patient is None else f"patient:{patient}"
        for image, patient in zip(ids, patients, strict=True)
    ]


def _shares(kind: str, test: float, val: float, folds: int) -> list[float]:
    return [1 / folds] * folds if kind == "kfold" else [1 - test - val, val, test]


def _deal(
    store: Store, dataset: str, images: _Images, shares: Sequence[float], seed: int, labels: Sequence[str] | None
) -> NDArray[np.int64]:
    """Deal the images into parts by patient; shape (n_images,), indices into ``shares``."""
    names = dataset_labels(store, dataset) if labels is None else list(labels)
    if labels is not None:
        check_labels(store, dataset, names)
    matrix = label_matrix(store, dataset, images.ids, names) if names else np.zeros((len(images.ids), 0))
    used = [i for i, share in enumerate(shares) if share > 0]
    dealt = deal_patients(images.patients, matrix, [shares[i] for i in used], seed)
    return np.asarray(used)[dealt]


def _official_parts(dataset: str, images: _Images) -> list[str]:
    missing = sum(part is None for part in images.official)
    if missing:
        raise UsageError(
            f"{missing} of {len(images.ids)} images of data set {dataset!r} have no official part; "
            "use kind holdout or kfold instead"
        )
    of_patient: dict[str, set[str]] = {}
    for patient, part in zip(images.patients, images.official, strict=True):
        of_patient.setdefault(patient, set()).add(str(part))
    torn = Counter("+".join(sorted(parts)) for parts in of_patient.values() if len(parts) > 1)
    if torn:
        counts = ", ".join(f"{pair}: {count}" for pair, count in sorted(torn.items()))
        raise UsageError(
            f"the official split of data set {dataset!r} puts {torn.total()} of {len(of_patient)} patients "
            f"in two parts ({counts}); use kind holdout or kfold, which keep patients together"
        )
    return [str(part) for part in images.official]


def _split_table(
    dataset: str, name: str, ids: list[str], parts: list[str], folds: Sequence[int | None], kind: str, seed: int
) -> pa.Table:
    n = len(ids)
    return pa.table(
        {
            "dataset": [dataset] * n,
            "split": [name] * n,
            "image_id": ids,
            "part": parts,
            "fold": pa.array(folds, type=pa.int16()),
            "kind": [kind] * n,
            "seed": pa.array([None if kind == "official" else seed] * n, type=pa.int64()),
        }
    )


def _stored(store: Store, dataset: str, name: str) -> pa.Table:
    sql = "SELECT * FROM splits WHERE dataset = ? AND split = ? ORDER BY image_id"
    return store.query(sql, [dataset, name])
