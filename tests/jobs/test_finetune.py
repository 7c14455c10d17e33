"""`cxr finetune`: from source weights to scores of every image; killed and resumed; input that cannot be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from classifiers.cnn import tuning
from classifiers.cnn.records import read_state
from classifiers.cnn.tuning import Trial
from classifiers.evaluation import evaluate
from classifiers.splits import make_split
from featurestore.backbones.network import load_network
from featurestore.backbones.registry import registered
from featurestore.backbones.requests import requested
from featurestore.errors import HarmError, UsageError
from featurestore.images.decode import read_image
from featurestore.images.preprocess import get_preprocess
from featurestore.images.sources.labels import CHEXPERT_LABELS
from featurestore.store import Store
from jobs.choose import stored_specs
from jobs.finetune import finetune
from jobs.finetune_request import FinetuneRequest
from jobs.ingest import IngestRequest, ingest
from jobs.pretrain import pretrain
from jobs.pretrain_request import PretrainRequest
from jobs.workers import Workers

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Workers(use_ray=False)
LABELS = ("Lung Opacity", "Pleural Effusion", "Support Devices")


@pytest.fixture(scope="module")
def _prepared(tmp_path_factory: pytest.TempPathFactory, phantom_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("finetune")
    asked = IngestRequest(
        "csv",
        phantom_folder / "phantom.csv",
        dataset="local",
        patient_column="patient",
        labels=",".join(CHEXPERT_LABELS),
    )
    store = Store(folder / "store")
    ingest(store, asked)
    (folder / "labels.yaml").write_text("".join(f"{label}: [{label}]\n" for label in LABELS))
    source = PretrainRequest(
        "local", backbones="tests.tiny:SECOND", preset="demo", size=32, epochs=1, name="source",
        label_map=str(folder / "labels.yaml"),
    )  # fmt: skip
    pretrain(store, source, HERE)
    make_split(store, "local", "holdout", test=0.3, val=0.3, seed=0)
    return folder


@pytest.fixture
def store(tmp_path: Path, _prepared: Path) -> Store:
    """Return a store of one's own, with a dozen patients' images and a source network."""
    shutil.copytree(_prepared / "store", tmp_path / "store")
    return Store(tmp_path / "store")


@pytest.fixture
def asked(_prepared: Path) -> FinetuneRequest:
    """Return a request of one small network."""
    return FinetuneRequest(
        "local", "holdout", backbones="tests.tiny:SECOND", weights="source", preset="demo", size=32,
        label_map=str(_prepared / "labels.yaml"), name="tuned",
    )  # fmt: skip


def _trials(monkeypatch: pytest.MonkeyPatch, *trials: Trial, **changes: Any) -> None:
    demo = tuning.TUNINGS["demo"]
    monkeypatch.setitem(tuning.TUNINGS, "demo", replace(demo, trials=trials, recipe=replace(demo.recipe, **changes)))


def _grey(store: Store, size: int = 32) -> tuple[list[str], np.ndarray]:
    rows = store.query("SELECT image_id, uri FROM images ORDER BY image_id").to_pylist()
    preprocess = get_preprocess("bilinear-v1")
    return [r["image_id"] for r in rows], np.stack([preprocess.apply(read_image(r["uri"]).pixels, size) for r in rows])


def _scores(store: Store, spec_id: str) -> dict[tuple[str, str], float]:
    rows = store.query("SELECT image_id, label, probability FROM scores WHERE spec_id = ?", [spec_id]).to_pylist()
    return {(row["image_id"], row["label"]): row["probability"] for row in rows}


def _own_scores(store: Store, name: str) -> dict[tuple[str, str], float]:
    """Compute the scores of registered weights in plain torch."""
    (asked,) = requested(store, "tests.tiny:SECOND", name)
    network = load_network(asked.backbone, asked.request).network
    ids, grey = _grey(store)
    with torch.inference_mode():
        maps = network.features.forward_features(network.normalise(torch.from_numpy(grey)))
        p = torch.sigmoid(network.head(maps.mean((2, 3)))).numpy()
    return {(image, label): p[i, k] for i, image in enumerate(ids) for k, label in enumerate(network.labels)}


def test_it_leaves_weights_scores_of_every_image_a_model_and_metrics(store: Store, asked: FinetuneRequest) -> None:
    said: list[str] = []
    (row,) = finetune(store, asked, HERE, said.append)
    (weights,) = registered(store, "tuned")
    assert (weights.sha256, weights.labels) == (row.sha256, list(LABELS))
    assert weights.source.startswith("fine-tuned on local (split holdout, ")
    assert weights.source.endswith("u-ones) from source")
    assert (row.chosen, row.scored) == ("last-6 at 0.001", len(_grey(store)[0]))
    assert row.seconds > 0

    found, wanted = _scores(store, row.spec_id), _own_scores(store, "tuned")
    assert found.keys() == wanted.keys()
    assert [found[key] for key in wanted] == pytest.approx(list(wanted.values()), abs=1e-5)

    (model,) = store.query("SELECT * FROM models").to_pylist()
    assert (model["model_id"], model["approach"], model["head"], model["weights"]) == (
        row.model_id, "finetune", "demo", "source",
    )  # fmt: skip
    assert model["fit_seconds"] == row.seconds
    assert model["predict_seconds"] > 0
    (run,) = store.query("SELECT * FROM runs WHERE command = 'finetune'").to_pylist()
    assert json.loads(run["seconds"])["by_backbone"] == {"second": row.seconds}
    budget = json.loads(run["counts"])["budget"]["second"]
    assert [(trial["depth"], trial["rate"], trial["epochs"]) for trial in budget] == [("last-6", 1e-3, 2)]
    epochs = store.query("SELECT DISTINCT epoch FROM metrics WHERE approach = 'finetune' ORDER BY 1")
    assert epochs["epoch"].to_pylist() == [1, 2]

    approaches = {r["approach"] for r in evaluate(store, "local", "holdout").rows}
    assert approaches == {"finetune"}  # the source network never scored these images


def test_layers_below_the_depth_are_the_source_networks(store: Store, asked: FinetuneRequest) -> None:
    finetune(store, asked, HERE)
    states = []
    for name in ("source", "tuned"):
        (found,) = requested(store, "tests.tiny:SECOND", name)
        states.append(load_network(found.backbone, found.request).network.features.state_dict())
    changed = {key for key, tensor in states[0].items() if not torch.equal(tensor, states[1][key])}
    assert changed
    assert all(key.startswith(("layer4", "head")) for key in changed)


def test_a_head_alone_trains_on_stored_vectors_and_scores_them(
    store: Store, asked: FinetuneRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    _trials(monkeypatch, Trial("head", 1e-2))
    (row,) = finetune(store, asked, HERE)
    (tuned,) = (registered(store, "tuned"),)
    assert tuned[0].sha256 == row.sha256
    found, wanted = _scores(store, row.spec_id), _own_scores(store, "tuned")
    assert [found[key] for key in wanted] == pytest.approx(list(wanted.values()), abs=1e-5)
    # The vectors are the source network's, extracted once; the tuned one has none.
    specs = store.query("SELECT DISTINCT p.weights FROM embeddings e JOIN specs p ON p.spec_id = e.spec_id")
    assert specs["weights"].to_pylist() == ["source"]
    (model,) = store.query("SELECT params FROM models").to_pylist()
    assert json.loads(model["params"])["extract_spec"] == stored_specs(store, "local")["second"][0]
    # Now the source network has scored the images as well: the baseline.
    assert {r["approach"] for r in evaluate(store, "local", "holdout").rows} == {"baseline", "finetune"}


def test_of_several_trials_the_best_on_validation_is_kept_and_the_budget_told(
    store: Store, asked: FinetuneRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    _trials(monkeypatch, Trial("head", 1e-2), Trial("last-6", 1e-3), Trial("all", 1e-3), epochs=3, patience=1)
    (row,) = finetune(store, asked, HERE)
    best = max(row.trials, key=lambda trial: trial["val_auc"])
    assert row.chosen == f"{best['depth']} at {best['rate']:g}"
    assert row.val_auc == best["val_auc"]
    assert row.seconds == pytest.approx(sum(trial["seconds"] for trial in row.trials))
    state = read_state(store.location, f"tuned/{row.chosen}", "second")
    areas = [record.mean_auc for record in state.history]
    assert row.epochs == areas.index(max(areas)) + 1
    # Nothing but registered weights is left of the tensors.
    files = {path.name for path in Path(store.uri).rglob("*.safetensors")}
    assert files == {f"{w.sha256}.safetensors" for w in registered(store)}


def test_fine_tuned_networks_do_not_come_between_heads_and_their_vectors(store: Store, asked: FinetuneRequest) -> None:
    from jobs.extract import ExtractRequest, extract

    done = extract(store, ExtractRequest("local", "tests.tiny:SECOND", "source", size=32), HERE)
    (row,) = finetune(store, asked, HERE)
    assert {name: spec for name, (spec, _) in stored_specs(store, "local").items()} == done.specs
    assert stored_specs(store, "local", row.spec_id)["second"][0] == row.spec_id


def test_repeating_the_command_does_nothing_again(store: Store, asked: FinetuneRequest) -> None:
    first = finetune(store, asked, HERE)
    counts = "SELECT (SELECT count(*) FROM metrics) m, (SELECT count(*) FROM models) n, (SELECT count(*) FROM scores) s"
    before = store.query(counts).to_pylist()
    assert finetune(store, asked, HERE) == first
    assert store.query(counts).to_pylist() == before
    with pytest.raises(UsageError, match=r"'tuned' of second are those of another.*recipe\.epochs: was 2, now 4"):
        finetune(store, replace(asked, epochs=4), HERE)


def test_the_same_name_from_other_weights_is_refused(store: Store, asked: FinetuneRequest) -> None:
    finetune(store, asked, HERE)
    with pytest.raises(UsageError, match=r"'tuned' of second are those of another.*initial weights: was \w+, now \w+"):
        finetune(store, replace(asked, weights="random:3"), HERE)
    assert store.query("SELECT DISTINCT weights FROM models")["weights"].to_pylist() == ["source"]


def test_on_another_split_it_is_no_baseline(store: Store, asked: FinetuneRequest) -> None:
    """It has learnt from images that the other split tests on."""
    finetune(store, asked, HERE)
    make_split(store, "local", "other", test=0.3, val=0.3, seed=5)
    with pytest.raises(UsageError, match="no fitted heads on split 'other'"):
        evaluate(store, "local", "other")


def test_two_names_of_one_preset_are_not_mixed(store: Store, asked: FinetuneRequest) -> None:
    finetune(store, asked, HERE)
    finetune(store, replace(asked, name="again", size=40), HERE)
    with pytest.raises(
        UsageError, match=r"preset 'demo' under several names \(again, tuned\); choose one with --finetuned"
    ):
        evaluate(store, "local", "holdout")
    rows = evaluate(store, "local", "holdout", finetuned=["tuned"]).rows
    assert {row["approach"] for row in rows} == {"finetune"}


def test_a_trial_that_diverges_has_lost(store: Store, asked: FinetuneRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    _trials(monkeypatch, Trial("all", 1e30), Trial("last-6", 1e-3))
    (row,) = finetune(store, asked, HERE)
    assert row.chosen == "last-6 at 0.001"
    assert "second diverged" in row.trials[0]["failed"]
    assert row.trials[1]["failed"] == ""


def test_a_new_head_goes_on_whatever_the_source_ended_in(store: Store, asked: FinetuneRequest, tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text("Fluid: [Pleural Effusion]\nLung: [Lung Opacity, Edema, Consolidation]\n")
    finetune(store, replace(asked, label_map=str(path)), HERE)
    assert registered(store, "tuned")[0].labels == ["Fluid", "Lung"]
    rows = evaluate(store, "local", "holdout").rows
    assert {r["label"] for r in rows} == {"Fluid", "Lung", "macro"}


def test_without_source_weights_of_ones_own(store: Store, asked: FinetuneRequest) -> None:
    (row,) = finetune(store, replace(asked, weights="random:3"), HERE)
    assert row.source.endswith("from random:3")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "chexpert"}, "no data set 'chexpert'"),
        ({"preset": "best"}, "preset 'best': choose one of paper, fair, demo"),
        ({"split": "nowhere"}, "no split 'nowhere'"),
        ({"name": "Mein Netz"}, "weights' name 'Mein Netz'"),
        ({"name": "source"}, "weights 'source' of second are registered already"),
        ({"workers": 2}, "--workers 2: several workers need Ray"),
        ({"weights": "nothing_here"}, "no weights 'nothing_here'"),
        ({"backbones": "inception_resnet_v2", "weights": "random:0"}, "needs at least 75 px"),
    ],
)
def test_requests_that_cannot_be_met(store: Store, asked: FinetuneRequest, change: dict[str, Any], words: str) -> None:
    before = registered(store)
    with pytest.raises(UsageError, match=words):
        finetune(store, replace(asked, **change), HERE)
    assert registered(store) == before
    assert store.query("SELECT count(*) AS n FROM models")["n"][0].as_py() == 0


def test_validation_without_a_positive_is_refused_or_told(store: Store, asked: FinetuneRequest, tmp_path: Path) -> None:
    parts = store.query("SELECT image_id, part FROM splits WHERE split = 'holdout' ORDER BY ALL").to_pylist()
    rows = {
        "image_id": [row["image_id"] for row in parts],
        "dataset": ["local"] * len(parts),
        "label": ["Hernia"] * len(parts),
        "value": pa.array([int(row["part"] == "train" and k % 3 == 0) for k, row in enumerate(parts)], pa.int8()),
    }
    store.append("labels", pa.table(rows))
    path = tmp_path / "blind.yaml"
    path.write_text("Hernia: [Hernia]\n")
    with pytest.raises(UsageError, match="none of Hernia has both a positive and a negative image"):
        finetune(store, replace(asked, label_map=str(path)), HERE)
    path.write_text("Hernia: [Hernia]\nSupport Devices: [Support Devices]\n")
    said: list[str] = []
    finetune(store, replace(asked, label_map=str(path)), HERE, said.append)
    assert "validation shows one class only of Hernia: they are trained, and do not choose the epoch" in said


def test_a_diverging_trial_leaves_no_weights(
    store: Store, asked: FinetuneRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    _trials(monkeypatch, Trial("all", 1e30))
    with pytest.raises(HarmError, match="second diverged"):
        finetune(store, asked, HERE)
    assert [w.name for w in registered(store)] == ["source"]
    assert store.query("SELECT count(*) AS n FROM models")["n"][0].as_py() == 0


def _cxr(store: Store, asked: FinetuneRequest, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "from jobs.cli.main import main; main()"
    request = ["--dataset", asked.dataset, "--split", asked.split, "--backbones", asked.backbones, "--size", "32"]
    named = ["--preset", "demo", "--weights", "source", "--label-map", str(asked.label_map), "--name", "tuned"]
    return subprocess.run(
        [sys.executable, "-c", code, "finetune", *request, *named, "--json", "--store", store.uri, *more],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("point", ["train.half-checkpoint#2", "driver.between-commits"])
def test_a_killed_run_ends_as_an_undisturbed_one(
    store: Store, asked: FinetuneRequest, tmp_path: Path, point: str
) -> None:
    undisturbed = Store(tmp_path / "undisturbed")
    shutil.copytree(store.uri, undisturbed.uri)
    whole = _cxr(undisturbed, asked, "--no-ray")
    assert whole.returncode == 0, whole.stderr
    (wanted,) = json.loads(whole.stdout)
    assert {"name", "epochs", "seconds", "images_per_second", "val_auc"} <= wanted.keys()
    killed = _cxr(store, asked, "--no-ray", CXR_FAILPOINT=point, CXR_FAILPOINT_LOG=str(tmp_path / "log"))
    assert killed.returncode == -9, killed.stderr
    assert store.query("SELECT count(*) AS n FROM models")["n"][0].as_py() == 0
    again = _cxr(store, asked, "--no-ray")
    assert again.returncode == 0, again.stderr
    (found,) = json.loads(again.stdout)
    same = ("sha256", "spec_id", "model_id", "chosen", "epochs", "val_auc", "scored")
    assert {key: found[key] for key in same} == {key: wanted[key] for key in same}
    assert _scores(store, found["spec_id"]) == pytest.approx(_scores(undisturbed, found["spec_id"]))


@pytest.mark.ray
class TestRay:
    """The same on Ray."""

    @pytest.fixture(scope="class", autouse=True)
    @staticmethod
    def _ray() -> Iterator[None]:
        from tests.private_ray import private_ray

        with private_ray():
            yield

    @staticmethod
    def test_ray_leaves_the_same_weights(store: Store, asked: FinetuneRequest, tmp_path: Path) -> None:
        alone = Store(tmp_path / "alone")
        shutil.copytree(store.uri, alone.uri)
        with Workers() as workers:
            (row,) = finetune(store, asked, workers)
        (wanted,) = finetune(alone, asked, HERE)
        assert row.val_auc == pytest.approx(wanted.val_auc, abs=0.02)
        assert (row.chosen, row.scored) == (wanted.chosen, wanted.scored)
        assert row.spec_id in {r["spec_id"] for r in store.query("SELECT DISTINCT spec_id FROM scores").to_pylist()}
