"""The forest on the feature map: attributions against brute force, the projection against a loop, refusals."""

from __future__ import annotations

import doctest
import math
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lightgbm import LGBMClassifier
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression

import xai.backprojection
from featurestore.errors import HarmError, UsageError
from xai.backprojection import attributions, back_project

LGBM = {"n_estimators": 30, "max_depth": 3, "n_jobs": 1, "verbose": -1}


def relu_data(n: int = 160, features: int = 24, labels: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return features that are zero half the time, as after a ReLU, and labels that depend on them, unevenly common."""
    rng = np.random.default_rng(seed)
    X = np.maximum(rng.normal(size=(n, features)), 0).astype(np.float32)
    noisy = X[:, :labels] + 0.5 * X[:, 1 : labels + 1] + 0.4 * rng.normal(size=(n, labels))
    return X, (noisy > np.linspace(0.5, 1.2, labels)).astype(np.float64)


ESTIMATORS: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {
    "rf, multi-output": lambda X, Y: RandomForestClassifier(
        60, max_depth=5, bootstrap=False, random_state=1, n_jobs=2
    ).fit(X, Y),
    "rf, bootstrapped": lambda X, Y: RandomForestClassifier(40, random_state=1).fit(X, Y),
    "rf, class weights": lambda X, Y: RandomForestClassifier(40, class_weight="balanced", random_state=1).fit(X, Y),
    "rf, one label": lambda X, Y: RandomForestClassifier(40, max_depth=10, random_state=1).fit(X, Y[:, 0]),
    "rf, two estimators": lambda X, Y: [RandomForestClassifier(20, random_state=s).fit(X, Y[:, s]) for s in (0, 1)],
    "extra trees": lambda X, Y: ExtraTreesClassifier(60, criterion="entropy", random_state=1).fit(X, Y),
    "lightgbm": lambda X, Y: LGBMClassifier(**LGBM).fit(X, Y[:, 0]),
    "lightgbm, one per label": lambda X, Y: [LGBMClassifier(**LGBM).fit(X, y) for y in Y.T],
    "lightgbm, no split": lambda X, Y: LGBMClassifier(**LGBM, min_child_samples=1000).fit(X, Y[:, 0]),
    "rf, no split": lambda X, Y: RandomForestClassifier(5, min_samples_leaf=1000, random_state=1).fit(X, Y),
}


def own_output(estimator: Any, X: np.ndarray) -> np.ndarray:
    """Return (n, L) from the library's own prediction alone."""
    if isinstance(estimator, list):
        return np.concatenate([own_output(one, X) for one in estimator], axis=1)
    if isinstance(estimator, LGBMClassifier):
        p = estimator.predict_proba(X)[:, 1]
        return np.log(p / (1 - p))[:, None]
    predicted = estimator.predict_proba(X)
    return np.stack([p[:, 1] for p in (predicted if isinstance(predicted, list) else [predicted])], axis=1)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_shares_add_up_to_the_estimators_own_prediction(name: str) -> None:
    X, Y = relu_data()
    estimator = ESTIMATORS[name](X, Y)
    found = attributions(estimator, X[:30])
    expected = own_output(estimator, X[:30])
    assert found.phi.shape == (30, expected.shape[1], X.shape[1])
    assert found.phi.dtype == found.base.dtype == found.output.dtype == np.float64
    assert found.unit == ("log-odds" if "lightgbm" in name else "probability")
    np.testing.assert_allclose(found.phi.sum(axis=2) + found.base, expected, atol=1e-6)
    np.testing.assert_allclose(found.output, expected, atol=1e-6)
    assert ("no split" in name) == (not found.phi.any())


def test_explaining_leaves_the_estimator_as_it_was() -> None:
    X, Y = relu_data()
    forest = ESTIMATORS["rf, multi-output"](X, Y)
    attributions(forest, X[:2])
    assert forest.n_jobs == 2


def test_a_forests_base_is_the_training_prevalence_where_every_tree_saw_every_row() -> None:
    X, Y = relu_data()
    found = attributions(ESTIMATORS["rf, multi-output"](X, Y), X[:1])
    np.testing.assert_allclose(found.base, Y.mean(axis=0), atol=1e-12)


# ---- TreeSHAP recomputed from its definition: every coalition, both branches where the feature is unknown


def forest_value(tree: Any, x: np.ndarray, known: frozenset[int], label: int, node: int = 0) -> float:
    """Return E[tree | known features], the unknown ones sending x down both branches by training weight."""
    left, right = tree.children_left[node], tree.children_right[node]
    if left < 0:
        value = tree.value[node, label]
        return float(value[1] / value.sum())
    if tree.feature[node] in known:
        child = left if x[tree.feature[node]] <= tree.threshold[node] else right
        return forest_value(tree, x, known, label, child)
    weight = tree.weighted_n_node_samples
    both = (weight[child] * forest_value(tree, x, known, label, child) for child in (left, right))
    return float(sum(both) / weight[node])


def boosting_value(node: dict[str, Any], x: np.ndarray, known: frozenset[int]) -> float:
    """Return the same for one LightGBM tree in its JSON form."""
    if "leaf_value" in node:
        return float(node["leaf_value"])
    left, right = node["left_child"], node["right_child"]
    if node["split_feature"] in known:
        return boosting_value(left if x[node["split_feature"]] <= node["threshold"] else right, x, known)
    counts = [child.get("internal_count", child.get("leaf_count")) for child in (left, right)]
    values = [boosting_value(child, x, known) for child in (left, right)]
    return float(np.dot(counts, values) / sum(counts))


def shapley(value: Callable[[frozenset[int]], float], features: int) -> np.ndarray:
    """Return Shapley's values by enumerating every coalition."""
    phi = np.zeros(features)
    for feature in range(features):
        others = [other for other in range(features) if other != feature]
        for size in range(features):
            weight = math.factorial(size) * math.factorial(features - size - 1) / math.factorial(features)
            for chosen in combinations(others, size):
                known = frozenset(chosen)
                phi[feature] += weight * (value(known | {feature}) - value(known))
    return phi


@pytest.mark.parametrize("kind", [RandomForestClassifier, ExtraTreesClassifier])
def test_forest_attributions_equal_the_enumeration_of_all_coalitions(kind: Any) -> None:
    X, Y = relu_data(features=5, labels=2)
    forest = kind(4, max_depth=4, random_state=3).fit(X, Y)
    found = attributions(forest, X[:6])
    for image, label in np.ndindex(6, 2):

        def value(known: frozenset[int], image: int = image, label: int = label) -> float:
            return float(np.mean([forest_value(t.tree_, X[image], known, label) for t in forest.estimators_]))

        np.testing.assert_allclose(found.phi[image, label], shapley(value, 5), atol=1e-12)
        assert found.base[label] == pytest.approx(value(frozenset()), abs=1e-12)


def test_lightgbm_attributions_equal_the_enumeration_of_all_coalitions() -> None:
    X, Y = relu_data(features=5, labels=2)
    model = LGBMClassifier(n_estimators=4, max_depth=3, n_jobs=1, verbose=-1).fit(X, Y[:, 1])
    found = attributions(model, X[:6])
    trees = [tree["tree_structure"] for tree in model.booster_.dump_model()["tree_info"]]
    for image in range(6):

        def value(known: frozenset[int], image: int = image) -> float:
            return sum(boosting_value(tree, X[image].astype(np.float64), known) for tree in trees)

        np.testing.assert_allclose(found.phi[image, 0], shapley(value, 5), atol=1e-9)
        assert found.base[0] == pytest.approx(value(frozenset()), abs=1e-9)


def test_a_feature_at_its_threshold_goes_the_way_scikit_learn_sends_it() -> None:
    # float64 embeddings round to float32 before the comparison; explained unrounded they would take the other branch
    X = np.array([[0.1], [0.3]] * 20, dtype=np.float32)
    forest = RandomForestClassifier(3, bootstrap=False, random_state=0).fit(X, [0, 1] * 20)
    threshold = float(forest.estimators_[0].tree_.threshold[0])
    probes = np.nextafter(np.full((2, 1), threshold), [[0.0], [1.0]])
    found = attributions(forest, probes)
    np.testing.assert_allclose(found.phi[:, 0, 0] + found.base, forest.predict_proba(probes)[:, 1])


# ---- what is refused


class Overconfident(RandomForestClassifier):
    """A forest whose prediction is not the mean of its trees."""

    def predict_proba(self, X: Any) -> Any:
        return np.sqrt(super().predict_proba(X))


def test_shares_that_do_not_add_up_are_never_returned() -> None:
    X, Y = relu_data()
    forest = Overconfident(10, max_depth=3, random_state=0).fit(X, Y[:, 0])
    with pytest.raises(HarmError, match=r"attributions of the Overconfident miss its own probability by 0\.\d+"):
        attributions(forest, X[:5])


def fitted(kind: Any, y: Any, **params: Any) -> Any:
    return kind(**params).fit(relu_data()[0], y)


def bad_estimators() -> Iterator[Any]:
    y = relu_data()[1][:, 0]
    forest = {"n_estimators": 3, "random_state": 0}
    three = np.arange(len(y)) % 3
    yield pytest.param(lambda: fitted(LogisticRegression, y), "a LogisticRegression has no exact tree", id="kind")
    yield pytest.param(lambda: RandomForestClassifier(), "RandomForestClassifier is not fitted", id="unfitted")
    yield pytest.param(lambda: LGBMClassifier(), "LGBMClassifier is not fitted", id="unfitted lightgbm")
    yield pytest.param(
        lambda: fitted(RandomForestClassifier, np.stack([y, y * 0], axis=1), **forest),
        r"label 1 of the RandomForestClassifier has classes \[0.0\]; expected 0 and 1",
        id="constant label",
    )
    yield pytest.param(
        lambda: fitted(LGBMClassifier, three, **LGBM), r"label 0 of the LGBMClassifier has classes \[0, 1, 2\]", id="3"
    )
    yield pytest.param(list, "no estimator to explain", id="none")
    yield pytest.param(
        lambda: [fitted(RandomForestClassifier, y, **forest), fitted(LGBMClassifier, y, **LGBM)],
        r"different units \(log-odds, probability\)",
        id="units",
    )


@pytest.mark.parametrize(("build", "words"), list(bad_estimators()))
def test_an_estimator_it_cannot_explain_is_named(build: Callable[[], Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        attributions(build(), relu_data()[0][:2])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda X: X[:, :5], "embeddings have 5 features but the RandomForestClassifier was fitted on 24"),
        (lambda X: X[0], r"embeddings of shape \(24,\) have no expl"),
        (lambda X: X[:0], r"embeddings of shape \(0, 24\) have no expl"),
        (lambda X: np.concatenate([X, X[:1] * np.nan]), "embeddings hold 24 NaN or infinite values"),
    ],
)
def test_embeddings_that_do_not_fit_are_named(change: Callable[[np.ndarray], np.ndarray], words: str) -> None:
    X, Y = relu_data()
    forest = RandomForestClassifier(3, random_state=0).fit(X, Y)
    with pytest.raises(UsageError, match=words):
        attributions(forest, change(X[:2]))


# ---- the projection


def loop_projection(phi: np.ndarray, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return S and the remainder by the formula, one cell at a time."""
    n, labels, channels = phi.shape
    S, remainder = np.zeros((n, labels, *maps.shape[2:])), np.zeros((n, labels))
    for i, label, c in np.ndindex(n, labels, channels):
        mass = math.fsum(float(a) for a in maps[i, c].ravel())
        if mass == 0:
            remainder[i, label] += phi[i, label, c]
            continue
        for y, x in np.ndindex(*maps.shape[2:]):
            S[i, label, y, x] += phi[i, label, c] * float(maps[i, c, y, x]) / mass
    return S, remainder


@st.composite
def projections(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n, labels, channels, height, width = (draw(st.integers(1, 3)) for _ in range(5))
    shares = arrays(np.float64, (n, labels, channels), elements=st.floats(-5, 5, width=32))
    activations = arrays(np.float32, (n, channels, height, width), elements=st.just(0.0) | st.floats(0, 50, width=32))
    return draw(shares), draw(activations)


@settings(deadline=None, max_examples=60)
@given(projections())
def test_the_projection_equals_the_loop_and_loses_nothing(case: tuple[np.ndarray, np.ndarray]) -> None:
    phi, maps = case
    found = back_project(phi, maps)
    S, remainder = loop_projection(phi, maps)
    assert found.maps.dtype == found.remainder.dtype == np.float64
    np.testing.assert_allclose(found.maps, S, atol=1e-12)
    np.testing.assert_allclose(found.remainder, remainder, atol=1e-12)
    np.testing.assert_allclose(found.maps.sum(axis=(2, 3)) + found.remainder, phi.sum(axis=2), atol=1e-12)


def test_a_dead_channels_share_is_the_remainder_of_that_image_alone() -> None:
    maps = np.ones((2, 2, 3, 3), dtype=np.float32)
    maps[0, 1] = 0
    found = back_project(np.array([[[0.5, 0.25]], [[0.5, 0.25]]]), maps)
    assert found.remainder.tolist() == [[0.25], [0.0]]
    np.testing.assert_allclose(found.maps.sum(axis=(2, 3)), [[0.5], [0.75]])


def test_an_image_with_no_activation_at_all_is_all_remainder() -> None:
    found = back_project([[[0.5, -0.25]]], np.zeros((1, 2, 3, 3), dtype=np.float32))
    assert not found.maps.any()
    assert found.remainder.tolist() == [[0.25]]


@pytest.mark.parametrize("name", ["rf, multi-output", "extra trees", "lightgbm, one per label"])
def test_map_remainder_and_base_are_the_heads_output(name: str) -> None:
    rng = np.random.default_rng(5)
    maps = np.maximum(rng.normal(-0.8, 1, size=(120, 24, 2, 3)), 0).astype(np.float32)
    assert (maps.sum(axis=(2, 3)) == 0).any(), "the case needs dead channels"
    X = maps.mean(axis=(2, 3))
    Y = (X[:, :3] + 0.05 * rng.normal(size=(120, 3)) > 0.1).astype(np.float64)
    estimator = ESTIMATORS[name](X, Y)
    found = attributions(estimator, X[:20])
    projection = back_project(found.phi, maps[:20])
    assert projection.remainder.any()
    total = projection.maps.sum(axis=(2, 3)) + projection.remainder + found.base
    np.testing.assert_allclose(total, own_output(estimator, X[:20]), atol=1e-6)


def test_map_remainder_and_base_are_the_heads_output_on_a_real_networks_maps() -> None:
    import timm
    import torch

    torch.manual_seed(0)
    network = timm.create_model("densenet121", pretrained=False, num_classes=0).eval()
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.normal(size=(24, 3, 64, 64)).astype(np.float32))
    with torch.inference_mode():
        maps = network.forward_features(images).numpy()
        X = network(images).numpy()  # timm's own pooling, not ours
    forest = RandomForestClassifier(50, max_depth=5, bootstrap=False, random_state=0).fit(X, np.arange(24) % 2)
    found = attributions(forest, X)
    projection = back_project(found.phi, maps)
    assert projection.maps.shape == (24, 1, 2, 2)
    total = projection.maps.sum(axis=(2, 3)) + projection.remainder + found.base
    np.testing.assert_allclose(total[:, 0], forest.predict_proba(X)[:, 1], atol=1e-6)


def signed(maps: np.ndarray) -> np.ndarray:
    maps[1, 2, 0, 1] = -0.5
    return maps


@pytest.mark.parametrize(
    ("phi", "change", "words"),
    [
        (np.ones((2, 1, 3)), signed, r"signed \(-0.5 in channel 2 of image 1\).*after the network's last ReLU"),
        (np.ones((2, 1, 3)), lambda maps: maps * np.nan, "feature maps hold 12 NaN or infinite values"),
        (np.ones((2, 1, 3)), lambda maps: maps + np.inf, "feature maps hold 12 NaN or infinite values"),
        (np.full((2, 1, 3), np.nan), lambda maps: maps, "attributions hold 6 NaN or infinite values"),
        (np.ones((2, 1, 4)), lambda maps: maps, r"shape \(2, 1, 4\) do not fit feature maps of shape \(2, 3, 1, 2\)"),
        (np.ones((3, 1, 3)), lambda maps: maps, r"shape \(3, 1, 3\) do not fit"),
        (np.ones((2, 3)), lambda maps: maps, r"shape \(2, 3\) do not fit"),
        (np.ones((2, 1, 3)), lambda maps: maps[:, :, 0], r"feature maps of shape \(2, 3, 2\)"),
    ],
)
def test_maps_it_cannot_spread_over_are_refused(
    phi: np.ndarray, change: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        back_project(phi, change(np.ones((2, 3, 1, 2), dtype=np.float32)))


def test_the_modules_example_runs() -> None:
    result = doctest.testmod(xai.backprojection)
    assert result.attempted >= 4
    assert result.failed == 0
