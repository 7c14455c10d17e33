"""The networks' own scores beside fitted heads: mapped labels, missing ones, and fine-tuned networks."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from classifiers.evaluation import evaluate
from classifiers.label_map import read_label_map
from classifiers.splits import load_split, make_split
from classifiers.training import commit_cells, plan_cells, run_cell
from featurestore.backbones.registry import RegisteredWeights, register
from featurestore.errors import UsageError

SCORED = ("Edema", "Lung Opacity", "Pleural Effusion")


@pytest.fixture
def scored(planted):
    """Return a store where two networks have scored all images, and the scores (image, label) by backbone."""
    make_split(planted.store, "demo", "s1", test=0.5, val=0.1, seed=1)
    rng = np.random.default_rng(5)
    P = {backbone: rng.random((len(planted.ids), len(SCORED))).astype(np.float32) for backbone in planted.specs}
    for backbone, (spec_id, _) in planted.specs.items():
        score(planted, backbone, f"h{spec_id}", P[backbone], weights="chex")
    return planted, P


def score(planted, backbone, spec_id, P, weights, labels=SCORED, sha=""):
    spec = {"spec_id": [spec_id], "backbone": [backbone], "weights": [weights], "weights_sha256": [sha]}
    planted.store.append("specs", pa.table(spec))
    n, k = len(planted.ids), len(labels)
    rows = {
        "backbone": [backbone] * (n * k),
        "spec_id": [spec_id] * (n * k),
        "image_id": np.repeat(np.array(planted.ids, dtype=object), k),
        "label": list(labels) * n,
        "probability": P.ravel(),
    }
    planted.store.append("scores", pa.table(rows))


def one(rows, **wanted):
    (found,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return found


def held(planted):
    split = load_split(planted.store, "demo", "s1")
    chosen = {image for image, part in zip(split.ids, split.parts, strict=True) if part == "test"}
    return np.array([i for i, image in enumerate(planted.ids) if image in chosen])


def test_a_score_of_the_same_name_is_taken_as_it_is(scored):
    planted, P = scored
    rows = evaluate(planted.store, "demo", "s1").rows
    at, y = held(planted), np.array(planted.values["Edema"])
    for backbone in planted.specs:
        row = one(rows, approach="baseline", backbone=backbone, label="Edema")
        assert row["auc"] == pytest.approx(roc_auc_score(y[at], P[backbone][at, 0]))
        assert (row["weights"], row["fit_seconds"], row["n"]) == ("chex", 0.0, len(at))
    mean = np.mean([P[backbone][at, 0] for backbone in planted.specs], axis=0)
    row = one(rows, approach="baseline", ensemble="simple", label="Edema")
    assert row["auc"] == pytest.approx(roc_auc_score(y[at], mean))


def test_a_label_that_no_score_leads_to_says_so(scored):
    planted, _ = scored
    row = one(evaluate(planted.store, "demo", "s1").rows, backbone="vgg16", label="Fracture")
    assert row["auc"] is None
    assert row["note"].startswith("the network scores no such label, and no label map leads to it")


def test_a_label_map_takes_the_maximum_over_its_group(scored, tmp_path):
    """The data set has the label itself, the network only its parts: HUM-CXR's case."""
    planted, P = scored
    path = tmp_path / "map.yaml"
    path.write_text("Fracture: [Lung Opacity, Pleural Effusion, Nothing Of It]\n")
    rows = evaluate(planted.store, "demo", "s1", label_map=read_label_map(str(path))).rows
    at, y = held(planted), np.array(planted.values["Fracture"])
    for backbone in planted.specs:
        row = one(rows, backbone=backbone, label="Fracture")
        assert row["auc"] == pytest.approx(roc_auc_score(y[at], P[backbone][at, 1:].max(axis=1)))


def test_truth_under_a_mapped_label_is_the_maximum_of_the_data_sets(scored, tmp_path):
    planted, P = scored
    path = tmp_path / "map.yaml"
    path.write_text("Both: [Edema, Fracture]\n")
    rows = evaluate(planted.store, "demo", "s1", label_map=read_label_map(str(path))).rows
    at = held(planted)
    y = np.maximum(planted.values["Edema"], planted.values["Fracture"])
    row = one(rows, backbone="vgg16", label="Both")  # of its group the network scores Edema
    assert row["auc"] == pytest.approx(roc_auc_score(y[at], P["vgg16"][at, 0]))


def test_it_stands_beside_fitted_heads_on_the_same_images(scored):
    planted, _ = scored
    cells = plan_cells(planted.store, "demo", "s1", ["lightgbm"], planted.specs, ["Edema"])
    commit_cells(planted.store, [run_cell(planted.store, cell) for cell in cells])
    rows = evaluate(planted.store, "demo", "s1").rows
    assert {row["label"] for row in rows} == {"Edema", "macro"}  # what the heads were fitted for
    counts = {(row["approach"], row["n"], row["n_positive"]) for row in rows if row["label"] == "Edema"}
    assert len({count[1:] for count in counts}) == 1
    assert {count[0] for count in counts} == {"baseline", "embeddings"}


def test_a_label_that_means_two_things_is_not_put_into_one_table(scored):
    planted, _ = scored
    for label_map in (None, {"Edema": ("Edema", "Fracture")}):
        cells = plan_cells(planted.store, "demo", "s1", ["rf100"], planted.specs, ["Edema"], label_map=label_map)
        commit_cells(planted.store, [run_cell(planted.store, cell) for cell in cells])
        planted.specs.pop("xception", None)
    with pytest.raises(
        UsageError, match="label 'Edema' is the maximum of Edema to one model and of Edema, Fracture to"
    ):
        evaluate(planted.store, "demo", "s1")


def test_groups_may_overlap(scored, tmp_path):
    planted, _ = scored
    path = tmp_path / "map.yaml"
    path.write_text("Fluid: [Edema, Aaa Rare]\nAny: [Edema, Fracture]\nBone: [Elsewhere]\n")
    groups = read_label_map(str(path))
    rows = evaluate(planted.store, "demo", "s1", label_map=groups).rows
    assert {"Fluid", "Any"} <= {row["label"] for row in rows}
    assert "Bone" not in {row["label"] for row in rows}  # nothing of it is known here
    cells = plan_cells(planted.store, "demo", "s1", ["rf100"], planted.specs, ["Fluid", "Any"], label_map=groups)
    assert all(not run_cell(planted.store, cell).failed for cell in cells)


def test_a_label_that_cannot_be_judged_is_not_called_rare(scored):
    planted, _ = scored
    row = one(evaluate(planted.store, "demo", "s1").rows, backbone="vgg16", label="macro")
    assert "left out, no AUC: Fracture" in row["note"]


def test_folds_are_judged_one_by_one(scored):
    planted, P = scored
    make_split(planted.store, "demo", "k3", "kfold", folds=3, seed=1)
    rows = evaluate(planted.store, "demo", "k3").rows
    split = load_split(planted.store, "demo", "k3")
    at = np.array([planted.ids.index(i) for i, fold in zip(split.ids, split.folds, strict=True) if fold == 1])
    y = np.array(planted.values["Edema"])
    row = one(rows, backbone="vgg16", label="Edema", fold=1)
    assert row["auc"] == pytest.approx(roc_auc_score(y[at], P["vgg16"][at, 0]))


def test_a_fine_tuned_network_is_an_approach_of_its_own(scored):
    planted, _ = scored
    tuned = np.random.default_rng(9).random((len(planted.ids), 1)).astype(np.float32)
    score(planted, "vgg16", "t1", tuned, "demo_finetuned_paper", labels=("Edema",), sha="5" * 64)
    weights = RegisteredWeights(
        "demo_finetuned_paper", "vgg16", "timm", "5" * 64, ["Edema"], "fine-tuned on demo (split s1, ...) from chex"
    )
    register(planted.store, weights, b"x")
    policy = {"uncertain": "ones", "blank": "zero"}
    params = {"policy": policy, "labels": ["Edema"], "failed": {}, "extract_spec": ""}
    row = {
        "model_id": "m1", "dataset": "demo", "approach": "finetune", "head": "paper", "backbone": "vgg16",
        "spec_id": "t1", "weights": "chex", "split": "s1", "seed": 0, "labels": ["Edema"], "params": json.dumps(params),
        "fit_seconds": 12.0, "predict_seconds": 3.0, "created_at": datetime.now(UTC).replace(tzinfo=None),
    }  # fmt: skip
    planted.store.append("models", pa.Table.from_pylist([row]))
    rows = evaluate(planted.store, "demo", "s1").rows
    at, y = held(planted), np.array(planted.values["Edema"])
    found = one(rows, approach="finetune", backbone="vgg16", label="Edema")
    assert found["auc"] == pytest.approx(roc_auc_score(y[at], tuned[at, 0]))
    assert (found["extract_seconds"], found["fit_seconds"], found["predict_seconds"]) == (0.0, 12.0, 3.0)
    # Its own scores are no baseline, and those of the source network still are.
    baselines = {row["weights"] for row in rows if row["approach"] == "baseline"}
    assert baselines == {"chex"}
