"""A forest explained on the feature map: attributions of pooled features, spread back over the positions.

An embedding is the mean over positions of a feature map ``A >= 0``. A tree head's output is split by TreeSHAP into one
share ``phi_c`` per embedding feature, and each share is laid out where its channel was active:

    S(x, y) = sum_c phi_c A_c(x, y) / sum_xy A_c

Channels that are dead in an image (``sum_xy A_c = 0``) have no place; their shares are the *remainder*. Then
``sum(S) + remainder + base = output``, exactly, in the head's own unit.

The sum is exact; **the placement is a convention**, and doubtful where a *low* activation drove a split: the share is
then drawn where the channel was active, though it was its absence elsewhere that counted.

>>> import numpy as np
>>> phi = np.array([[[0.3, -0.1, 0.2]]])  # one image, one label, three channels
>>> maps = np.array([[[[1, 3]], [[2, 0]], [[0, 0]]]], dtype=np.float32)  # the third channel is dead
>>> projection = back_project(phi, maps)
>>> projection.maps[0, 0].round(3).tolist(), projection.remainder.tolist()
([[-0.025, 0.225]], [[0.2]])
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from featurestore.errors import HarmError, UsageError

Floats: TypeAlias = npt.NDArray[np.float64]

ADDITIVITY_TOLERANCE = 1e-6
"""Largest |sum(phi) + base - output| accepted, in the head's unit."""


@dataclass(frozen=True)
class Attributions:
    """What each embedding feature added to a head's output.

    Parameters
    ----------
    phi : ndarray of float64, shape (n_images, n_labels, n_features)
        Signed shares, in ``unit``.
    base : ndarray of float64, shape (n_labels,)
        The head's expected output before any feature is known.
    output : ndarray of float64, shape (n_images, n_labels)
        The head's own prediction of label = 1; ``phi.sum(axis=2) + base`` equals it to 1e-6.
    unit : {"probability", "log-odds"}
        Forests: probability, in [0, 1]. LightGBM: log-odds, unbounded.
    """

    phi: Floats
    base: Floats
    output: Floats
    unit: str


@dataclass(frozen=True)
class Projection:
    """Attributions laid out on the feature map's grid.

    Parameters
    ----------
    maps : ndarray of float64, shape (n_images, n_labels, height, width)
        Signed; positive raises the head's output, negative lowers it.
    remainder : ndarray of float64, shape (n_images, n_labels)
        Shares of channels dead in that image: they have no place on the map.
    """

    maps: Floats
    remainder: Floats


def attributions(estimator: Any, X: npt.ArrayLike) -> Attributions:
    """Split a tree head's output into one share per embedding feature by TreeSHAP, `tree_path_dependent`.

    Algorithm 2 of Lundberg et al., *From local explanations to global understanding with explainable AI for trees*,
    Nat Mach Intell 2 (2020) 56-67: a feature outside the coalition sends a sample down both branches, weighted by the
    training samples that took each.

    Parameters
    ----------
    estimator : RandomForestClassifier, ExtraTreesClassifier or LGBMClassifier, or a sequence of them
        Fitted on labels 0 and 1. A forest may be multi-output. A sequence holds the labels side by side (one LightGBM
        model per label), all in one unit.
    X : array of float, shape (n_images, n_features)
        Embeddings, finite.

    Returns
    -------
    Attributions

    Raises
    ------
    featurestore.errors.UsageError
        Where the estimator is of another kind, not fitted or not binary, units are mixed, or `X` does not fit or is
        not finite.
    featurestore.errors.HarmError
        Where the shares do not add up to the estimator's own prediction.
    """
    estimators = list(estimator) if isinstance(estimator, Sequence) else [estimator]
    if not estimators:
        raise UsageError("no estimator to explain; expected at least one fitted forest or LightGBM model")
    matrix = _matrix(X)
    parts = [_explain(one, matrix) for one in estimators]
    units = sorted({part.unit for part in parts})
    if len(units) > 1:
        raise UsageError(
            f"heads in different units ({', '.join(units)}) cannot share one explanation; explain each apart"
        )
    return Attributions(
        phi=np.concatenate([part.phi for part in parts], axis=1),
        base=np.concatenate([part.base for part in parts]),
        output=np.concatenate([part.output for part in parts], axis=1),
        unit=units[0],
    )


def back_project(phi: npt.ArrayLike, maps: npt.ArrayLike) -> Projection:
    """Spread each feature's share over the positions where its channel was active.

    Parameters
    ----------
    phi : array of float, shape (n_images, n_labels, n_channels)
        `Attributions.phi`, finite.
    maps : array of float32, shape (n_images, n_channels, height, width)
        The feature maps whose mean over positions is the embedding; finite and >= 0 (after the last ReLU).

    Returns
    -------
    Projection
        ``maps.sum((2, 3)) + remainder`` equals ``phi.sum(2)`` up to float64 rounding.

    Raises
    ------
    featurestore.errors.UsageError
        Where shapes disagree, or a value is negative, NaN or infinite.
    """
    shares, activations = np.asarray(phi, dtype=np.float64), np.asarray(maps)
    _check_shapes(shares, activations)
    _check_finite("attributions", shares)
    _check_activations(activations)
    mass = activations.sum(axis=(2, 3), dtype=np.float64)[:, None, :]
    dead = mass == 0
    density = np.divide(shares, mass, out=np.zeros_like(shares), where=~dead)
    return Projection(
        # optimize=True hands the sum over channels to BLAS: some twenty times faster at 2,048 channels
        maps=np.einsum("nlc,nchw->nlhw", density, activations, dtype=np.float64, optimize=True),
        remainder=np.where(dead, shares, 0.0).sum(axis=2),
    )


def _explain(estimator: Any, X: npt.NDArray[np.float32]) -> Attributions:
    """Explain one estimator and hold the result against its own prediction."""
    from lightgbm import LGBMClassifier
    from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

    if not isinstance(estimator, (RandomForestClassifier, ExtraTreesClassifier, LGBMClassifier)):
        raise UsageError(
            f"a {type(estimator).__name__} has no exact tree attribution here; expected a fitted "
            "RandomForestClassifier, ExtraTreesClassifier or LGBMClassifier"
        )
    if not hasattr(estimator, "n_features_in_"):
        raise UsageError(f"the {type(estimator).__name__} is not fitted; expected a fitted one: call fit first")
    if X.shape[1] != estimator.n_features_in_:
        raise UsageError(
            f"embeddings have {X.shape[1]} features but the {type(estimator).__name__} was fitted on "
            f"{estimator.n_features_in_}; explain it with vectors of the backbone it was fitted on"
        )
    found = _boosting(estimator, X) if isinstance(estimator, LGBMClassifier) else _forest(estimator, X)
    _check_additive(found, type(estimator).__name__)
    return found


def _forest(forest: Any, X: npt.NDArray[np.float32]) -> Attributions:
    """Explain every output of a forest in one pass, through shap's dictionary form of a tree ensemble.

    shap reads a multi-output scikit-learn tree as one output whose classes lie side by side, and scales it by the
    number of outputs. Handing it the positive classes' columns keeps the probabilities, and halves the work.
    """
    shap = _shap()
    positive = _positive_columns(forest)
    trees = [_tree(member.tree_, positive, len(forest.estimators_)) for member in forest.estimators_]
    # scikit-learn compares float32 features with its thresholds, and so must shap
    model = {"trees": trees, "input_dtype": np.float32, "tree_output": "probability"}
    explainer = shap.TreeExplainer(model, feature_perturbation="tree_path_dependent")
    phi = np.asarray(explainer.shap_values(X, check_additivity=False), dtype=np.float64)
    return Attributions(
        phi=np.ascontiguousarray(phi.reshape(*X.shape, len(positive)).transpose(0, 2, 1)),
        base=np.asarray(explainer.expected_value, dtype=np.float64).reshape(len(positive)),
        output=_forest_output(forest, positive, X),
        unit="probability",
    )


def _shap() -> Any:
    """Import shap, whose plotting part calls what matplotlib 3.11 will deprecate; nothing of ours plots with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        import shap
    return shap


def _tree(tree: Any, positive: Sequence[int], n_trees: int) -> dict[str, npt.NDArray[Any]]:
    """Describe one scikit-learn tree by its labels' positive probabilities, as a share of the forest's mean."""
    values = np.stack([tree.value[:, label, column] for label, column in enumerate(positive)], axis=1)
    return {
        "children_left": tree.children_left,
        "children_right": tree.children_right,
        "children_default": tree.children_left,  # where NaN would go; embeddings hold none
        "features": tree.feature,
        "thresholds": tree.threshold,
        "values": values / n_trees,
        "node_sample_weight": tree.weighted_n_node_samples,
    }


def _forest_output(forest: Any, positive: Sequence[int], X: npt.NDArray[np.float32]) -> Floats:
    """Predict on one thread: parallel forests add their trees in the order they finish."""
    predicted = copy.copy(forest).set_params(n_jobs=1).predict_proba(X)
    by_label = predicted if isinstance(predicted, list) else [predicted]
    return np.stack([part[:, column] for part, column in zip(by_label, positive, strict=True)], axis=1)


def _boosting(model: Any, X: npt.NDArray[np.float32]) -> Attributions:
    """Explain a binary LightGBM model by its own TreeSHAP; the last column of `pred_contrib` is the base."""
    _positive_columns(model)
    contributions = np.asarray(model.predict(X, pred_contrib=True, num_threads=1), dtype=np.float64)
    output = np.asarray(model.predict(X, raw_score=True, num_threads=1), dtype=np.float64)
    return Attributions(
        phi=np.ascontiguousarray(contributions[:, None, :-1]),
        base=contributions[:1, -1],
        output=output[:, None],
        unit="log-odds",
    )


def _positive_columns(estimator: Any) -> list[int]:
    """Return, for each label, the column that holds class 1."""
    by_label = estimator.classes_ if isinstance(estimator.classes_, list) else [estimator.classes_]
    for label, classes in enumerate(by_label):
        if list(classes) != [0, 1]:
            raise UsageError(
                f"label {label} of the {type(estimator).__name__} has classes {np.asarray(classes).tolist()}; expected "
                "0 and 1: a label with one class, or more than two, has no probability to explain"
            )
    return [1] * len(by_label)


def _check_additive(found: Attributions, name: str) -> None:
    gap = np.abs(found.phi.sum(axis=2) + found.base - found.output).max()
    if not gap <= ADDITIVITY_TOLERANCE:
        raise HarmError(
            f"attributions of the {name} miss its own {found.unit} by {gap:.3g} (at most {ADDITIVITY_TOLERANCE:g} "
            "expected): they explain another model; report it with the versions of shap, scikit-learn and lightgbm"
        )


def _matrix(X: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return `X` as scikit-learn and LightGBM will see it: float32, two dimensions, at least one row, finite."""
    matrix = np.ascontiguousarray(X, dtype=np.float32)
    if matrix.ndim != 2 or matrix.shape[0] == 0:
        raise UsageError(
            f"embeddings of shape {matrix.shape} have no explanation; expected (n_images >= 1, n_features)"
        )
    _check_finite("embeddings", matrix)
    return matrix


def _check_shapes(shares: Floats, activations: npt.NDArray[Any]) -> None:
    fits = shares.ndim == 3 and activations.ndim == 4 and shares.shape[::2] == activations.shape[:2]
    if not fits:
        raise UsageError(
            f"attributions of shape {shares.shape} do not fit feature maps of shape {activations.shape}; expected "
            "(n, labels, channels) and (n, channels, height, width) of the same images and backbone"
        )


def _check_finite(what: str, values: npt.NDArray[Any]) -> None:
    broken = int(values.size - np.isfinite(values).sum())
    if broken:
        raise UsageError(f"{what} hold {broken} NaN or infinite values; expected finite numbers: recompute them")


def _check_activations(activations: npt.NDArray[Any]) -> None:
    _check_finite("feature maps", activations)
    lowest = float(activations.min(initial=0.0))
    if lowest < 0:
        image, channel = np.argwhere(activations == lowest)[0][:2]
        raise UsageError(
            f"feature maps are signed ({lowest:.4g} in channel {channel} of image {image}); back-projection shares an "
            "attribution out in proportion to activations >= 0: pass the maps after the network's last ReLU"
        )
