"""What parts share: planted patients, copies and near-copies are found, and what cannot be known is said to be so."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from classifiers.leakage import find_leakage, standardised
from classifiers.splits import make_split
from featurestore.backbones.registry import RegisteredWeights, register
from featurestore.errors import UsageError
from featurestore.store import Store
from featurestore.store.training_sources import source_table

N = 60
PARTS = ["train"] * 30 + ["val"] * 15 + ["test"] * 15
IDS = [f"i{k:02d}" for k in range(N)]


def _store(folder, *, patients=True, pixels=None, near=()) -> Store:
    rng = np.random.default_rng(0)
    store = Store(folder / "store")
    hashes = [f"h{k}" for k in range(N)]
    for copy, original in (pixels or {}).items():
        hashes[copy] = hashes[original]
    who = [f"p{k // 2}" if patients else None for k in range(N)]
    columns = {"image_id": IDS, "dataset": ["d"] * N, "pixel_hash": hashes, "official_part": PARTS, "patient_id": who}
    store.append("images", pa.table({k: pa.array(v, pa.string()) for k, v in columns.items()}))
    X = rng.normal(5, 1, (N, 64)).astype(np.float32)
    for copy, original in near:
        X[copy] = X[original] + rng.normal(0, 0.02, 64)
    store.append(
        "specs",
        pa.table(
            {
                "spec_id": ["s1"], "backbone": ["vgg16"], "weights": ["chex"],
                "n_features": pa.array([64], pa.int32()),
            }
        ),
    )  # fmt: skip
    rows = {"backbone": ["vgg16"] * N, "spec_id": ["s1"] * N, "image_id": IDS, "run_id": ["r"] * N}
    store.append("embeddings", pa.table({**rows, "embedding": pa.array(list(X), pa.list_(pa.float32()))}))
    return store


def test_nothing_shared_is_nothing_found(tmp_path):
    found = find_leakage(_store(tmp_path), "d", None, ("s1", "vgg16 (chex)"))
    pairs = {"train-val": 0, "train-test": 0, "val-test": 0}
    assert found.parts == {"train": 30, "val": 15, "test": 15}
    # p14 has images 28 and 29, p22 has 44 and 45: one in val, one in test.
    assert found.patient_overlap == pairs | {"val-test": 1}
    assert found.identical_pixels == found.near_duplicates == pairs
    assert found.within == {"train": 0, "val": 0, "test": 0}
    assert found.near_duplicates_by == "vgg16 (chex), cosine of standardised vectors >= 0.98"


def test_copies_are_counted_by_picture_across_and_by_image_within(tmp_path):
    # One picture four times in train and once in test; another in val and test.
    store = _store(tmp_path, pixels={1: 0, 2: 0, 3: 0, 50: 0, 51: 35})
    found = find_leakage(store, "d", None, ("s1", "vgg16"))
    assert found.identical_pixels == {"train-val": 0, "train-test": 1, "val-test": 1}
    assert found.within == {"train": 3, "val": 0, "test": 0}
    assert found.findings == 4  # with the patient of val and test


def test_near_duplicates_are_counted_in_the_later_part_and_are_no_copies(tmp_path):
    store = _store(tmp_path, pixels={59: 4}, near=[(59, 4), (58, 5), (57, 5), (40, 6), (7, 8)])
    found = find_leakage(store, "d", None, ("s1", "vgg16"))
    assert found.near_duplicates == {"train-val": 1, "train-test": 2, "val-test": 0}


def test_what_cannot_be_known_is_null(tmp_path):
    found = find_leakage(_store(tmp_path, patients=False), "d")
    assert set(found.patient_overlap.values()) == {None}
    assert set(found.near_duplicates.values()) == {None}
    assert found.near_duplicates_by is None
    assert found.pretraining_overlap == {"chex": "unknown"}


def test_what_pretraining_saw_is_counted(tmp_path):
    store = _store(tmp_path)
    sources = source_table("d", ["h3", "h4", "elsewhere"], ["p1", "p2", "other"])
    register(store, RegisteredWeights("chex", "vgg16", "timm", "0" * 64, [], "trained"), b"x", sources)
    assert find_leakage(store, "d").pretraining_overlap == {"chex": {"images": 2, "patients": 2}}


def test_a_split_and_its_folds_are_parts(tmp_path):
    store = _store(tmp_path)
    labels = {"image_id": IDS, "dataset": ["d"] * N, "label": ["Edema"] * N, "value": pa.array([0, 1] * 30, pa.int8())}
    store.append("labels", pa.table(labels))
    make_split(store, "d", "holdout", frontal_only=False)
    make_split(store, "d", "k3", "kfold", folds=3, frontal_only=False)
    assert set(find_leakage(store, "d", "holdout").patient_overlap.values()) == {0}
    assert list(find_leakage(store, "d", "k3").identical_pixels) == ["fold0-fold1", "fold0-fold2", "fold1-fold2"]


def test_a_data_set_without_parts_says_what_to_give(tmp_path):
    store = Store(tmp_path / "store")
    store.append("images", pa.table({"image_id": ["a"], "dataset": ["d"]}))
    with pytest.raises(UsageError, match="data set 'd' was published without parts; name a split with --split"):
        find_leakage(store, "d")
    with pytest.raises(UsageError, match="no data set 'e'"):
        find_leakage(store, "e")


def test_vectors_of_a_dead_feature_are_standardised_too():
    X = np.array([[1, 0, 5], [3, 0, 5], [2, 0, 5]], np.float32)
    Z = standardised(X)
    assert np.isfinite(Z).all()
    np.testing.assert_allclose(np.linalg.norm(Z, axis=1), [1, 1, 0], atol=1e-6)
