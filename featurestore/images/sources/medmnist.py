"""MedMNIST's `.npz` files with their official split (Yang et al., Scientific Data 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.errors import ImageRejected, UsageError
from featurestore.images import npz
from featurestore.images.faults import rejecting
from featurestore.images.records import ImageRecord, Reject
from featurestore.images.sources.labels import NIH_FINDINGS
from featurestore.images.sources.paths import existing_file

MAX_CLASSES = 100
"""A larger number in the label column is not a class."""
PARTS = ("train", "val", "test")


class MedmnistSource:
    """One ``.npz`` with ``{train,val,test}_{images,labels}``.

    Label names: one binary column is ``pneumonia`` in a file whose name starts so, else ``label``; 14 columns are
    ChestMNIST's findings in its order, other numbers of columns ``label_0``, ``label_1``, ...; one column of more than
    two classes becomes ``class_0``, ``class_1``, ..., one each.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    featurestore.errors.UsageError
        Where it is no ``.npz``, or arrays are missing or do not fit each other.
    """

    name = "medmnist"

    def __init__(self, path: Path) -> None:
        self._path = existing_file(path, "a MedMNIST .npz file").resolve()
        self._labels = _read_labels(self._path)
        self._n_classes = _n_classes(self._labels)

    def count(self) -> int:
        """Return the number of images."""
        return sum(len(labels) for labels in self._labels.values())

    def records(self) -> Iterator[ImageRecord | Reject]:
        """Yield one record an image; see `featurestore.images.records.Source`."""
        for part, labels in self._labels.items():
            for index, row in enumerate(labels):
                yield from self._record(part, index, row)

    def _record(self, part: str, index: int, row: NDArray[Any]) -> Iterator[ImageRecord | Reject]:
        key = f"{part}/{index}"
        uri = f"{self._path}#{key}"
        named = self._named(row)
        known = {name: value for name, value in named.items() if value in (1, 0, -1) or np.isnan(value)}
        labels = {name: None if np.isnan(value) else int(value) for name, value in known.items()}
        yield ImageRecord(key, uri, official_part=part, labels=labels)
        for name in sorted(named.keys() - labels.keys()):
            yield Reject(uri, key, "label", f"label {name!r}: {named[name]} is none of 1, 0, -1 (uncertain) or NaN")

    def _named(self, row: NDArray[Any]) -> dict[str, Any]:
        if self._n_classes > 2:
            return {f"class_{k}": int(row[0] == k) for k in range(self._n_classes)}
        if len(row) == 1:
            return {"pneumonia" if self._path.stem.startswith("pneumonia") else "label": row[0]}
        names = NIH_FINDINGS if len(row) == len(NIH_FINDINGS) else [f"label_{k}" for k in range(len(row))]
        return dict(zip(names, row, strict=True))


def _read_labels(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with rejecting("not a readable .npz"), np.load(path, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise ValueError("one .npy array")
            found = set(archive.files)
            labels = {part: archive[f"{part}_labels"] for part in PARTS if f"{part}_labels" in found}
    except ImageRejected as error:
        raise UsageError(f"{path}: {error.reason}; expected MedMNIST's {{train,val,test}}_{{images,labels}}") from error
    if not labels or any(f"{part}_images" not in found for part in labels):
        raise UsageError(f"{path} holds {', '.join(sorted(found))}; expected {{train,val,test}}_{{images,labels}}")
    return {part: _check_fit(path, part, values) for part, values in labels.items()}


def _check_fit(path: Path, part: str, labels: NDArray[Any]) -> NDArray[Any]:
    shape, _ = npz.header(path, f"{part}_images")
    table = labels.reshape(-1, 1) if labels.ndim == 1 else labels
    if not shape or len(table) != shape[0] or table.ndim != 2 or table.dtype.kind not in "iufb":
        raise UsageError(f"{path}: {part}_labels is {labels.dtype} {labels.shape} beside {part}_images {shape}")
    return table


def _n_classes(labels: dict[str, NDArray[Any]]) -> int:
    """Return the number of classes of a single whole-numbered column, or 2 where columns are yes/no labels."""
    tables = [table for table in labels.values() if len(table)]
    if not tables or any(table.shape[1] != 1 or table.dtype.kind not in "iub" for table in tables):
        return 2
    n_classes = int(max(table.max() for table in tables)) + 1
    if n_classes > MAX_CLASSES:
        raise UsageError(f"the label column has the value {n_classes - 1}; expected class numbers below {MAX_CLASSES}")
    return max(n_classes, 2)
