from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from classifiers.subgroups import age_band, attributes, by_group
from featurestore.store import Store


def test_each_group_is_judged_by_itself():
    rng = np.random.default_rng(0)
    n = 200
    sex = np.array(["F", "M"] * (n // 2))
    y = rng.integers(0, 2, n).astype(float)
    p = np.where(sex == "F", y * 0.5 + rng.random(n) * 0.5, rng.random(n))  # it serves women only
    found = {g.value: g for g in by_group(y, p, [f"p{k}" for k in range(n)], {"sex": sex.tolist()}, 0.5)}
    for value, group in found.items():
        here = sex == value
        assert group.auc.auc == pytest.approx(roc_auc_score(y[here], p[here]))
        assert group.false_negative_rate == np.mean(p[here & (y == 1)] < 0.5)
    assert found["F"].auc.auc > 0.9 > 0.65 > found["M"].auc.auc
    assert found["F"].false_negative_rate == 0


def test_a_small_group_is_named_and_not_judged():
    y = np.array([1.0] * 9 + [0.0] * 20)
    (group,) = by_group(y, np.linspace(1, 0, 29), [f"p{k}" for k in range(29)], {"view": ["AP"] * 29}, 0.5)
    assert (group.auc.auc, group.false_negative_rate) == (None, None)
    assert (group.auc.n, group.auc.n_positive, group.auc.n_positive_patients) == (29, 9, 9)
    assert group.auc.note == "under 10 positive images: not judged"


@pytest.mark.parametrize(
    ("age", "band"),
    [(None, "unknown"), (np.nan, "unknown"), (0, "0-39"), (39.9, "0-39"), (40, "40-59"), (79, "60-79"), (95, "80+")],
)
def test_age_bands(age, band):
    assert age_band(age) == band


def test_attributes_are_in_the_order_of_the_images(tmp_path):
    store = Store(tmp_path / "store")
    columns = {"image_id": ["a", "b"], "dataset": ["d"] * 2, "sex": ["F", None], "view": [None, "AP"]}
    store.append("images", pa.table({**columns, "age": pa.array([61, None], pa.float32())}))
    assert attributes(store, "d", ["b", "a"]) == {
        "sex": ["unknown", "F"],
        "age": ["unknown", "60-79"],
        "view": ["AP", "unknown"],
    }
