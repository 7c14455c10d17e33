"""Localisation metrics: hand-made values, brute force, ties, and the rules for empty ROIs and dead maps."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from featurestore.errors import UsageError
from xai.localisation import METRICS, bilinear, iou, saliency_at, score, summarise, uniform_baseline

TOY = np.array([[4.0, 2.0], [1.0, 0.0]])
TOY_MASK = np.array([[True, False], [True, False]])
TOY_VALUES = {
    "iou": 1 / 3,  # at 0.5: {4, 2} against {4, 1}
    "dice": 1 / 2,
    "hit_rate": 1.0,
    "mass_accuracy": 5 / 7,
    "rank_accuracy": 1 / 2,  # the two highest, {4, 2}, hold one of the two
    "pixel_auroc": 3 / 4,  # 4 > 2, 4 > 0, 1 < 2, 1 > 0
    "average_precision": 5 / 6,  # (1/1 + 2/3) / 2
}


def test_every_metric_on_a_case_worked_by_hand() -> None:
    assert set(TOY_VALUES) == set(METRICS)
    found = score(TOY, TOY_MASK)
    assert found.state == "evaluated"
    assert found.values == pytest.approx(TOY_VALUES)
    assert found.baseline == 0.5


@pytest.mark.parametrize(("alpha", "expected"), [(0.1, 2 / 3), (0.25, 2 / 3), (0.26, 1 / 3), (0.51, 1 / 2), (1, 1 / 2)])
def test_the_threshold_is_a_share_of_the_maximum(alpha: float, expected: float) -> None:
    assert iou(TOY, TOY_MASK, alpha) == pytest.approx(expected)
    assert score(TOY, TOY_MASK, alpha).values["iou"] == pytest.approx(expected)


def test_a_map_that_is_the_roi_scores_one_and_its_complement_zero() -> None:
    assert score(TOY_MASK.astype(float), TOY_MASK).values == pytest.approx(dict.fromkeys(METRICS, 1.0))
    opposite = score((~TOY_MASK).astype(float), TOY_MASK).values
    assert opposite.pop("average_precision") == 0.5  # never 0: the last pixels are in the ROI
    assert set(opposite.values()) == {0.0}


shapes = st.tuples(st.integers(1, 4), st.integers(2, 4))


@st.composite
def maps_and_masks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(shapes)
    S = draw(arrays(np.float64, shape, elements=st.integers(0, 4).map(float)))  # few levels, so that ties are common
    mask = draw(arrays(np.bool_, shape))
    assume(S.any() and mask.any() and not mask.all())
    return S, mask


def brute_force(S: np.ndarray, mask: np.ndarray, alpha: float) -> dict[str, float]:
    """Return every metric from sets of pixels, ties by trying each way to break them."""
    pixels = list(np.ndindex(*S.shape))
    roi = {p for p in pixels if mask[p]}
    top = max(S[p] for p in pixels)
    predicted = {p for p in pixels if S[p] >= alpha * top}
    picks = [
        len(roi.intersection(chosen)) / len(roi)
        for chosen in combinations(pixels, len(roi))
        if min(S[p] for p in chosen) >= max((S[p] for p in pixels if p not in chosen), default=0)
    ]
    pairs = [(S[p] > S[q]) + 0.5 * (S[p] == S[q]) for p in roi for q in set(pixels) - roi]
    precisions = [len({q for q in roi if S[q] >= S[p]}) / len({q for q in pixels if S[q] >= S[p]}) for p in roi]
    return {
        "iou": len(predicted & roi) / len(predicted | roi),
        "dice": 2 * len(predicted & roi) / (len(predicted) + len(roi)),
        "hit_rate": float(np.mean([p in roi for p in pixels if S[p] == top])),
        "mass_accuracy": sum(S[p] for p in roi) / sum(S[p] for p in pixels),
        "rank_accuracy": float(np.mean(picks)),
        "pixel_auroc": float(np.mean(pairs)),
        "average_precision": float(np.mean(precisions)),
    }


@settings(deadline=None, max_examples=60)
@given(maps_and_masks(), st.sampled_from([0.2, 0.5, 0.8]))
def test_every_metric_equals_brute_force(case: tuple[np.ndarray, np.ndarray], alpha: float) -> None:
    assert score(*case, alpha).values == pytest.approx(brute_force(*case, alpha))


@settings(deadline=None, max_examples=40)
@given(maps_and_masks(), st.sampled_from([0.25, 1024.0]))
def test_no_metric_depends_on_the_maps_scale(case: tuple[np.ndarray, np.ndarray], factor: float) -> None:
    S, mask = case
    assert score(factor * S, mask).values == pytest.approx(score(S, mask).values)


@settings(deadline=None, max_examples=40)
@given(arrays(np.bool_, shapes), st.sampled_from([0.1, 1.0, 7.0]))
def test_a_uniform_map_scores_the_rois_share(mask: np.ndarray, level: float) -> None:
    assume(mask.any() and not mask.all())
    share = mask.mean()
    expected = dict.fromkeys(METRICS, share) | {"dice": 2 * share / (1 + share), "pixel_auroc": 0.5}
    assert score(np.full(mask.shape, level), mask).values == pytest.approx(expected)
    assert uniform_baseline(mask) == pytest.approx(share)


@pytest.mark.parametrize("name", METRICS)
def test_a_dead_map_scores_zero(name: str) -> None:
    assert METRICS[name](np.zeros((2, 2)), TOY_MASK) == 0


@pytest.mark.parametrize("name", METRICS)
def test_an_empty_roi_is_refused_by_each_metric(name: str) -> None:
    with pytest.raises(UsageError, match=r"region of interest is empty.*count it as empty_roi"):
        METRICS[name](TOY, np.zeros((2, 2), dtype=bool))


def test_an_roi_that_fills_the_image_has_no_auroc() -> None:
    found = score(TOY, np.ones((2, 2), dtype=bool))
    assert np.isnan(found.values.pop("pixel_auroc"))
    assert found.values["rank_accuracy"] == found.values["mass_accuracy"] == found.values["hit_rate"] == 1
    assert found.values["iou"] == 0.5


def test_the_summary_keeps_dead_maps_in_the_denominator_and_leaves_empty_rois_out() -> None:
    nothing = np.zeros((2, 2))
    found = summarise(
        [score(TOY, TOY_MASK), score(nothing, TOY_MASK), score(TOY, nothing > 0), score(nothing, nothing > 0)]
    )
    assert (found.evaluated, found.empty_roi, found.dead_map) == (2, 2, 1)
    assert found.means == pytest.approx({name: value / 2 for name, value in TOY_VALUES.items()})
    assert found.baseline == 0.5


def test_an_undefined_auroc_is_left_out_of_its_mean_alone() -> None:
    found = summarise([score(TOY, TOY_MASK), score(TOY, np.ones((2, 2), dtype=bool))])
    assert found.means["pixel_auroc"] == TOY_VALUES["pixel_auroc"]
    assert found.means["hit_rate"] == 1
    assert found.evaluated == 2


def test_a_summary_of_nothing_is_nan_not_zero() -> None:
    found = summarise([])
    assert (found.evaluated, found.empty_roi, found.dead_map) == (0, 0, 0)
    assert all(np.isnan(mean) for mean in [*found.means.values(), found.baseline])


# ---- resizing


def loop_bilinear(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return each pixel's value from the four cell centres around its own centre, edges repeated."""
    out = np.empty((height, width))
    for row, column in np.ndindex(height, width):
        y, x = (row + 0.5) * grid.shape[0] / height - 0.5, (column + 0.5) * grid.shape[1] / width - 0.5
        top, left = int(np.floor(y)), int(np.floor(x))
        out[row, column] = sum(
            wy * wx * grid[np.clip(cy, 0, grid.shape[0] - 1), np.clip(cx, 0, grid.shape[1] - 1)]
            for cy, wy in ((top, 1 - (y - top)), (top + 1, y - top))
            for cx, wx in ((left, 1 - (x - left)), (left + 1, x - left))
        )
    return out


@settings(deadline=None, max_examples=40)
@given(
    arrays(np.float64, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.floats(-9, 9, width=32)),
    st.integers(1, 30),
    st.integers(1, 30),
)
def test_resizing_equals_the_formula(grid: np.ndarray, height: int, width: int) -> None:
    resized = bilinear(grid, height, width)
    assert resized.dtype == np.float64
    np.testing.assert_allclose(resized, loop_bilinear(grid, height, width), atol=1e-5)
    assert grid.min() - 1e-6 <= resized.min()
    assert resized.max() <= grid.max() + 1e-6


def test_resizing_to_a_radiograph_keeps_its_size() -> None:
    assert bilinear(np.ones((7, 7)), 2544, 3056).shape == (2544, 3056)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 0.7, 1e-7])
def test_a_map_of_one_cell_stays_uniform_to_the_last_bit(value: float) -> None:
    # InceptionResNetV2 at 96 px: rounding noise would pick an argmax and a top |M| at random
    S = saliency_at([[value]], 10, 12)
    mask = np.zeros((10, 12), dtype=bool)
    mask[2:5, 3:9] = True
    assert len(np.unique(S)) == 1
    assert score(S, mask).values["hit_rate"] == pytest.approx(mask.mean())
    assert score(S, mask).values["rank_accuracy"] == pytest.approx(mask.mean())


def test_the_positive_part_is_taken_before_resizing() -> None:
    np.testing.assert_allclose(saliency_at([[-3.0, 1.0]], 1, 4), [[0.0, 0.25, 0.75, 1.0]])
    assert not saliency_at([[-3.0, -1.0]], 2, 4).any()


# ---- what is refused


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: score(-TOY, TOY_MASK), "falls to -4; expected >= 0: pass it through saliency_at"),
        (lambda: score(TOY * np.nan, TOY_MASK), "holds NaN or infinite values"),
        (lambda: score(TOY[0], TOY_MASK), r"saliency map has shape \(2,\)"),
        (lambda: score(TOY, TOY_MASK.astype(int)), "region of interest is int64 of shape"),
        (lambda: score(TOY, TOY_MASK[:1]), r"bool of shape \(1, 2\); expected bool of the map's shape \(2, 2\)"),
        (lambda: score(TOY, TOY_MASK, 0), "alpha is 0; expected a share"),
        (lambda: score(TOY, TOY_MASK, 1.5), r"alpha is 1\.5; expected a share"),
        (lambda: bilinear(np.zeros((0, 3)), 4, 4), r"shape \(0, 3\); expected \(height, width\)"),
        (lambda: saliency_at([[np.inf]], 4, 4), "NaN or infinite"),
        (lambda: saliency_at([[np.nan]], 4, 4), "NaN or infinite"),
        (lambda: uniform_baseline(np.zeros((2, 2), dtype=bool)), "region of interest is empty"),
    ],
)
def test_bad_arguments_are_named(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        call()
