"""The truth under label names that a label map makes of a data set's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from classifiers.cnn.targets import read_groups, truth
from classifiers.label_map import made_of
from classifiers.labels import LabelPolicy, dataset_labels, label_matrix

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from featurestore.store import Store


def truth_matrix(
    store: Store,
    dataset: str,
    ids: Sequence[str],
    labels: Sequence[str],
    policy: LabelPolicy,
    groups: Mapping[str, Sequence[str]],
) -> NDArray[np.float64]:
    """Read the labels of some images, each the maximum over its group: positive, uncertain, negative, unknown.

    Parameters
    ----------
    store : Store
    dataset : str
    ids, labels : sequence of str
        Rows and columns of the result.
    policy : LabelPolicy
        Applied after the maximum was taken.
    groups : mapping of str to sequence of str
        Labels by new label (`classifiers.label_map.made_of`).

    Returns
    -------
    numpy.ndarray of shape (n_images, n_labels), float64
        1, 0 or nan.

    Raises
    ------
    featurestore.errors.UsageError
        If the data set lacks one of the labels.
    """
    if not groups:
        return label_matrix(store, dataset, ids, labels, policy)
    offered = dataset_labels(store, dataset)
    wanted = {label: made_of(label, groups, offered) or (label,) for label in labels}
    return truth(read_groups(store, dataset, ids, wanted, policy.blank), f"u-{policy.uncertain}")
