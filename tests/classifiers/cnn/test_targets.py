"""Uncertain, blank and unknown labels, and what an epoch makes of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from classifiers.cnn.targets import (
    NEGATIVE,
    POLICIES,
    POSITIVE,
    UNCERTAIN,
    UNKNOWN,
    check_policy,
    check_trainable,
    draw_targets,
    merge_targets,
    read_targets,
    truth,
)
from featurestore.errors import UsageError
from featurestore.store import Store

CODES = np.array([[POSITIVE, NEGATIVE, UNCERTAIN, UNKNOWN]] * 400, np.int8)


def test_codes_are_read_as_the_source_gave_them(tmp_path) -> None:
    store = Store(tmp_path / "store")
    ids = ["a", "b", "c", "d"]
    store.append("images", pa.table({"image_id": ids, "dataset": ["x"] * 4}))
    values = pa.array([1, 0, -1, None], pa.int8())
    store.append("labels", pa.table({"image_id": ids, "dataset": ["x"] * 4, "label": ["Edema"] * 4, "value": values}))
    rest = pa.table({"image_id": ["a"], "dataset": ["x"], "label": ["Fracture"], "value": pa.array([1], pa.int8())})
    store.append("labels", rest)
    codes = read_targets(store, "x", ids, ["Edema", "Fracture"])
    # A blank is negative; a label without a row could not be read.
    assert codes[:, 0].tolist() == [POSITIVE, NEGATIVE, UNCERTAIN, NEGATIVE]
    assert codes[:, 1].tolist() == [POSITIVE, UNKNOWN, UNKNOWN, UNKNOWN]


@pytest.mark.parametrize(("policy", "uncertain"), [("u-zeros", 0.0), ("u-ones", 1.0), ("u-ignore", np.nan)])
def test_a_policy_gives_an_uncertain_label_its_value(policy: str, uncertain: float) -> None:
    expected = np.tile(np.array([1.0, 0.0, uncertain, np.nan], np.float32), (400, 1))
    np.testing.assert_array_equal(draw_targets(CODES, policy, np.random.default_rng(0)), expected)


def test_smoothing_is_uniform_between_its_limits_drawn_by_seed_and_touches_nothing_else() -> None:
    drawn = draw_targets(CODES, "u-ones-lsr", np.random.default_rng([0, 1]))
    np.testing.assert_array_equal(drawn[:, [0, 1, 3]], np.tile(np.array([1.0, 0.0, np.nan], np.float32), (400, 1)))
    smoothed = drawn[:, 2]
    assert 0.55 <= smoothed.min() < 0.56
    assert 0.84 < smoothed.max() <= 0.85
    assert abs(smoothed.mean() - 0.70) < 0.015
    np.testing.assert_array_equal(drawn, draw_targets(CODES, "u-ones-lsr", np.random.default_rng([0, 1])))
    assert (draw_targets(CODES, "u-ones-lsr", np.random.default_rng([0, 2]))[:, 2] != smoothed).all()


def test_truth_has_no_smoothing() -> None:
    of_uncertain = {policy: truth(CODES[:1], policy)[0, 2] for policy in POLICIES}
    assert of_uncertain.pop("u-ignore") != of_uncertain.get("u-ignore")  # nan
    assert of_uncertain == {"u-zeros": 0.0, "u-ones": 1.0, "u-ones-lsr": 1.0}


def test_the_maximum_of_a_group_prefers_what_is_certain() -> None:
    order = [POSITIVE, UNCERTAIN, NEGATIVE, UNKNOWN]
    pairs = np.array([[a, b] for a in order for b in order], np.int8)
    wanted = [order[min(order.index(a), order.index(b))] for a, b in pairs.tolist()]
    assert merge_targets(pairs).tolist() == wanted


def test_a_constant_label_is_named() -> None:
    codes = np.array([[1, 0, -1, -2], [0, 0, -1, -2]], np.int8)
    check_trainable(codes[:, :1], ["A"], "u-ones")
    with pytest.raises(
        UsageError, match=r"nothing can be learnt of 'B' \(0 positive of 2 known\), 'C' \(2 positive of 2"
    ):
        check_trainable(codes, ["A", "B", "C", "D"], "u-ones")
    with pytest.raises(UsageError, match=r"'C' \(0 positive of 0 known\), 'D'.*--label-map"):
        check_trainable(codes, ["A", "B", "C", "D"], "u-ignore")


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(UsageError, match="'u-twos': choose one of u-zeros, u-ones, u-ignore, u-ones-lsr"):
        check_policy("u-twos")
