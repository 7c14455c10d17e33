from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from classifiers.evaluation import evaluate, write_metrics
from classifiers.labels import LabelPolicy
from classifiers.splits import load_split, make_split
from classifiers.training import commit_cells, plan_cells, run_cell
from featurestore.errors import UsageError

pytestmark = pytest.mark.slow  # the whole of it; `make test` runs it, `make test-fast` does not

FIELDS = {"approach", "head", "backbone", "weights", "ensemble", "label", "part", "auc", "auc_lo", "auc_hi", "n"} | {
    "n_positive",
    "n_positive_patients",
    "extract_seconds",
    "fit_seconds",
    "predict_seconds",
}


def train(planted, split, heads=("lightgbm",), labels=None, **options):
    cells = plan_cells(planted.store, "demo", split, heads, options.pop("specs", planted.specs), labels, **options)
    results = [run_cell(planted.store, cell) for cell in cells]
    commit_cells(planted.store, results)
    return results


@pytest.fixture(scope="module")
def trained(plant_at, tmp_path_factory):
    """Return a store with heads fitted on a holdout and on three folds; tests only read it."""
    planted = plant_at(tmp_path_factory.mktemp("trained"))
    make_split(planted.store, "demo", "s1", test=0.5, seed=1)
    make_split(planted.store, "demo", "k3", "kfold", folds=3, seed=1)
    train(planted, "s1", ["rf100", "lightgbm"])
    train(planted, "k3")
    return planted


def one(rows, **wanted):
    found = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    assert len(found) == 1
    return found[0]


def test_the_rows_are_every_backbone_and_both_ensembles_by_label_and_macro(trained):
    rows = evaluate(trained.store, "demo", "s1").rows
    assert all(row.keys() >= FIELDS for row in rows)
    assert [row["label"] for row in rows[:4]] == ["Edema", "Fracture", "Aaa Rare", "macro"]
    kinds = [(row["head"], row["backbone"], row["ensemble"]) for row in rows if row["label"] == "macro"]
    expected = [("vgg16", "none"), ("xception", "none"), ("all", "simple"), ("all", "entropy")]
    assert kinds == [(head, *kind) for head in ("lightgbm", "rf100") for kind in expected]
    assert {(row["approach"], row["weights"], row["part"], row["fold"]) for row in rows} == {
        ("embeddings", "random:7", "test", None)
    }


def test_one_forests_auc_is_plain_scikit_learns_on_the_stores_matrix(trained):
    split = load_split(trained.store, "demo", "s1")
    ids = {part: [i for i, p in zip(split.ids, split.parts, strict=True) if p == part] for part in ("train", "test")}
    place = {image: k for k, image in enumerate(trained.ids)}
    labels = ("Edema", "Fracture", "Aaa Rare")
    Y = np.column_stack([trained.values[label] for label in labels])
    _, X_train = trained.store.matrix("svgg16", ids["train"])
    _, X_test = trained.store.matrix("svgg16", ids["test"])
    forest = RandomForestClassifier(
        100, max_depth=10, min_samples_leaf=4, min_samples_split=10, bootstrap=False, random_state=0, n_jobs=1
    ).fit(X_train, Y[[place[i] for i in ids["train"]]])
    truth = Y[[place[i] for i in ids["test"]]]
    rows = evaluate(trained.store, "demo", "s1", heads=["rf100"], backbones=["vgg16"]).rows
    for k, label in enumerate(labels):
        row = one(rows, backbone="vgg16", label=label)
        assert row["auc"] == pytest.approx(roc_auc_score(truth[:, k], forest.predict_proba(X_test)[k][:, 1]), abs=1e-12)
        assert (row["n"], row["n_positive"]) == (len(ids["test"]), truth[:, k].sum())
        sick = {trained.patients[place[i]] for i, y in zip(ids["test"], truth[:, k], strict=True) if y}
        assert row["n_positive_patients"] == len(sick)
        assert (row["auc_lo"] is None) == (len(sick) < 10)
        assert row["auc_lo"] is None or row["auc_lo"] < row["auc"] < row["auc_hi"]


def test_the_ensembles_are_averages_of_the_stored_predictions(trained):
    evaluation = evaluate(trained.store, "demo", "s1", heads=["rf100"])
    by_kind = {(scored.backbone, scored.ensemble): scored for scored in evaluation.scored}
    P = np.array([by_kind["vgg16", "none"].p, by_kind["xception", "none"].p])
    q = np.clip(P, 1e-300, 1 - 1e-16)
    certainty = 1 + q * np.log2(q) + (1 - q) * np.log2(1 - q)
    np.testing.assert_allclose(by_kind["all", "simple"].p, P.mean(axis=0), atol=1e-15)
    np.testing.assert_allclose(by_kind["all", "entropy"].p, (certainty * P).sum(0) / certainty.sum(0), atol=1e-9)
    for kind in ("simple", "entropy"):
        scored = by_kind["all", kind]
        expected = roc_auc_score(scored.y[:, 0], scored.p[:, 0])
        assert one(evaluation.rows, ensemble=kind, label="Edema")["auc"] == pytest.approx(expected, abs=1e-12)


def test_the_macro_mean_leaves_rare_labels_out(trained):
    rows = evaluate(trained.store, "demo", "s1", heads=["rf100"], backbones=["vgg16"]).rows
    assert one(rows, backbone="vgg16", label="Aaa Rare")["n_positive_patients"] < 10
    assert one(rows, backbone="vgg16", label="Fracture")["n_positive_patients"] >= 10
    macro = one(rows, backbone="vgg16", label="macro")
    both = [one(rows, backbone="vgg16", label=label)["auc"] for label in ("Edema", "Fracture")]
    assert macro["auc"] == pytest.approx(np.mean(both))
    assert macro["note"] == "mean of 2 labels; left out, under 10 positive patients: Aaa Rare"
    assert (macro["auc_lo"], macro["n_positive"]) == (None, None)
    rare = one(
        evaluate(trained.store, "demo", "s1", labels=["Aaa Rare"]).rows, backbone="vgg16", head="rf100", label="macro"
    )
    assert rare["auc"] is None
    assert "no label to average" in rare["note"]


def test_kfold_is_averaged_over_folds_never_pooled(trained):
    evaluation = evaluate(trained.store, "demo", "k3")
    mean = one(evaluation.rows, backbone="vgg16", label="Edema", fold=None)
    folds = [one(evaluation.rows, backbone="vgg16", label="Edema", fold=k) for k in range(3)]
    assert mean["auc"] == pytest.approx(np.mean([row["auc"] for row in folds]))
    assert mean["n"] == sum(row["n"] for row in folds) == len(trained.ids)
    assert mean["n_positive"] == sum(trained.values["Edema"])
    assert mean["fit_seconds"] == pytest.approx(sum(row["fit_seconds"] for row in folds))
    assert mean["auc_lo"] is None
    assert mean["note"] == "mean of 3 of 3 folds: no interval"
    for k in range(3):
        scored = next(s for s in evaluation.scored if (s.backbone, s.fold) == ("vgg16", k))
        assert folds[k]["auc"] == pytest.approx(roc_auc_score(scored.y[:, 0], scored.p[:, 0]), abs=1e-12)
    macro = one(evaluation.rows, backbone="vgg16", label="macro", fold=None)
    fractures = one(evaluation.rows, backbone="vgg16", label="Fracture", fold=None)
    assert macro["auc"] == pytest.approx(np.mean([mean["auc"], fractures["auc"]]))
    kinds = [
        (row["backbone"], row["ensemble"]) for row in evaluation.rows if row["label"] == "macro" and row["fold"] is None
    ]
    assert kinds == [("vgg16", "none"), ("xception", "none"), ("all", "simple"), ("all", "entropy")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"part": "train"}, "part 'train' of split 's1' has no predictions; it has: test, val"),
        ({"heads": ["rf"]}, "no fitted model of head 'rf'; there is: lightgbm, rf100"),
        ({"backbones": ["vgg19"]}, "no fitted model of backbone 'vgg19'; there is: vgg16, xception"),
        ({"seed": 3}, "no fitted model of seed 3; there is: 0"),
        ({"specs": {"vgg16": "sother"}}, "no fitted model of spec_id 'sother'; there is: svgg16, sxception"),
        ({"labels": ["Flu"]}, "no label 'Flu'; data set 'demo' has"),
        ({"policy": LabelPolicy("zeros")}, "for all of this at once: policy"),
        ({"unit": "patient"}, "unit of analysis 'patient': only 'image' is built so far"),
        ({"split": "s9"}, "no split 's9' of data set 'demo'; it has: k3, s1"),
    ],
)
def test_a_request_that_cannot_be_met_names_what_there_is(trained, options, words):
    with pytest.raises(UsageError, match=words):
        evaluate(trained.store, "demo", **{"split": "s1", **options})


def test_without_fitted_heads_it_says_what_to_do(planted):
    make_split(planted.store, "demo", "s1")
    with pytest.raises(UsageError, match="no fitted heads on split 's1' of data set 'demo'; run `cxr train` first"):
        evaluate(planted.store, "demo", "s1")


def test_seconds_are_the_runs_that_extracted(planted):
    store = planted.store
    make_split(store, "demo", "s1")
    train(planted, "s1")
    assert evaluate(store, "demo", "s1").rows[0]["extract_seconds"] is None
    run = {"run_id": ["run1"], "command": ["extract"]}
    store.append("runs", pa.table({**run, "seconds": [json.dumps({"by_backbone": {"vgg16": 3.5, "xception": 4.0}})]}))
    rows = evaluate(store, "demo", "s1").rows
    assert one(rows, backbone="vgg16", label="Edema")["extract_seconds"] == 3.5
    ensemble = one(rows, ensemble="simple", label="Edema")
    assert ensemble["extract_seconds"] == 7.5
    singles = [one(rows, backbone=backbone, label="Edema") for backbone in planted.specs]
    assert ensemble["fit_seconds"] == pytest.approx(sum(row["fit_seconds"] for row in singles))


def test_the_newest_fit_counts_and_mixtures_are_refused(planted):
    store = planted.store
    make_split(store, "demo", "s1")
    train(planted, "s1", labels=["Edema"])
    train(planted, "s1", labels=["Edema", "Fracture"])
    assert {row["label"] for row in evaluate(store, "demo", "s1").rows} == {"Edema", "Fracture", "macro"}
    train(planted, "s1", labels=["Edema"], specs={"vgg16": planted.specs["vgg16"]}, policy=LabelPolicy("zeros"))
    with pytest.raises(UsageError, match="head 'lightgbm' was fitted under 2 label policies; choose one policy"):
        evaluate(store, "demo", "s1")
    assert evaluate(store, "demo", "s1", policy=LabelPolicy()).rows
    planted.embed("vgg16", "sother", planted.vectors["vgg16"][:, ::-1].copy())
    train(planted, "s1", specs={"vgg16": ("sother", "random:7")})
    with pytest.raises(UsageError, match=r"'vgg16' with weights 'random:7' has models of 2 specs \(sother, svgg16\)"):
        evaluate(store, "demo", "s1", policy=LabelPolicy())
    chosen = evaluate(store, "demo", "s1", policy=LabelPolicy(), specs={"vgg16": "sother"})
    assert {scored.backbone for scored in chosen.scored} == {"vgg16", "all"}


def test_ignored_labels_are_not_counted(planter):
    planted = planter(uncertain=True)
    make_split(planted.store, "demo", "s1", test=0.4)
    train(planted, "s1", policy=LabelPolicy("ignore", "ignore"), labels=["Edema", "Fracture"])
    evaluation = evaluate(planted.store, "demo", "s1")
    scored = evaluation.scored[0]
    assert (
        one(evaluation.rows, backbone="vgg16", label="Edema")["n"]
        == (~np.isnan(scored.y[:, 0])).sum()
        < len(scored.ids)
    )


def test_a_failed_cell_leaves_a_row_that_says_why_and_an_ensemble_of_the_others(planted):
    store = planted.store
    make_split(store, "demo", "s1", test=0.4)
    split = load_split(store, "demo", "s1")
    held = [i for i, part in zip(split.ids, split.parts, strict=True) if part == "test"]
    n = len(split.ids)
    values = [1 if image_id == held[0] else None for image_id in split.ids]
    rows = {
        "image_id": split.ids,
        "dataset": ["demo"] * n,
        "label": ["Only Test"] * n,
        "value": pa.array(values, pa.int8()),
    }
    store.append("labels", pa.table(rows))
    train(planted, "s1", labels=["Edema", "Only Test"], specs={"vgg16": planted.specs["vgg16"]})
    train(planted, "s1", labels=["Edema"], specs={"xception": planted.specs["xception"]})
    found = evaluate(store, "demo", "s1").rows
    failed = one(found, backbone="vgg16", label="Only Test")
    assert failed["auc"] is None
    assert "label 'Only Test' has one class among its" in failed["note"]
    assert f"{len(held)} images without a probability" in failed["note"]
    assert "no model was asked for this label" in one(found, backbone="xception", label="Only Test")["note"]
    assert "0 of 2 backbones (without vgg16, xception)" in one(found, ensemble="simple", label="Only Test")["note"]
    assert one(found, ensemble="simple", label="Edema")["auc"] > 0.5


def test_unknown_patients_are_said_to_be_unknown(planter, shared):
    planted = planter(images={"patient_id": [None] * len(shared.ids)})
    make_split(planted.store, "demo", "s1")
    train(planted, "s1", labels=["Edema"])
    assert "overlap is unknowable" in evaluate(planted.store, "demo", "s1").notes[0]


def test_metrics_are_written_once(trained):
    evaluation = evaluate(trained.store, "demo", "k3")
    assert evaluation.notes == []
    assert write_metrics(trained.store, evaluation, "run7") == len(evaluation.rows)
    assert write_metrics(trained.store, evaluation, "run7") == 0
    stored = trained.store.query("SELECT * FROM metrics WHERE run_id = 'run7'").to_pylist()
    row = one(stored, backbone="vgg16", label="Edema", fold=1)
    wanted = one(evaluation.rows, backbone="vgg16", label="Edema", fold=1)
    assert (row["value"], row["lo"], row["n"], row["metric"]) == (wanted["auc"], wanted["auc_lo"], wanted["n"], "auc")


def test_named_fits_are_evaluated_and_no_newer_ones(planted):
    """A later fit over more labels must not slip into an experiment that asked for its own."""
    make_split(planted.store, "demo", "s1", test=0.4)
    own = train(planted, "s1", ["rf100"], labels=["Edema", "Fracture"])
    ids = [result.model_row["model_id"][0].as_py() for result in own]
    asked = {"labels": ["Edema", "Fracture"], "heads": ["rf100"]}
    before = evaluate(planted.store, "demo", "s1", model_ids=ids, **asked).rows
    train(planted, "s1", ["rf100"])
    assert evaluate(planted.store, "demo", "s1", model_ids=ids, **asked).rows == before
    assert evaluate(planted.store, "demo", "s1", **asked).rows != before
