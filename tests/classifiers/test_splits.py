from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers.splits import load_split, make_split
from classifiers.stratify import deal_patients, stratify
from featurestore.errors import UsageError
from featurestore.store import Store


def parts_by_patient(patients, parts):
    found = defaultdict(set)
    for patient, part in zip(patients, parts, strict=True):
        found[patient].add(part)
    return found


@settings(max_examples=60, deadline=None)
@given(
    owners=st.lists(st.integers(0, 40), min_size=30, max_size=120),
    labels=st.integers(0, 4),
    shares=st.sampled_from([(0.7, 0.1, 0.2), (0.8, 0.2), (0.2,) * 5]),
    seed=st.integers(0, 2**32),
)
def test_no_patient_is_in_two_parts(owners, labels, shares, seed):
    Y = np.random.default_rng(seed).choice([0.0, 1.0, np.nan], size=(len(owners), labels))
    patients = [f"p{owner}" for owner in owners]
    try:
        dealt = deal_patients(patients, Y, shares, seed)
    except UsageError:  # a part would be empty: it may refuse, but only where patients are few
        assert len(set(owners)) < 31
        return
    assert all(len(parts) == 1 for parts in parts_by_patient(patients, dealt).values())
    assert set(dealt) == set(range(len(shares)))
    np.testing.assert_array_equal(dealt, deal_patients(patients, Y, shares, seed))


def test_one_label_is_dealt_exactly():
    y = np.zeros((100, 1))
    y[:20] = 1
    part = stratify(y, [0.7, 0.1, 0.2], seed=3)
    np.testing.assert_array_equal(np.bincount(part), [70, 10, 20])
    np.testing.assert_array_equal(np.bincount(part[:20]), [14, 2, 4])


def test_several_labels_are_dealt_more_evenly_than_by_lot():
    rng = np.random.default_rng(1)
    Y = (rng.random((500, 6)) < (0.02, 0.05, 0.1, 0.2, 0.4, 0.03)).astype(float)

    def unevenness(part):
        per_fold = np.array([Y[part == k].sum(axis=0) for k in range(5)])
        return np.abs(per_fold - Y.sum(axis=0) / 5).max(axis=0)

    dealt = stratify(Y, [0.2] * 5, seed=0)
    assert (unevenness(dealt) <= 2).all()
    assert unevenness(dealt).sum() < unevenness(rng.integers(0, 5, 500)).sum() / 2


def test_seeds_differ():
    Y = np.eye(50)[:, :3]
    assert (stratify(Y, [0.5, 0.5], 0) != stratify(Y, [0.5, 0.5], 1)).any()


def test_holdout(planted):
    summary = make_split(planted.store, "demo", "s1", "holdout", seed=5)
    split = load_split(planted.store, "demo", "s1")
    assert list(summary) == ["train", "val", "test"]
    assert sum(part["images"] for part in summary.values()) == len(planted.ids) == len(split.ids)
    assert sum(part["patients"] for part in summary.values()) == 90
    assert summary["test"]["patients"] == pytest.approx(18, abs=3)
    assert summary["val"]["patients"] == pytest.approx(9, abs=3)
    owner = dict(zip(planted.ids, planted.patients, strict=True))
    assert all(len(p) == 1 for p in parts_by_patient([owner[i] for i in split.ids], split.parts).values())
    assert split.ids == sorted(planted.ids)
    assert split.folds == [None] * len(split.ids)
    assert split.fold_numbers() == [None]
    assert split.patients_known


def test_without_validation_there_is_no_such_part(planted):
    assert list(make_split(planted.store, "demo", "s1", val=0)) == ["train", "test"]


def test_kfold_tests_every_image_once(planted):
    summary = make_split(planted.store, "demo", "k5", "kfold", seed=1, folds=5)
    split = load_split(planted.store, "demo", "k5")
    assert set(split.parts) == {"test"}
    assert split.fold_numbers() == [0, 1, 2, 3, 4]
    assert all(len(folds) == 1 for folds in parts_by_patient(split.patients, split.folds).values())
    assert list(summary) == ["test", "fold0", "fold1", "fold2", "fold3", "fold4"]
    assert sum(summary[f"fold{k}"]["images"] for k in range(5)) == summary["test"]["images"] == len(planted.ids)


def test_a_split_is_frozen(planted):
    store = planted.store
    first = make_split(store, "demo", "s1", seed=0)
    version = store.versions()["splits"]
    assert make_split(store, "demo", "s1", seed=0) == first
    assert store.versions()["splits"] == version
    with pytest.raises(
        UsageError, match="split 's1' is frozen and differs in seed: stored 0, asked for 1; use another"
    ):
        make_split(store, "demo", "s1", seed=1)
    with pytest.raises(UsageError, match="differs in kind: stored holdout, asked for kfold"):
        make_split(store, "demo", "s1", "kfold", seed=0)
    with pytest.raises(UsageError, match=r"differs in shares, folds or labels: stored test \d+, .* asked for test \d+"):
        make_split(store, "demo", "s1", seed=0, test=0.4)
    store.append("images", pa.table({"image_id": ["new"], "dataset": ["demo"], "patient_id": ["p0"]}))
    with pytest.raises(UsageError, match="differs in images: 0 stored are not asked for, 1 are new"):
        make_split(store, "demo", "s1", seed=0)
    assert "new" in load_split_ids_of(store, "s2")


def load_split_ids_of(store, name):
    make_split(store, "demo", name)
    return load_split(store, "demo", name).ids


def test_lateral_views_are_left_out_unless_asked_for(planter):
    views = ["LATERAL" if k % 4 == 0 else None if k % 4 == 1 else "AP" for k in range(len(planter_ids()))]
    planted = planter(images={"view": views})
    frontal = {image for image, view in zip(planted.ids, views, strict=True) if view != "LATERAL"}
    make_split(planted.store, "demo", "frontal")
    make_split(planted.store, "demo", "every", frontal_only=False)
    assert set(load_split(planted.store, "demo", "frontal").ids) == frontal
    assert set(load_split(planted.store, "demo", "every").ids) == set(planted.ids)


def planter_ids():
    owner = np.random.default_rng(0).integers(1, 4, 90)
    return list(range(int(owner.sum())))


def test_without_patient_ids_each_image_is_its_own_patient(planter):
    n = len(planter_ids())
    planted = planter(images={"patient_id": [None] * n})
    summary = make_split(planted.store, "demo", "s1")
    assert all(part["images"] == part["patients"] for part in summary.values())
    assert not load_split(planted.store, "demo", "s1").patients_known


def official(tmp_path, patients, parts):
    store = Store(tmp_path / "official")
    ids = [f"i{k}" for k in range(len(parts))]
    rows = {"image_id": ids, "dataset": ["demo"] * len(ids)}
    rows["patient_id"] = pa.array(patients, pa.string())
    rows["official_part"] = pa.array(parts, pa.string())
    store.append("images", pa.table(rows))
    return store


def test_official(tmp_path):
    store = official(tmp_path, ["p0", "p0", "p1", "p2"], ["train", "train", "val", "test"])
    assert make_split(store, "demo", "own", "official") == {
        "train": {"images": 2, "patients": 1},
        "val": {"images": 1, "patients": 1},
        "test": {"images": 1, "patients": 1},
    }
    assert load_split(store, "demo", "own").seed is None
    make_split(store, "demo", "own", "official", seed=9)  # a seed plays no part, so it is the same split


def test_official_with_a_patient_in_two_parts_is_refused_with_counts(tmp_path):
    store = official(tmp_path, ["p0", "p0", "p1", "p1", "p2"], ["train", "test", "test", "train", "val"])
    with pytest.raises(UsageError, match=r"puts 2 of 3 patients in two parts \(test\+train: 2\); use kind holdout"):
        make_split(store, "demo", "own", "official")
    assert store.query("SELECT * FROM splits").num_rows == 0


def test_official_without_patient_ids_is_taken_as_it_is(tmp_path):
    store = official(tmp_path, [None] * 3, ["train", "test", "val"])
    assert make_split(store, "demo", "own", "official")["train"] == {"images": 1, "patients": 1}


def test_official_needs_parts(tmp_path):
    store = official(tmp_path, ["p0", "p1"], ["train", None])
    with pytest.raises(UsageError, match="1 of 2 images of data set 'demo' have no official part; use kind holdout"):
        make_split(store, "demo", "own", "official")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "Split-1"}, "split name 'Split-1': use lower-case letters"),
        ({"kind": "loo"}, "split kind 'loo': choose one of holdout, kfold, official"),
        ({"seed": -1}, "seed -1: expected 0 or more"),
        ({"test": 0}, "test 0 and val 0.1: expected 0 < test"),
        ({"test": 0.9, "val": 0.1}, "expected 0 < test, 0 <= val and test"),
        ({"kind": "kfold", "folds": 1}, "1 folds: expected 2 or more"),
        ({"kind": "kfold", "folds": 500}, "90 patients are too few for 500 parts"),
        ({"labels": ["Flu"]}, "no label 'Flu'; data set 'demo' has: Edema, Fracture, Aaa Rare"),
    ],
)
def test_a_request_that_cannot_be_used(shared, options, words):
    with pytest.raises(UsageError, match=words.replace("+", r"\+")):
        make_split(shared.store, "demo", **{"name": "bad", **options})


def test_an_unknown_split_names_those_there_are(planted):
    with pytest.raises(UsageError, match="no split 's9' of data set 'demo'; it has: none yet"):
        load_split(planted.store, "demo", "s9")
    make_split(planted.store, "demo", "s1")
    with pytest.raises(UsageError, match="no split 's9' of data set 'demo'; it has: s1"):
        load_split(planted.store, "demo", "s9")
