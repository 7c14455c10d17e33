from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from classifiers.labels import LabelPolicy, dataset_labels, label_matrix
from featurestore.errors import UsageError
from featurestore.store import Store


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store")
    store.append("images", pa.table({"image_id": ["a", "b", "c", "d"], "dataset": ["tiny", "tiny", "tiny", "tiny"]}))
    rows = [("a", 1), ("b", 0), ("c", -1), ("d", None)]
    edema = [{"image_id": i, "dataset": "tiny", "label": "Edema", "value": v} for i, v in rows]
    others = [
        {"image_id": "a", "dataset": "tiny", "label": "Zebra", "value": 1},
        {"image_id": "a", "dataset": "tiny", "label": "Apple", "value": 0},
        {"image_id": "a", "dataset": "tiny", "label": "No Finding", "value": 0},
        {"image_id": "a", "dataset": "tiny", "label": "Fracture", "value": None},
    ]
    schema = pa.schema({"image_id": pa.string(), "dataset": pa.string(), "label": pa.string(), "value": pa.int8()})
    store.append("labels", pa.Table.from_pylist(edema + others, schema=schema))
    return store


@pytest.mark.parametrize(
    ("uncertain", "blank", "expected"),
    [
        ("ones", "zero", [1, 0, 1, 0]),
        ("zeros", "zero", [1, 0, 0, 0]),
        ("ignore", "zero", [1, 0, np.nan, 0]),
        ("ones", "ignore", [1, 0, 1, np.nan]),
    ],
)
def test_policies(store, uncertain, blank, expected):
    matrix = label_matrix(store, "tiny", ["a", "b", "c", "d"], ["Edema"], LabelPolicy(uncertain, blank))
    np.testing.assert_array_equal(matrix[:, 0], expected)
    assert matrix.dtype == np.float64


def test_rows_and_columns_come_in_the_order_asked_for(store):
    matrix = label_matrix(store, "tiny", ["b", "a"], ["Zebra", "Edema", "Apple"])
    np.testing.assert_array_equal(matrix, [[np.nan, 0, np.nan], [1, 1, 0]])


def test_a_label_without_a_row_is_not_known_under_any_policy(store):
    """Its text was rejected at ingest: counting it as absent would make a negative out of a typing error."""
    for blank in ("zero", "ignore"):
        assert np.isnan(label_matrix(store, "tiny", ["d"], ["Zebra"], LabelPolicy(blank=blank))).all()


def test_labels_stand_in_chexpert_order_then_alphabetically_and_all_null_ones_are_not_offered(store):
    assert dataset_labels(store, "tiny") == ["No Finding", "Edema", "Apple", "Zebra"]


def test_an_unknown_label_names_those_there_are(store):
    with pytest.raises(UsageError, match=r"no label 'Fracture'; data set 'tiny' has: No Finding, Edema, Apple, Zebra"):
        label_matrix(store, "tiny", ["a"], ["Edema", "Fracture"])


def test_an_unknown_dataset_names_those_there_are(store):
    with pytest.raises(UsageError, match=r"no data set 'nih' in the store at .*; it has tiny"):
        dataset_labels(store, "nih")


def test_an_empty_store_says_what_to_do(tmp_path):
    with pytest.raises(UsageError, match="it has none: run cxr ingest first"):
        dataset_labels(Store(tmp_path / "nothing"), "nih")


def test_strange_ids_are_refused(store):
    with pytest.raises(UsageError, match="1 of 2 images are not in data set 'tiny'"):
        label_matrix(store, "tiny", ["a", "z"], ["Edema"])
    with pytest.raises(ValueError, match="1 image ids stand twice"):
        label_matrix(store, "tiny", ["a", "a"], ["Edema"])


def test_no_label_and_a_label_twice_are_refused(store):
    with pytest.raises(UsageError, match="no label was asked for; data set 'tiny' has: No Finding"):
        label_matrix(store, "tiny", ["a"], [])
    with pytest.raises(UsageError, match="a label stands twice in Edema, Edema"):
        label_matrix(store, "tiny", ["a"], ["Edema", "Edema"])


def test_a_policy_is_checked():
    with pytest.raises(UsageError, match="uncertain labels as 'half': choose one of ones, zeros, ignore"):
        LabelPolicy("half")
    with pytest.raises(UsageError, match="blank labels as 'one': choose one of zero, ignore"):
        LabelPolicy(blank="one")
