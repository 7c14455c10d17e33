"""Stacked heads: what they are fitted on, recomputed by hand; and one head on all vectors side by side."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from classifiers.approaches import STACKER
from classifiers.cells import cell_id
from classifiers.design import design
from classifiers.evaluation import evaluate
from classifiers.heads import HEADS, fit_head
from classifiers.labels import LabelPolicy, label_matrix
from classifiers.rows import load_rows
from classifiers.splits import load_split, make_split
from classifiers.stacking import filled, out_of_fold
from classifiers.training import commit_cells, plan_cells, run_cell

pytestmark = pytest.mark.slow

LABELS = ["Edema", "Fracture"]
SCORED = ("Edema", "Opacity")


@pytest.fixture
def split(planted):
    """Return a store with scores of both networks and a frozen holdout."""
    make_split(planted.store, "demo", "s1", test=0.4, seed=1)
    rng = np.random.default_rng(5)
    for backbone, (spec_id, _) in planted.specs.items():
        n, k = len(planted.ids), len(SCORED)
        planted.store.append(
            "scores",
            pa.table(
                {
                    "backbone": [backbone] * (n * k),
                    "spec_id": [spec_id] * (n * k),
                    "image_id": np.repeat(np.array(planted.ids, dtype=object), k),
                    "label": list(SCORED) * n,
                    "probability": rng.random(n * k).astype(np.float32),
                }
            ),
        )
    return planted


def _run(planted, approach, heads, **options):
    cells = plan_cells(planted.store, "demo", "s1", heads, planted.specs, LABELS, approach=approach, **options)
    results = [run_cell(planted.store, cell) for cell in cells]
    assert all(not result.failed for result in results), results[0].failed
    commit_cells(planted.store, results)
    return cells, results


def test_stacking_a_is_a_forest_on_the_scores_side_by_side(split):
    (cell,), (result,) = _run(split, "stacking-a", [STACKER])
    rows = load_rows(split.store, cell)
    table = split.store.query("SELECT spec_id, image_id, label, probability FROM scores").to_pylist()
    score = {(r["spec_id"], r["image_id"], r["label"]): r["probability"] for r in table}
    order = [(spec_id, label) for spec_id, _ in split.specs.values() for label in SCORED]
    X = np.array([[score[s, image, label] for s, label in order] for image in rows.train_ids + rows.held_ids])
    params = {"n_estimators": 1400, "max_depth": 30, "min_samples_split": 5, "max_features": "sqrt"}
    forest = RandomForestClassifier(**params, random_state=0).fit(
        X[: len(rows.train_ids)].astype(np.float32), rows.train_labels.astype(int)
    )
    expected = np.column_stack([p[:, 1] for p in forest.predict_proba(X[len(rows.train_ids) :].astype(np.float32))])
    np.testing.assert_allclose(result.predictions["probability"].to_numpy().reshape(-1, 2), expected, atol=1e-12)
    (row,) = result.model_row.to_pylist()
    assert (row["approach"], row["backbone"], row["head"]) == ("stacking-a", "all", STACKER)
    assert row["spec_id"] == "+".join(spec_id for spec_id, _ in split.specs.values())


def test_stacking_b_sees_each_training_image_by_heads_that_did_not(split):
    cells = plan_cells(split.store, "demo", "s1", ["rf100"], split.specs, LABELS, approach="stacking-b")
    (cell,) = cells
    rows = load_rows(split.store, cell)
    X = design(split.store, cell, rows)
    assert X.train.shape == (len(rows.train_ids), 4)
    # By hand for the first backbone: the same patients held out of the same folds.
    backbone, (spec_id, _) = next(iter(split.specs.items()))
    _, V = split.store.matrix(spec_id, rows.train_ids)
    own = out_of_fold(HEADS["rf100"], V, rows.train_labels, LABELS, rows.train_patients, seed=0)
    np.testing.assert_array_equal(X.train[:, :2], own)
    whole = fit_head(HEADS["rf100"], V, rows.train_labels, LABELS, seed=0)
    _, W = split.store.matrix(spec_id, rows.held_ids)
    np.testing.assert_array_equal(X.held[:, :2], whole.predict(W).astype(np.float32))
    assert backbone


def test_no_patient_is_on_both_sides_of_an_inner_fold():
    rng = np.random.default_rng(0)
    patients = [f"p{k // 3}" for k in range(90)]
    # The truth is the patient's own number in the vectors: only a head that saw the patient could tell.
    Y = rng.integers(0, 2, (30, 1)).repeat(3, axis=0).astype(float)
    X = np.repeat(rng.normal(size=(30, 8)), 3, axis=0).astype(np.float32)
    own = out_of_fold(HEADS["rf100"], X, Y, ["Edema"], patients, seed=0)
    seen = fit_head(HEADS["rf100"], X, Y, ["Edema"], seed=0).predict(X)
    assert roc_auc_score(Y[:, 0], seen[:, 0]) > 0.95
    assert abs(roc_auc_score(Y[:, 0], own[:, 0]) - 0.5) < 0.3


def test_in_sample_is_marked_and_is_the_published_way(split):
    (honest, marked) = (_run(split, "stacking-b", ["rf100"], in_sample=in_sample) for in_sample in (False, True))
    assert honest[1][0].model_row["head"][0].as_py() == "rf100"
    assert marked[1][0].model_row["head"][0].as_py() == "rf100_in_sample"
    assert honest[1][0].model_row["model_id"] != marked[1][0].model_row["model_id"]
    rows = evaluate(split.store, "demo", "s1").rows
    found = {(r["head"], r["backbone"], r["ensemble"]) for r in rows if r["approach"] == "stacking-b"}
    assert found == {("rf100", "all", "none"), ("rf100_in_sample", "all", "none")}


def test_one_head_on_all_vectors(split):
    cells, (result,) = _run(split, "embeddings", ["rf100"], concatenate=True)
    rows = load_rows(split.store, cells[0])
    X = np.concatenate([split.store.matrix(s, rows.train_ids)[1] for s, _ in split.specs.values()], axis=1)
    W = np.concatenate([split.store.matrix(s, rows.held_ids)[1] for s, _ in split.specs.values()], axis=1)
    forest = RandomForestClassifier(**HEADS["rf100"].params, random_state=0).fit(X, rows.train_labels.astype(int))
    expected = np.column_stack([p[:, 1] for p in forest.predict_proba(W)])
    np.testing.assert_allclose(result.predictions["probability"].to_numpy().reshape(-1, 2), expected, atol=1e-12)
    assert result.model_row["backbone"][0].as_py() == "concatenated"


def test_a_network_without_a_head_cannot_be_stacked(planted):
    make_split(planted.store, "demo", "s1", test=0.4, seed=1)
    (cell,) = plan_cells(planted.store, "demo", "s1", ["rf100"], planted.specs, LABELS, approach="stacking-a")
    assert "has no scores: its weights have no head" in run_cell(planted.store, cell).failed["Edema"]


def test_a_label_without_a_probability_becomes_a_column_without_information():
    Y = np.array([[1, np.nan], [0, np.nan], [1, np.nan]])
    p = np.array([[0.2, np.nan], [np.nan, np.nan]])
    np.testing.assert_allclose(filled(p, Y), [[0.2, 0.5], [2 / 3, 0.5]])


def test_a_label_map_makes_labels_to_learn(split):
    groups = {"Both": ("Edema", "Fracture")}
    cells = plan_cells(split.store, "demo", "s1", ["rf100"], split.specs, label_map=groups)
    commit_cells(split.store, [run_cell(split.store, cell) for cell in cells])
    parts = load_split(split.store, "demo", "s1")
    ids = [image for image, part in zip(parts.ids, parts.parts, strict=True) if part == "train"]
    truth = label_matrix(split.store, "demo", ids, LABELS).max(axis=1)
    np.testing.assert_array_equal(load_rows(split.store, cells[0]).train_labels[:, 0], truth)
    rows = evaluate(split.store, "demo", "s1").rows
    assert {row["label"] for row in rows if row["approach"] == "embeddings"} == {"Both", "macro"}
    (params, *_) = split.store.query("SELECT params FROM models")["params"].to_pylist()
    assert json.loads(params)["label_map"] == {"Both": ["Edema", "Fracture"]}


def test_a_cell_without_news_keeps_its_id(planted):
    """What was fitted before stacking and label maps were there is found again."""
    make_split(planted.store, "demo", "s1", test=0.4, seed=1)
    cell = plan_cells(planted.store, "demo", "s1", ["rf100"], planted.specs, LABELS)[0]
    described = {
        "dataset": "demo", "split": "s1", "head": "rf100", "backbone": cell.backbone, "spec_id": cell.spec_id,
        "weights": "", "labels": LABELS, "fold": None, "seed": 0,
        "policy": {"uncertain": "ones", "blank": "zero"}, "approach": "embeddings",
        "digest": "d", "params": dict(HEADS["rf100"].params),
    }  # fmt: skip
    import hashlib

    expected = "m" + hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:20]
    assert cell_id(cell, "d") == expected
    assert cell.policy == LabelPolicy()
