"""The heads: one literal table. Adding a head is adding a row (and, for a new library, the function that builds it).

A head of one's own needs no row: `classifiers.own_heads` takes any factory of a scikit-learn-compatible classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
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

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return parameters, those of nested estimators as ``name__parameter``."""

    def set_params(self, **params: Any) -> Any:
        """Change parameters, such as `n_jobs`."""


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
    by_backbone : mapping of str to mapping
        Parameters that differ between backbones.
    source : str
        SHA-256 of the code of a user's own factory: a changed one makes other models.
    """

    name: str
    factory: Callable[..., Estimator]
    params: Mapping[str, Any]
    multi_output: bool
    unit: Literal["probability", "log-odds"]
    by_backbone: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    source: str = ""

    def params_for(self, backbone: str) -> dict[str, Any]:
        """Return what the factory is handed for the vectors of a backbone."""
        return {**self.params, **self.by_backbone.get(backbone, {})}


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


def _tree(seed: int, n_jobs: int, **params: Any) -> Estimator:
    from sklearn.tree import DecisionTreeClassifier

    tree: Estimator = DecisionTreeClassifier(random_state=seed, **params)
    return tree


def _neighbours(seed: int, n_jobs: int, **params: Any) -> Estimator:
    from sklearn.neighbors import KNeighborsClassifier

    neighbours: Estimator = KNeighborsClassifier(n_jobs=n_jobs, **params)
    return neighbours


def _logistic(seed: int, n_jobs: int, **params: Any) -> Estimator:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    line: Estimator = make_pipeline(StandardScaler(), LogisticRegression(random_state=seed, **params))
    return line


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

# LightGBM's forest mode on histograms of 255 bins; bagging is part of it.
_LGBM_FOREST = _params(
    boosting_type="rf", n_estimators=100, max_depth=10, num_leaves=64, min_child_samples=4, subsample=0.8,
    subsample_freq=1, colsample_bynode=0.05, deterministic=True, force_row_wise=True, verbose=-1,
)  # fmt: skip
_FOREST_2021 = _params(n_estimators=200, max_features="sqrt")
_BY_BACKBONE_2021 = MappingProxyType(
    {
        backbone: _params(max_depth=depth, min_samples_split=split, min_samples_leaf=leaf)
        for backbone, depth, split, leaf in (
            ("densenet121", 15, 2, 10),
            ("densenet169", 15, 2, 10),
            ("densenet201", 30, 10, 10),
            ("inception_resnet_v2", 30, 10, 1),
            ("xception", 30, 10, 1),
            ("vgg16", 5, 2, 10),
            ("vgg19", 15, 50, 1),
        )
    }
)
_STACKING = _params(n_estimators=1400, max_depth=30, min_samples_split=5, max_features="sqrt")
_BALANCED = "balanced"


def _weighted(spec: HeadSpec) -> HeadSpec:
    """Return a head that weighs each class by the inverse of its share of the training images."""
    # Of several labels each has weights of its own, so one estimator is fitted for each.
    params = _params(**spec.params, class_weight=_BALANCED)
    return replace(spec, name=f"{spec.name}_{_BALANCED}", params=params, multi_output=False)


_PLAIN = (
    HeadSpec("rf", _random_forest, _FOREST, multi_output=True, unit="probability"),
    HeadSpec("rf100", _random_forest, _GRID, multi_output=True, unit="probability"),
    HeadSpec("rf2021", _random_forest, _FOREST_2021, True, "probability", _BY_BACKBONE_2021),
    HeadSpec("extra_trees", _extra_trees, _EXTRA, multi_output=True, unit="probability"),
    HeadSpec("tree", _tree, _params(max_depth=10), multi_output=True, unit="probability"),
    HeadSpec("knn", _neighbours, _params(n_neighbors=10, p=1), multi_output=True, unit="probability"),
    HeadSpec("logistic", _logistic, _params(C=0.01, max_iter=1000), multi_output=False, unit="log-odds"),
    HeadSpec("lightgbm", _lightgbm, _BOOST, multi_output=False, unit="log-odds"),
    HeadSpec("lightgbm_forest", _lightgbm, _LGBM_FOREST, multi_output=False, unit="log-odds"),
    HeadSpec("rf_stacking", _random_forest, _STACKING, multi_output=True, unit="probability"),
)
_WITH_WEIGHTS = ("rf100", "extra_trees", "lightgbm")
HEADS: Mapping[str, HeadSpec] = MappingProxyType(
    {spec.name: spec for spec in (*_PLAIN, *(_weighted(spec) for spec in _PLAIN if spec.name in _WITH_WEIGHTS))}
)
"""Every shipped head by name.

The paper's forest, its grid-searched one, the 2021 paper's by backbone, extremely randomised trees, a decision tree,
nearest neighbours (10, Manhattan), logistic regression on standardised features, the 2021 boosting, the forest for
stacking; and some with class weights.
"""


def head_spec(name: str) -> HeadSpec:
    """Return a head by its name, or a user's own by ``module:factory`` or its entry point.

    Raises
    ------
    UsageError
        If there is none; names those there are.
    """
    if name in HEADS:
        return HEADS[name]
    from classifiers.own_heads import find_head

    return find_head(name)


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
            block.estimator.set_params(**_one_thread(block.estimator))
            result[:, list(block.columns)] = predict_probabilities(block.estimator, X, len(block.columns))
        return result


def fit_head(
    spec: HeadSpec,
    X: NDArray[np.float32],
    Y: NDArray[np.float64],
    labels: Sequence[str],
    *,
    seed: int,
    n_jobs: int = 1,
    backbone: str = "",
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
    backbone : str
        Whose vectors they are, for a head whose parameters differ between backbones.

    Returns
    -------
    FittedHead

    Raises
    ------
    UsageError
        X holds nan or infinity, or the head is no classifier with probabilities.
    ValueError
        The shapes do not fit together.
    """
    _check_features(X)
    if Y.shape != (len(X), len(labels)):
        raise ValueError(f"label matrix of shape {Y.shape}: expected ({len(X)}, {len(labels)})")
    failed = {label: why for label, y in zip(labels, Y.T, strict=True) if (why := _unfit(label, y))}
    columns = [column for column, label in enumerate(labels) if label not in failed]
    groups = _same_rows(Y, columns) if spec.multi_output else [(column,) for column in columns]
    make = partial(spec.factory, seed=seed, n_jobs=n_jobs, **spec.params_for(backbone))
    blocks = tuple(Block(group, _fit(spec.name, make(), X, Y, group)) for group in groups)
    return FittedHead(spec, tuple(labels), blocks, failed)


def predict_probabilities(estimator: Estimator, X: NDArray[np.float32], labels: int = 1) -> NDArray[np.float64]:
    """Return P(1) per label, whatever shape the estimator answers in.

    Parameters
    ----------
    estimator : Estimator
        Fitted on one label or several; a label that was constant in training has one class and gives 0 or 1.
    X : numpy.ndarray of shape (n_images, n_features), float32
    labels : int
        How many it was fitted on.

    Returns
    -------
    numpy.ndarray of shape (n_images, n_labels), float64
    """
    answer = estimator.predict_proba(X)
    several = isinstance(answer, list)
    if labels > 1 and not several:  # neural networks answer P(1) of each label in one array
        return np.asarray(answer, dtype=np.float64)
    pairs = zip(answer, estimator.classes_, strict=True) if several else [(answer, estimator.classes_)]
    return np.column_stack([_positive(probability, classes) for probability, classes in pairs])


def _positive(probability: NDArray[np.float64], classes: Any) -> NDArray[np.float64]:
    column = np.flatnonzero(np.asarray(classes) == 1)
    return np.asarray(probability[:, column[0]]) if column.size else np.zeros(len(probability))


def _fit(
    name: str, estimator: Estimator, X: NDArray[np.float32], Y: NDArray[np.float64], columns: Sequence[int]
) -> Estimator:
    if not hasattr(estimator, "predict_proba"):
        raise UsageError(
            f"head {name!r} is a {type(estimator).__name__} without predict_proba; give a classifier that has it, or "
            "wrap it in sklearn.calibration.CalibratedClassifierCV"
        )
    known = ~np.isnan(Y[:, columns[0]])
    target = Y[np.ix_(known, np.asarray(columns))].astype(np.int64)
    estimator.fit(X[known], target[:, 0] if len(columns) == 1 else target)
    return estimator


def _one_thread(estimator: Estimator) -> dict[str, int]:
    """Return what sets an estimator, and those inside it, to one thread."""
    return {name: 1 for name in estimator.get_params() if name == "n_jobs" or name.endswith("__n_jobs")}


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
