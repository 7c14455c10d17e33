"""Labels as the data set gave them, turned into the 0/1 matrix a head is fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import UsageError
from featurestore.images.sources.labels import CHEXPERT_LABELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurestore.store import Store

_UNCERTAIN = {"ones": 1.0, "zeros": 0.0, "ignore": np.nan}
_BLANK = {"zero": 0.0, "ignore": np.nan}


@dataclass(frozen=True)
class LabelPolicy:
    """What an uncertain and an unmentioned finding count as (approaches of Irvin et al., AAAI 2019).

    Parameters
    ----------
    uncertain : {"ones", "zeros", "ignore"}
        Value of -1: positive, negative, or not known (nan).
    blank : {"zero", "ignore"}
        Value of a null. A label the image has no row for (its text was rejected) is not known under any policy.
    """

    uncertain: Literal["ones", "zeros", "ignore"] = "ones"
    blank: Literal["zero", "ignore"] = "zero"

    def __post_init__(self) -> None:
        if self.uncertain not in _UNCERTAIN:
            raise UsageError(f"uncertain labels as {self.uncertain!r}: choose one of {', '.join(_UNCERTAIN)}")
        if self.blank not in _BLANK:
            raise UsageError(f"blank labels as {self.blank!r}: choose one of {', '.join(_BLANK)}")

    @property
    def uncertain_value(self) -> float:
        """Return what -1 becomes: 1.0, 0.0 or nan."""
        return _UNCERTAIN[self.uncertain]

    @property
    def blank_value(self) -> float:
        """Return what null becomes: 0.0 or nan."""
        return _BLANK[self.blank]


def dataset_labels(store: Store, dataset: str) -> list[str]:
    """Name the labels a data set offers.

    Returns
    -------
    list of str
        CheXpert's labels in CheXpert's order, then the others alphabetically. A label that is null in every image is
        not offered: nothing can be learnt or measured from it.

    Raises
    ------
    UsageError
        The store has no such data set.
    """
    sql = "SELECT DISTINCT label FROM labels WHERE dataset = ? AND value IS NOT NULL"
    found = store.query(sql, [dataset])["label"].to_pylist()
    if not found:
        store.require_dataset(dataset)
    return sorted(found, key=_label_order)


def label_matrix(
    store: Store, dataset: str, ids: Sequence[str], labels: Sequence[str], policy: LabelPolicy | None = None
) -> NDArray[np.float64]:
    """Read the labels of some images as a matrix.

    Parameters
    ----------
    store : Store
    dataset : str
    ids : sequence of str
        Image ids, each once; the rows of the result.
    labels : sequence of str
        The columns of the result.
    policy : LabelPolicy, optional
        Default: uncertain counts as positive, blank as negative.

    Returns
    -------
    numpy.ndarray of shape (n_images, n_labels), float64
        1 present, 0 absent, nan not known.

    Raises
    ------
    UsageError
        The data set lacks one of the labels, or one of the images; the message names what there is.
    ValueError
        An id stands twice in ``ids``.
    """
    _check_ids(store, dataset, ids)
    policy = policy or LabelPolicy()
    table = store.query("SELECT image_id, label, value FROM labels WHERE dataset = ?", [dataset])
    _check_offered(dataset, labels, pc.unique(table["label"].filter(pc.is_valid(table["value"]))).to_pylist())
    rows, columns = positions(table["image_id"], ids), positions(table["label"], labels)
    values = table["value"].cast(pa.float64()).to_numpy()
    values = np.where(np.isnan(values), policy.blank_value, np.where(values == -1, policy.uncertain_value, values))
    wanted = (rows >= 0) & (columns >= 0)
    # An image without a row for a label has one that could not be read: that is not known, whatever a blank means.
    matrix = np.full((len(ids), len(labels)), np.nan)
    matrix[rows[wanted], columns[wanted]] = values[wanted]
    return matrix


def check_labels(store: Store, dataset: str, labels: Sequence[str]) -> None:
    """Raise `UsageError`, naming the labels there are, unless the data set offers all of ``labels`` (at least one)."""
    _check_offered(dataset, labels, dataset_labels(store, dataset))


def _check_offered(dataset: str, labels: Sequence[str], offered: Sequence[str]) -> None:
    missing = [label for label in labels if label not in offered]
    has = f"data set {dataset!r} has: {', '.join(sorted(offered, key=_label_order)) or 'no labels at all'}"
    if missing:
        raise UsageError(f"no label {', '.join(map(repr, missing))}; {has}")
    if not labels:
        raise UsageError(f"no label was asked for; {has}")
    if len(set(labels)) < len(labels):
        raise UsageError(f"a label stands twice in {', '.join(labels)}; name each once")


def positions(values: pa.ChunkedArray, among: Sequence[str]) -> NDArray[np.int64]:
    """Find each value's index in ``among``; -1 where it is not there. Shape (len(values),), int64."""
    found = pc.index_in(values, value_set=pa.array(among, type=pa.string()))
    return np.asarray(pc.fill_null(found, -1).to_numpy(), dtype=np.int64)


def _label_order(label: str) -> tuple[int, str]:
    return (CHEXPERT_LABELS.index(label) if label in CHEXPERT_LABELS else len(CHEXPERT_LABELS), label)


def _check_ids(store: Store, dataset: str, ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        raise ValueError(f"{len(ids) - len(set(ids))} image ids stand twice; ask for each image once")
    known = set(store.query("SELECT image_id FROM images WHERE dataset = ?", [dataset])["image_id"].to_pylist())
    if not known:
        store.require_dataset(dataset)
    strangers = [name for name in ids if name not in known]
    if strangers:
        raise UsageError(
            f"{len(strangers)} of {len(ids)} images are not in data set {dataset!r} (such as {strangers[0]}); "
            f"ask for ids of its {len(known)} images"
        )
