"""From labels with uncertain and unknown ones to what an epoch trains on (Irvin et al., AAAI 2019; Pham et al., 2021).

>>> import numpy as np
>>> draw_targets(np.array([[POSITIVE, UNCERTAIN, UNKNOWN]], np.int8), "u-ignore", np.random.default_rng(0)).tolist()
[[1.0, nan, nan]]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from featurestore.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurestore.store import Store

POSITIVE, NEGATIVE, UNCERTAIN, UNKNOWN = 1, 0, -1, -2
"""Codes of a target; a blank label is negative, one that could not be read is unknown."""
POLICIES = ("u-zeros", "u-ones", "u-ignore", "u-ones-lsr")
SMOOTHED = (0.55, 0.85)
"""Limits of the uniform distribution that U-Ones+LSR draws an uncertain label from (Pham et al., 2021)."""


def check_policy(name: str) -> str:
    """Return ``name``, or raise `UsageError` listing the uncertainty policies there are."""
    if name not in POLICIES:
        raise UsageError(f"uncertain labels by {name!r}: choose one of {', '.join(POLICIES)}")
    return name


def read_targets(
    store: Store, dataset: str, ids: Sequence[str], labels: Sequence[str], blank: Literal["zero", "ignore"] = "zero"
) -> NDArray[np.int8]:
    """Read the coded labels of some images.

    Parameters
    ----------
    store : Store
    dataset : str
    ids : sequence of str
    labels : sequence of str
    blank : {"zero", "ignore"}
        What a label without a value is: negative or unknown.

    Returns
    -------
    numpy.ndarray of shape (n_images, n_labels), int8
        `POSITIVE`, `NEGATIVE`, `UNCERTAIN` or `UNKNOWN`.
    """
    from classifiers.labels import LabelPolicy, label_matrix  # reads tables, which `cxr --help` does not need

    ignored = label_matrix(store, dataset, ids, labels, LabelPolicy("ignore", blank))
    ones = label_matrix(store, dataset, ids, labels, LabelPolicy("ones", blank))
    codes = np.where(np.isnan(ones), UNKNOWN, np.where(np.isnan(ignored), UNCERTAIN, np.nan_to_num(ones)))
    return codes.astype(np.int8)


def read_groups(
    store: Store,
    dataset: str,
    ids: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    blank: Literal["zero", "ignore"] = "zero",
) -> NDArray[np.int8]:
    """Read coded labels of some images, each the maximum over a group of the data set's labels.

    Returns
    -------
    numpy.ndarray of shape (n_images, n_groups), int8
    """
    names = list(dict.fromkeys(name for members in groups.values() for name in members))
    codes = read_targets(store, dataset, ids, names, blank)
    columns = [codes[:, [names.index(name) for name in members]] for members in groups.values()]
    return np.stack([merge_targets(column) for column in columns], axis=1)


def merge_targets(codes: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return the maximum over the last axis: positive beats uncertain beats negative beats unknown."""
    rank = np.array([1, 3, 0, 2], np.int8)  # by code as index, two of them from the end
    best: NDArray[np.int64] = rank[codes].argmax(axis=-1)
    return np.take_along_axis(codes, best[..., None], -1)[..., 0]


def draw_targets(codes: NDArray[np.int8], policy: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return what one epoch trains on.

    Parameters
    ----------
    codes : numpy.ndarray of shape (n_images, n_labels), int8
    policy : str
        One of `POLICIES`. ``u-ones-lsr`` draws each uncertain label from U(0.55, 0.85).
    rng : numpy.random.Generator
        Seeded by the epoch, so that each epoch draws anew and a repeated one draws the same.

    Returns
    -------
    numpy.ndarray of shape (n_images, n_labels), float32
        In [0, 1]; nan where the loss is masked.
    """
    fixed = {"u-zeros": 0.0, "u-ones": 1.0, "u-ignore": np.nan}
    uncertain = rng.uniform(*SMOOTHED, codes.shape) if check_policy(policy) == "u-ones-lsr" else fixed[policy]
    known = np.where(codes == UNCERTAIN, uncertain, np.where(codes == UNKNOWN, np.nan, codes))
    return known.astype(np.float32)


def truth(codes: NDArray[np.int8], policy: str) -> NDArray[np.float64]:
    """Return what a validation compares with: 1, 0, or nan, an uncertain label as its policy says (smoothed: 1)."""
    value = {"u-zeros": 0.0, "u-ignore": np.nan}.get(check_policy(policy), 1.0)
    return np.where(codes == UNCERTAIN, value, np.where(codes == UNKNOWN, np.nan, codes)).astype(np.float64)


def constant_labels(codes: NDArray[np.int8], labels: Sequence[str], policy: str) -> list[str]:
    """Return the labels of which these images show one value only, so that nothing can be learnt of them."""
    values = truth(codes, policy)
    spread = [np.nanmin(y, initial=1) < np.nanmax(y, initial=0) for y in values.T]
    return [label for label, varies in zip(labels, spread, strict=True) if not varies]


def check_trainable(codes: NDArray[np.int8], labels: Sequence[str], policy: str) -> None:
    """Raise `UsageError`, naming them, if labels have one value only in the training images.

    Parameters
    ----------
    codes : numpy.ndarray of shape (n_images, n_labels), int8
        Of the training images.
    labels : sequence of str
    policy : str
    """
    values, flat = truth(codes, policy), constant_labels(codes, labels, policy)
    constant = [
        f"{label!r} ({int(np.nansum(values[:, i]))} positive of {int((~np.isnan(values[:, i])).sum())} known)"
        for i, label in enumerate(labels)
        if label in flat
    ]
    if constant:
        raise UsageError(
            f"nothing can be learnt of {', '.join(constant)} in the {len(codes)} training images under {policy}: name "
            "the labels that vary with --label-map, choose another --uncertainty, or train on more images"
        )
