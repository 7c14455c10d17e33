"""The heads: one literal table. Adding a head is adding a row (and, for a new library, the function that builds it)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from featurestore.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Estimator(Protocol):
    """What a head builds: scikit-learn's classifier interface."""

    classes_: Any

    def fit(self, X: Any, y: Any) -> Any:
        """Fit on X (n_images, n_features) and y (n_images,) or (n_images, n_labels) of 0 and 1."""

    def predict_proba(self, X: Any) -> Any:
        """Return (n_images, n_classes), or a list of them, one per label."""

    def set_params(self, **params: Any) -> Any:
        """Change parameters, `n_jobs` among them."""


@dataclass(frozen=True)
class HeadSpec:
    """One kind of head.

    Parameters
    ----------
    name : str
        Matches ``[a-z0-9_]+``.
    factory : callable
        ``factory(seed=..., n_jobs=..., **params)`` returns an unfitted `Estimator`.
    params : mapping
        Handed to the factory, and part of a model's identity.
    multi_output : bool
        Whether one estimator learns all labels at once; otherwise one is fitted per label.
    unit : {"probability", "log-odds"}
        The unit in which the head's output is a sum over trees: what an additive explanation explains.
    """

    name: str
    factory: Callable[..., Estimator]
    params: Mapping[str, Any]
    multi_output: bool
    unit: Literal["probability", "log-odds"]


def _random_forest(seed: int, n_jobs: int, **params: Any) -> Estimator:
    from sklearn.ensemble import RandomForestClassifier

    forest: Estimator = RandomForestClassifier(random_state=seed, n_jobs=n_jobs, **params)
    return forest


def _extra_trees(seed: int, n_jobs: int, **params: Any) -> Estimator:
    from sklearn.ensemble import ExtraTreesClassifier

    forest: Estimator = ExtraTreesClassifier(random_state=seed, n_jobs=n_jobs, **params)
    return forest


def _lightgbm(seed: int, n_jobs: int, **params: Any) -> Estimator:
    from lightgbm import LGBMClassifier

    boosting: Estimator = LGBMClassifier(random_state=seed, n_jobs=n_jobs, **params)
    return boosting


def _params(**params: Any) -> Mapping[str, Any]:
    return MappingProxyType(params)


_FOREST = _params(n_estimators=1000, max_depth=5, max_features="sqrt", bootstrap=False)
_GRID = _params(
    n_estimators=100,
    max_depth=10,
    min_samples_leaf=4,
    min_samples_split=10,
    max_features="sqrt",
    bootstrap=False,
)
_EXTRA = _params(
    n_estimators=200, criterion="entropy", max_depth=10, min_samples_leaf=2, max_features="sqrt", bootstrap=False
)
# deterministic needs force_row_wise (or col_wise), or the choice between them is timed anew at each fit.
_BOOST = _params(n_estimators=50, max_depth=3, num_leaves=8, deterministic=True, force_row_wise=True, verbose=-1)

HEADS: Mapping[str, HeadSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            HeadSpec("rf", _random_forest, _FOREST, multi_output=True, unit="probability"),
            HeadSpec("rf100", _random_forest, _GRID, multi_output=True, unit="probability"),
            HeadSpec("extra_trees", _extra_trees, _EXTRA, multi_output=True, unit="probability"),
            HeadSpec("lightgbm", _lightgbm, _BOOST, multi_output=False, unit="log-odds"),
        )
    }
)
"""Every head by name: the paper's forest, its grid-searched one, extremely randomised trees, the 2021 boosting."""


def head_spec(name: str) -> HeadSpec:
    """Return the head of that name; `UsageError` names those there are."""
    if name not in HEADS:
        raise UsageError(f"no head {name!r}; choose among {', '.join(HEADS)}")
    return HEADS[name]


@dataclass(frozen=True)
class Block:
    """One fitted estimator and the columns of the label matrix it predicts."""

    columns: tuple[int, ...]
    estimator: Estimator


@dataclass(frozen=True)
class FittedHead:
    """A head fitted on some labels.

    Parameters
    ----------
    spec : HeadSpec
    labels : tuple of str
        All labels asked for, in order.
    blocks : tuple of Block
        The estimators; together they cover `labels_ok`.
    failed : mapping of str to str
        Why a label has no model.
    """

    spec: HeadSpec
    labels: tuple[str, ...]
    blocks: tuple[Block, ...]
    failed: Mapping[str, str]

    @property
    def labels_ok(self) -> tuple[str, ...]:
        """Return the labels that have a model, in order."""
        return tuple(label for label in self.labels if label not in self.failed)

    def predict(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Predict, on one thread: the sum over trees then has one order, and two calls are bit-equal.

        Parameters
        ----------
        X : numpy.ndarray of shape (n_images, n_features), float32

        Returns
        -------
        numpy.ndarray of shape (n_images, n_labels), float64
            Probabilities in [0, 1]; a failed label's column is nan.
        """
        _check_features(X)
        result = np.full((len(X), len(self.labels)), np.nan)
        for block in self.blocks:
            block.estimator.set_params(n_jobs=1)
            result[:, list(block.columns)] = predict_probabilities(block.estimator, X)
        return result


def fit_head(
    spec: HeadSpec,
    X: NDArray[np.float32],
    Y: NDArray[np.float64],
    labels: Sequence[str],
    *,
    seed: int,
    n_jobs: int = 1,
) -> FittedHead:
    """Fit a head on vectors.

    A label with one class among its known rows gets no model and a reason in ``failed``; the others are fitted. A
    multi-output head is one estimator over all labels where every label is known in every row. Rows that are nan in a
    label (an ignored uncertain value) cannot enter that label's estimator, so labels known on the same rows share an
    estimator, fitted on those rows, and each other set of labels gets its own.

    Parameters
    ----------
    spec : HeadSpec
    X : numpy.ndarray of shape (n_images, n_features), float32
    Y : numpy.ndarray of shape (n_images, n_labels), float64
        1, 0 or nan.
    labels : sequence of str
        The names of Y's columns.
    seed : int
        In [0, 2**32 - 1].
    n_jobs : int
        Threads for fitting; the result does not depend on it.

    Returns
    -------
    FittedHead

    Raises
    ------
    UsageError
        X holds nan or infinity.
    ValueError
        The shapes do not fit together.
    """
    _check_features(X)
    if Y.shape != (len(X), len(labels)):
        raise ValueError(f"label matrix of shape {Y.shape}: expected ({len(X)}, {len(labels)})")
    failed = {label: why for label, y in zip(labels, Y.T, strict=True) if (why := _unfit(label, y))}
    columns = [column for column, label in enumerate(labels) if label not in failed]
    groups = _same_rows(Y, columns) if spec.multi_output else [(column,) for column in columns]
    blocks = tuple(Block(group, _fit(spec, X, Y, group, seed, n_jobs)) for group in groups)
    return FittedHead(spec, tuple(labels), blocks, failed)


def predict_probabilities(estimator: Estimator, X: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return P(1) per label, whatever shape the estimator answers in.

    Parameters
    ----------
    estimator : Estimator
        Fitted on one label or several; a label that was constant in training has one class and gives 0 or 1.
    X : numpy.ndarray of shape (n_images, n_features), float32

    Returns
    -------
    numpy.ndarray of shape (n_images, n_labels), float64
    """
    answer = estimator.predict_proba(X)
    several = isinstance(answer, list)
    pairs = zip(answer, estimator.classes_, strict=True) if several else [(answer, estimator.classes_)]
    return np.column_stack([_positive(probability, classes) for probability, classes in pairs])


def _positive(probability: NDArray[np.float64], classes: Any) -> NDArray[np.float64]:
    column = np.flatnonzero(np.asarray(classes) == 1)
    return np.asarray(probability[:, column[0]]) if column.size else np.zeros(len(probability))


def _fit(
    spec: HeadSpec, X: NDArray[np.float32], Y: NDArray[np.float64], columns: Sequence[int], seed: int, n_jobs: int
) -> Estimator:
    known = ~np.isnan(Y[:, columns[0]])
    target = Y[np.ix_(known, np.asarray(columns))].astype(np.int64)
    estimator = spec.factory(seed=seed, n_jobs=n_jobs, **spec.params)
    estimator.fit(X[known], target[:, 0] if len(columns) == 1 else target)
    return estimator


def _same_rows(Y: NDArray[np.float64], columns: Sequence[int]) -> list[tuple[int, ...]]:
    groups: dict[bytes, list[int]] = {}
    for column in columns:
        groups.setdefault(np.isnan(Y[:, column]).tobytes(), []).append(column)
    return [tuple(group) for group in groups.values()]


def _unfit(label: str, y: NDArray[np.float64]) -> str:
    known = y[~np.isnan(y)]
    if len(np.unique(known)) > 1:
        return ""
    what = f"all {known[0]:.0f}" if len(known) else "none is known"
    return f"label {label!r} has one class among its {len(known)} training images ({what}): both 0 and 1 are needed"


def _check_features(X: NDArray[np.float32]) -> None:
    bad = ~np.isfinite(X).all(axis=1)
    if bad.any():
        raise UsageError(
            f"{bad.sum()} of {len(X)} vectors hold nan or infinity; run `cxr verify` and extract those images again"
        )
