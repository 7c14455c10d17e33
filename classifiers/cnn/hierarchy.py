"""The labels' tree: which images phase 1 of conditional training sees, and how its outputs become unconditional.

>>> import numpy as np
>>> unconditional(np.array([[0.5, 0.5, 0.5]]), ["Lung Opacity", "Consolidation", "Pneumonia"], "text").tolist()
[[0.5, 0.25, 0.125]]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
import yaml

from classifiers.cnn.targets import POSITIVE
from featurestore.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@cache
def hierarchies() -> Mapping[str, Mapping[str, str]]:
    """Return the shipped hierarchies by name: {label: its parent}."""
    found: dict[str, dict[str, str]] = yaml.safe_load(files("classifiers.cnn").joinpath("hierarchies.yaml").read_text())
    return found


def check_hierarchy(name: str) -> str:
    """Return ``name``, or raise `UsageError` listing the hierarchies there are."""
    if name not in hierarchies():
        raise UsageError(f"hierarchy {name!r}: choose one of {', '.join(hierarchies())}")
    return name


def path(label: str, name: str) -> list[str]:
    """Return a label's ancestors, nearest first."""
    parents, found = hierarchies()[check_hierarchy(name)], []
    while label in parents:
        label = parents[label]
        found.append(label)
    return found


def ancestors(labels: Sequence[str], name: str) -> dict[str, list[str]]:
    """Return each label's ancestors among the labels, nearest first; labels without any are left out."""
    found = {label: [above for above in path(label, name) if above in labels] for label in labels}
    return {label: above for label, above in found.items() if above}


def unconditional(probabilities: NDArray[np.floating], labels: Sequence[str], name: str) -> NDArray[np.float64]:
    """Multiply each label's conditional probability by those along its path; an absent ancestor is left out.

    Parameters
    ----------
    probabilities : numpy.ndarray of shape (n_images, n_labels)
        In [0, 1], each given that the label's parent is present.
    labels : sequence of str, of length n_labels
    name : str
        ``code`` (one level) or ``text`` (full path).

    Returns
    -------
    numpy.ndarray of shape (n_images, n_labels), float64
    """
    factors = [probabilities[:, [i, *above]].astype(np.float64) for i, above in enumerate(_columns_above(labels, name))]
    return np.stack([factor.prod(axis=1) for factor in factors], axis=1)


def _columns_above(labels: Sequence[str], name: str) -> list[list[int]]:
    """Return, for each label, the columns of its ancestors among the labels."""
    above = ancestors(labels, name)
    return [[labels.index(ancestor) for ancestor in above.get(label, ())] for label in labels]


def parents_present(codes: NDArray[np.int8], labels: Sequence[str], name: str) -> NDArray[np.bool_]:
    """Return where a label's loss counts in phase 1: every ancestor among the labels is certainly present.

    Parameters
    ----------
    codes : numpy.ndarray of shape (n_images, n_labels), int8
    labels : sequence of str
    name : str

    Returns
    -------
    numpy.ndarray of shape (n_images, n_labels), bool
        A label without a parent counts everywhere.
    """
    present = codes == POSITIVE
    above = [present[:, columns].all(axis=1) for columns in _columns_above(labels, name)]
    counts: NDArray[np.bool_] = np.stack(above, axis=1)
    return counts


def conditional_rows(codes: NDArray[np.int8], labels: Sequence[str], name: str) -> NDArray[np.bool_]:
    """Return which images phase 1 trains on: those that show at least one label that is a parent.

    Parameters
    ----------
    codes : numpy.ndarray of shape (n_images, n_labels), int8
    labels : sequence of str
    name : str

    Returns
    -------
    numpy.ndarray of shape (n_images,), bool

    Raises
    ------
    UsageError
        If the labels hold no parent, or no image shows one.
    """
    parents = [i for i, label in enumerate(labels) if label in set(hierarchies()[check_hierarchy(name)].values())]
    rows: NDArray[np.bool_] = (codes[:, parents] == POSITIVE).any(axis=1)
    if not rows.any():
        raise UsageError(
            f"--conditional {name}: no training image shows a parent label "
            f"({', '.join(sorted(set(hierarchies()[name].values())))}); train without --conditional"
        )
    return rows
