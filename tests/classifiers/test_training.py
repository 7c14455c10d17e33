from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from sklearn.ensemble import RandomForestClassifier

from classifiers.cells import cell_id
from classifiers.labels import LabelPolicy
from classifiers.splits import load_split, make_split
from classifiers.training import commit_cells, fit_cell, plan_cells, run_cell
from featurestore.errors import UsageError

pytestmark = pytest.mark.slow  # the whole of it; `make test` runs it, `make test-fast` does not

VGG = {"vgg16": ("svgg16", "random:7")}


def cell_of(planted, split="s1", **changes):
    return replace(plan_cells(planted.store, "demo", split, ["rf100"], VGG, ["Edema", "Fracture"])[0], **changes)


@pytest.fixture
def ready(planted):
    make_split(planted.store, "demo", "s1", seed=1)
    return planted


def by_image(predictions, label):
    return {row["image_id"]: row["probability"] for row in predictions.to_pylist() if row["label"] == label}


def test_the_plan_is_heads_by_seeds_by_backbones_by_folds(ready):
    make_split(ready.store, "demo", "k3", "kfold", folds=3)
    cells = plan_cells(ready.store, "demo", "k3", ["rf100", "lightgbm"], ready.specs, seeds=[0, 1])
    assert len(set(cells)) == len(cells) == 2 * 2 * 2 * 3
    assert {cell.fold for cell in cells} == {0, 1, 2}
    assert cells[0].labels == ("Edema", "Fracture", "Aaa Rare")
    assert [cell.fold for cell in plan_cells(ready.store, "demo", "s1", ["rf"], VGG)] == [None]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": ["svm"]}, "no head 'svm'; choose among rf"),
        ({"labels": ["Flu"]}, "no label 'Flu'; data set 'demo' has: Edema"),
        ({"split": "s9"}, "no split 's9' of data set 'demo'; it has: s1"),
        ({"dataset": "nih"}, "no data set 'nih' in the store at .*; it has demo"),
        ({"seeds": [-1]}, "seed -1: expected 0 to 4294967295"),
        ({"specs": {}}, "no backbone to fit heads on; run `cxr extract` first"),
        ({"specs": {"vgg19": ("svgg19", "random:7")}}, r"\d+ of \d+ images of split 's1' have no vgg19 vector of spec"),
    ],
)
def test_a_plan_that_cannot_be_made(ready, changes, words):
    request = {"dataset": "demo", "split": "s1", "heads": ["rf100"], "specs": VGG, "labels": None, **changes}
    with pytest.raises(UsageError, match=words):
        plan_cells(ready.store, **request)


def test_a_cell_equals_plain_scikit_learn(ready):
    result = run_cell(ready.store, cell_of(ready, seed=11), n_jobs=2)
    split = load_split(ready.store, "demo", "s1")
    place = {image: k for k, image in enumerate(ready.ids)}
    train = [place[i] for i, part in zip(split.ids, split.parts, strict=True) if part == "train"]
    held = [i for i, part in zip(split.ids, split.parts, strict=True) if part != "train"]
    Y = np.column_stack([ready.values["Edema"], ready.values["Fracture"]])
    X = ready.vectors["vgg16"]
    forest = RandomForestClassifier(
        100, max_depth=10, min_samples_leaf=4, min_samples_split=10, bootstrap=False, random_state=11, n_jobs=1
    ).fit(X[train], Y[train])
    probabilities = forest.predict_proba(X[[place[i] for i in held]])
    for label, p in zip(("Edema", "Fracture"), probabilities, strict=True):
        assert by_image(result.predictions, label) == dict(zip(held, p[:, 1], strict=True))
    parts = dict(zip(split.ids, split.parts, strict=True))
    assert all(parts[row["image_id"]] == row["part"] for row in result.predictions.to_pylist())
    row = result.model_row.to_pylist()[0]
    assert (row["n_train"], row["labels"], row["seed"]) == (len(train), ["Edema", "Fracture"], 11)
    assert row["fit_seconds"] > 0
    assert row["predict_seconds"] > 0
    assert json.loads(row["versions"]).keys() == {"numpy", "scipy", "scikit-learn", "lightgbm"}
    assert json.loads(row["tables"]) == ready.store.versions()
    again = fit_cell(ready.store, result.cell).predict(X[[place[i] for i in held]])
    np.testing.assert_array_equal(again, np.column_stack([p[:, 1] for p in probabilities]))


def test_nothing_is_written_before_the_commit_and_a_stored_cell_is_not_fitted_again(ready):
    before = ready.store.versions()
    first = run_cell(ready.store, cell_of(ready), run_id="run1")
    assert ready.store.versions() == before
    assert commit_cells(ready.store, [first]) == 1
    again = run_cell(ready.store, cell_of(ready, weights="another name"), run_id="run2")
    assert again.cached
    assert again.model_row.to_pylist() == first.model_row.to_pylist()  # its seconds and its run too
    assert by_image(again.predictions, "Edema") == by_image(first.predictions, "Edema")
    version = ready.store.versions()
    assert commit_cells(ready.store, [again]) == 0
    assert ready.store.versions() == version


def test_a_crash_between_the_two_tables_leaves_a_cell_to_fit_again(ready):
    first = run_cell(ready.store, cell_of(ready))
    ready.store.append("predictions", first.predictions)
    again = run_cell(ready.store, cell_of(ready))
    assert not again.cached
    assert commit_cells(ready.store, [again]) == 1
    assert ready.store.query("SELECT * FROM predictions").num_rows == first.predictions.num_rows


def test_kfold_predicts_each_image_once_by_a_head_that_never_saw_its_patient(ready):
    make_split(ready.store, "demo", "k3", "kfold", folds=3)
    split = load_split(ready.store, "demo", "k3")
    fold_of = dict(zip(split.ids, split.folds, strict=True))
    results = [run_cell(ready.store, cell_of(ready, "k3", fold=fold)) for fold in range(3)]
    rows = [row for result in results for row in result.predictions.to_pylist() if row["label"] == "Edema"]
    assert sorted(row["image_id"] for row in rows) == sorted(ready.ids)
    assert all(row["fold"] == fold_of[row["image_id"]] and row["part"] == "test" for row in rows)
    trained = [result.model_row["n_train"][0].as_py() for result in results]
    assert trained == [sum(fold != k for fold in split.folds) for k in range(3)]


def test_the_id_changes_with_everything_that_changes_the_result(ready):
    base = cell_of(ready)
    changed = [
        replace(base, seed=1),
        replace(base, head="rf"),
        replace(base, spec_id="other"),
        replace(base, labels=("Fracture", "Edema")),
        replace(base, policy=LabelPolicy("zeros")),
        replace(base, fold=0),
        replace(base, split="s2"),
    ]
    ids = {cell_id(cell, "d") for cell in [base, *changed]} | {cell_id(base, "e")}
    assert len(ids) == 9
    assert cell_id(replace(base, weights="alias"), "d") == cell_id(base, "d")
    assert all(name[0] == "m" and len(name) == 21 for name in ids)


def test_a_new_label_value_makes_a_new_cell(planter):
    planted = planter(uncertain=True)
    make_split(planted.store, "demo", "s1")
    ids = {
        run_cell(planted.store, cell_of(planted, policy=LabelPolicy(u))).model_row["model_id"][0].as_py()
        for u in ("ones", "zeros", "ignore")
    }
    assert len(ids) == 3


def test_a_label_of_one_class_fails_and_is_remembered(ready):
    split = load_split(ready.store, "demo", "s1")
    held = [i for i, part in zip(split.ids, split.parts, strict=True) if part == "test"]
    rows = {"image_id": held[:1], "dataset": ["demo"], "label": ["Only Test"], "value": pa.array([1], pa.int8())}
    ready.store.append("labels", pa.table(rows))
    cell = cell_of(ready, labels=("Edema", "Only Test"))
    result = run_cell(ready.store, cell)
    assert list(result.failed) == ["Only Test"]
    assert "has one class among its" in result.failed["Only Test"]
    assert result.model_row["labels"].to_pylist() == [["Edema"]]
    assert set(result.predictions["label"].to_pylist()) == {"Edema"}
    commit_cells(ready.store, [result])
    assert run_cell(ready.store, cell).failed == result.failed
    alone = run_cell(ready.store, replace(cell, labels=("Only Test",)))
    assert alone.model_row.num_rows == 0
    assert commit_cells(ready.store, [alone]) == 0


def test_a_bad_cell_is_a_result_and_stops_nothing(ready):
    bad = run_cell(ready.store, cell_of(ready, backbone="vgg19", spec_id="nowhere"))
    assert bad.failed.keys() == {"Edema", "Fracture"}
    assert "have no vgg19 vector of spec nowhere; run `cxr extract`" in bad.failed["Edema"]
    assert commit_cells(ready.store, [bad, run_cell(ready.store, cell_of(ready))]) == 1


def test_an_image_the_extraction_rejected_is_left_out_and_counted(planted):
    n = len(planted.ids)
    planted.store.append(
        "images", pa.table({"image_id": ["broken"], "dataset": ["demo"], "patient_id": ["p0"], "view": ["PA"]})
    )
    make_split(planted.store, "demo", "s1")
    with pytest.raises(UsageError, match=f"1 of {n + 1} images of split 's1' have no vgg16 vector of spec svgg16"):
        cell_of(planted)
    reject = {"dataset": ["demo"], "uri": ["x.png"], "image_id": ["broken"], "stage": ["model"], "reason": ["broken"]}
    planted.store.append("rejects", pa.table({**reject, "spec_id": ["svgg16"]}))
    result = run_cell(planted.store, cell_of(planted))
    assert not result.failed
    assert json.loads(result.model_row["params"][0].as_py())["without_vector"] == 1
    assert "broken" not in result.predictions["image_id"].to_pylist()
