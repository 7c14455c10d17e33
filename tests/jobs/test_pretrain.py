"""`cxr pretrain`: from a data set to registered weights; killed and resumed; several workers; input that cannot be."""

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

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from classifiers.cnn.records import read_state
from featurestore.backbones.network import load_network
from featurestore.backbones.registry import registered
from featurestore.backbones.requests import requested
from featurestore.errors import HarmError, StoppedError, UsageError
from featurestore.images.sources.labels import CHEXPERT_LABELS
from featurestore.store import Store
from featurestore.store.training_sources import TrainingSources
from jobs.forget import forget_patient
from jobs.ingest import IngestRequest, ingest
from jobs.pretrain import pretrain
from jobs.pretrain_request import PretrainRequest
from jobs.workers import Workers

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Workers(use_ray=False)
LABELS = ("Lung Opacity", "Pleural Effusion", "Support Devices")


@pytest.fixture(scope="session")
def _source(tmp_path_factory: pytest.TempPathFactory, phantom_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("source")
    labels = ",".join(CHEXPERT_LABELS)
    asked = IngestRequest(
        "csv", phantom_folder / "phantom.csv", dataset="source", patient_column="patient", labels=labels
    )
    ingest(Store(folder / "store"), asked)
    (folder / "labels.yaml").write_text("".join(f"{label}: [{label}]\n" for label in LABELS))
    return folder


@pytest.fixture
def source(tmp_path: Path, _source: Path) -> Store:
    """Return a store of one's own with a dozen patients' images."""
    shutil.copytree(_source / "store", tmp_path / "store")
    return Store(tmp_path / "store")


@pytest.fixture
def asked(_source: Path) -> PretrainRequest:
    """Return a request of two epochs of one small network."""
    return PretrainRequest(
        "source",
        backbones="tests.tiny:SECOND",
        preset="demo",
        size=32,
        label_map=str(_source / "labels.yaml"),
        name="one",
    )


def _curve(store: Store, name: str = "one", backbone: str = "second") -> list[tuple[int, float, float]]:
    state = read_state(store.location, name, backbone)
    assert state is not None
    return [(record.number, record.train_loss, record.val_loss) for record in state.history]


def test_a_trained_network_is_registered_with_what_it_saw(source: Store, asked: PretrainRequest) -> None:
    said: list[str] = []
    (row,) = pretrain(source, asked, HERE, said.append)
    (weights,) = registered(source, "one")
    assert (weights.backbone, weights.labels, weights.sha256) == ("second", list(LABELS), row.sha256)
    assert weights.source.startswith("trained on source (split pretrain, ")
    assert weights.source.endswith(" images, 2 epochs, u-ones-lsr) from random:0")
    assert weights.preprocess == "bilinear-v1 at 32 px"
    assert (row.name, row.backbone, row.epochs) == ("one", "second", 2)
    assert row.seconds > 0
    assert row.images_per_second > 0
    assert row.peak_mib["resident"] > 0
    assert [text for text in said if "epoch 2 (all): loss" in text]

    # It can be loaded by its name and is what was registered.
    (again,) = requested(source, "tests.tiny:SECOND", "one")
    loaded = load_network(again.backbone, again.request)
    assert (loaded.sha256, loaded.network.labels) == (row.sha256, list(LABELS))
    assert not list(Path(source.uri).glob("_training/one/second/*.safetensors"))

    assert weights.trained_on is not None
    seen = TrainingSources.read(source.location, weights.trained_on)
    used = source.query(
        "SELECT i.pixel_hash, i.patient_id, s.part FROM images i JOIN splits s ON s.image_id = i.image_id"
    ).to_pylist()
    assert all(seen.saw_pixels(r["pixel_hash"]) and seen.saw_patient("source", r["patient_id"]) for r in used)
    assert not seen.saw_patient("other", used[0]["patient_id"])
    assert not seen.saw_pixels("0" * 64)
    # A person cannot be read off the file.
    text = str([*seen.people, *seen.pixels])
    assert not any(r["patient_id"] in text for r in used if len(r["patient_id"]) > 5)


def test_who_is_forgotten_is_forgotten_beside_the_weights_too(source: Store, asked: PretrainRequest) -> None:
    pretrain(source, asked, HERE)
    (weights,) = registered(source, "one")
    path = str(weights.trained_on)
    rows = source.query("SELECT patient_id, pixel_hash FROM images ORDER BY ALL").to_pylist()
    seen = TrainingSources.read(source.location, path)
    patient = next(row["patient_id"] for row in rows if seen.saw_patient("source", row["patient_id"]))
    theirs = {row["pixel_hash"] for row in rows if row["patient_id"] == patient}
    removed = forget_patient(source, f"source:{patient}").rows
    assert removed["training_sources"] == 1 + len(theirs & seen.pixels) > 1
    left = TrainingSources.read(source.location, path)
    assert not left.saw_patient("source", patient)
    assert left.pixels == seen.pixels - theirs
    assert len(left.people) == len(seen.people) - 1


def test_every_epoch_is_in_metrics_and_the_run_in_runs(source: Store, asked: PretrainRequest) -> None:
    pretrain(source, asked, HERE)
    rows = source.query("SELECT * FROM metrics WHERE approach = 'pretrain'").to_pylist()
    losses = {(r["epoch"], r["part"]): r["value"] for r in rows if r["metric"] == "loss"}
    assert losses == {
        key: value for n, train, val in _curve(source) for key, value in (((n, "train"), train), ((n, "val"), val))
    }
    areas = [(r["epoch"], r["label"]) for r in rows if r["metric"] == "auc"]
    assert sorted(areas) == sorted((epoch, label) for epoch in (1, 2) for label in LABELS)
    assert {(r["weights"], r["backbone"], r["split"]) for r in rows} == {("one", "second", "pretrain")}
    for row in rows:
        if row["metric"] == "auc" and row["value"] is None:
            assert row["note"]

    (run,) = source.query("SELECT * FROM runs WHERE command = 'pretrain'").to_pylist()
    counts, seconds = json.loads(run["counts"]), json.loads(run["seconds"])
    assert {row["run_id"] for row in rows} == {run["run_id"]}
    assert counts["epochs"] == {"second": 2}
    assert counts["images_per_second"]["second"] > 0
    assert counts["peak_mib"]["second"]["own"] > 0
    assert counts["cache_bytes"] == len(source.query("SELECT * FROM splits")) * 32 * 32
    assert seconds["by_backbone"]["second"] > 0


def test_patients_stay_on_one_side_and_the_split_is_frozen(source: Store, asked: PretrainRequest) -> None:
    pretrain(source, asked, HERE)
    parts = source.query(
        "SELECT i.patient_id, list(DISTINCT s.part) AS parts FROM splits s JOIN images i ON i.image_id = s.image_id "
        "WHERE s.split = 'pretrain' GROUP BY 1"
    ).to_pylist()
    assert {tuple(r["parts"]) for r in parts} == {("train",), ("val",)}


def test_repeating_the_command_trains_nothing(source: Store, asked: PretrainRequest) -> None:
    first = pretrain(source, asked, HERE)
    before = source.query("SELECT count(*) AS n FROM metrics")["n"][0].as_py()
    assert pretrain(source, asked, HERE) == first
    assert source.query("SELECT count(*) AS n FROM metrics")["n"][0].as_py() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"epochs": 3},
            r"'one' of second are those of another training, with 2 epochs done: recipe.epochs: was 2, now 3",
        ),
        ({"label_map": None}, r"are those of another training.*labels: was \['Lung Opacity'"),
    ],
)
def test_a_registered_name_is_not_trained_over(
    source: Store, asked: PretrainRequest, change: dict[str, Any], words: str
) -> None:
    (row,) = pretrain(source, asked, HERE)
    if "label_map" in change:
        path = Path(source.uri).parent / "two.yaml"
        path.write_text("Fluid: [Pleural Effusion]\nOpacity: [Lung Opacity]\n")
        change = {"label_map": str(path)}
    with pytest.raises(UsageError, match=words):
        pretrain(source, replace(asked, **change), HERE)
    assert [w.sha256 for w in registered(source)] == [row.sha256]


def test_a_name_taken_by_imported_weights_is_refused(source: Store, asked: PretrainRequest) -> None:
    (row,) = pretrain(source, asked, HERE)
    shutil.rmtree(Path(source.uri) / "_training")
    with pytest.raises(UsageError, match=r"'one' of second are registered already, .*give another --name"):
        pretrain(source, asked, HERE)
    assert [w.sha256 for w in registered(source)] == [row.sha256]


def test_a_registered_network_starts_another_if_its_labels_are_the_same(source: Store, asked: PretrainRequest) -> None:
    pretrain(source, asked, HERE)
    (row,) = pretrain(source, replace(asked, weights="one", name="two", epochs=1), HERE)
    assert row.source.endswith("from one")
    path = Path(source.uri).parent / "other.yaml"
    path.write_text("Fluid: [Pleural Effusion]\n")
    with pytest.raises(
        UsageError, match=r"end in a head for Lung Opacity, .*; this run trains Fluid\. Give a --label-map"
    ):
        pretrain(source, replace(asked, weights="one", name="three", label_map=str(path)), HERE)
    assert {w.name for w in registered(source)} == {"one", "two"}


def test_conditional_training_has_two_phases_and_says_so(source: Store, asked: PretrainRequest) -> None:
    path = Path(source.uri).parent / "tree.yaml"
    path.write_text("Lung Opacity: [Lung Opacity]\nEdema: [Edema, Consolidation]\n")
    request = replace(asked, conditional="text", epochs=1, label_map=str(path), uncertainty="u-ignore")
    (row,) = pretrain(source, request, HERE)
    state = read_state(source.location, "one", "second")
    assert state is not None
    assert [record.phase for record in state.history] == ["conditional", "head"]
    assert "conditional (text hierarchy)" in row.source
    assert "u-ignore" in row.source


def test_a_diverging_run_leaves_no_weights_and_the_other_network_is_kept(
    source: Store, asked: PretrainRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from classifiers.cnn import recipe
    from classifiers.cnn.recipe import Rate

    # With normalisation, and so at the rate that is too high, is the first of the two only.
    wild = replace(recipe.PRESETS["demo"], rate=Rate(1e30))
    monkeypatch.setitem(recipe.PRESETS, "demo", wild)
    with pytest.raises(HarmError, match=r"second diverged: the loss of epoch 1, .* 1e\+30; no weights were stored"):
        pretrain(source, replace(asked, backbones="tests.tiny:SECOND,tests.tiny:BARE"), HERE)
    assert [w.backbone for w in registered(source)] == ["bare"]
    assert len(list(Path(source.uri).rglob("*.safetensors"))) == 1
    (run,) = source.query("SELECT status FROM runs WHERE command = 'pretrain'").to_pylist()
    assert run == {"status": "failed"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "chexpert"}, "no data set 'chexpert'"),
        ({"preset": "fast"}, "preset 'fast': choose one of paper, demo"),
        ({"uncertainty": "u-twos"}, "uncertain labels by 'u-twos'"),
        ({"conditional": "icd"}, "hierarchy 'icd'"),
        ({"augment": "flip"}, "augmentation 'flip'"),
        ({"split": "holdout"}, "no split 'holdout'"),
        ({"name": "Mein Netz"}, "weights' name 'Mein Netz'"),
        ({"workers": 2}, "--workers 2: several workers need Ray"),
        ({"label_map": "nowhere.yaml"}, "label map 'nowhere.yaml': neither one of hum_cxr, nih nor a file"),
        ({"backbones": "inception_resnet_v2"}, "--size 32: inception_resnet_v2 needs at least 75 px"),
        ({"weights": "nothing_here"}, "no weights 'nothing_here'"),
    ],
)
def test_requests_that_cannot_be_met(source: Store, asked: PretrainRequest, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        pretrain(source, replace(asked, **change), HERE)
    assert registered(source) == []


def test_a_constant_label_is_named_before_anything_is_trained(source: Store, asked: PretrainRequest) -> None:
    ids = source.query("SELECT image_id FROM images")["image_id"].to_pylist()
    n = len(ids)
    rows = {"image_id": ids, "dataset": ["source"] * n, "label": ["Hernia"] * n, "value": pa.array([0] * n, pa.int8())}
    source.append("labels", pa.table(rows))
    with pytest.raises(
        UsageError, match=r"nothing can be learnt of 'Hernia' \(0 positive of \d+ known\) in the \d+ training"
    ):
        pretrain(source, replace(asked, label_map=None), HERE)
    assert not (Path(source.uri) / "_training").exists()


def _cxr(store: Store, asked: PretrainRequest, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "from jobs.cli.main import main; main()"
    request = ["--dataset", asked.dataset, "--backbones", asked.backbones, "--preset", asked.preset, "--size", "32"]
    named = ["--label-map", str(asked.label_map), "--name", str(asked.name), "--json", "--store", store.uri]
    return subprocess.run(
        [sys.executable, "-c", code, "pretrain", *request, *named, *more],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("point", ["train.after-checkpoint", "train.half-checkpoint#2"])
def test_a_killed_run_ends_as_an_undisturbed_one(
    source: Store, asked: PretrainRequest, tmp_path: Path, point: str
) -> None:
    undisturbed = Store(tmp_path / "undisturbed")
    shutil.copytree(source.uri, undisturbed.uri)
    whole = _cxr(undisturbed, asked, "--no-ray")
    assert whole.returncode == 0, whole.stderr
    log = tmp_path / "log"
    killed = _cxr(source, asked, "--no-ray", CXR_FAILPOINT=point, CXR_FAILPOINT_LOG=str(log))
    assert killed.returncode == -9, killed.stderr
    assert log.exists()
    assert registered(source) == []
    again = _cxr(source, asked, "--no-ray")
    assert again.returncode == 0, again.stderr
    assert _curve(source) == _curve(undisturbed)
    assert registered(source)[0].sha256 == registered(undisturbed)[0].sha256
    (row,) = json.loads(again.stdout)
    assert {"name", "epochs", "seconds", "images_per_second", "val_auc"} <= row.keys()
    epochs = source.query("SELECT epoch FROM metrics WHERE metric = 'loss' AND part = 'val' ORDER BY 1")
    assert epochs["epoch"].to_pylist() == [1, 2]


def test_a_damaged_checkpoint_is_found(source: Store, asked: PretrainRequest, tmp_path: Path) -> None:
    log = tmp_path / "log"
    _cxr(source, asked, "--no-ray", CXR_FAILPOINT="train.after-checkpoint", CXR_FAILPOINT_LOG=str(log))
    (path,) = Path(source.uri).glob("_training/one/second/epoch-*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(HarmError, match=r"checkpoint _training/one/second/epoch-0001.safetensors has SHA-256"):
        pretrain(source, asked, HERE)


@pytest.mark.ray
class TestRay:
    """Ray Train for real, on two CPUs."""

    @pytest.fixture(scope="class", autouse=True)
    @staticmethod
    def killing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
        """Start a Ray whose workers kill themselves at the first checkpoint they reach, once."""
        from tests.private_ray import private_ray  # Ray, which the rest does without

        log = tmp_path_factory.mktemp("failpoint") / "log"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CXR_FAILPOINT", "train.after-checkpoint")
            patch.setenv("CXR_FAILPOINT_LOG", str(log))
            with private_ray():
                yield log

    @staticmethod
    def test_a_killed_worker_is_started_again_and_ends_as_an_undisturbed_one(
        source: Store, asked: PretrainRequest, tmp_path: Path, killing: Path
    ) -> None:
        undisturbed = Store(tmp_path / "undisturbed")
        shutil.copytree(source.uri, undisturbed.uri)
        with Workers() as workers:
            pretrain(source, asked, workers)
            assert json.loads(killing.read_text())["name"] == "train.after-checkpoint"
            pretrain(undisturbed, asked, workers)
        assert _curve(source) == _curve(undisturbed)
        assert registered(source)[0].sha256 == registered(undisturbed)[0].sha256
        assert not list(Path(source.uri).glob("_training/one/_ray/**/*.json"))

    @staticmethod
    def test_two_workers_take_the_same_steps_as_one(source: Store, asked: PretrainRequest, tmp_path: Path) -> None:
        """Without batch normalisation shares of a batch add up to it: the numbers are one worker's."""
        alone = Store(tmp_path / "alone")
        shutil.copytree(source.uri, alone.uri)
        request = replace(asked, backbones="tests.tiny:PLAIN")
        with Workers() as workers:
            (two,) = pretrain(source, replace(request, workers=2), workers)
            (one,) = pretrain(alone, request, workers)
        for (n, *found), (m, *wanted) in zip(
            _curve(source, backbone="plain"), _curve(alone, backbone="plain"), strict=True
        ):
            assert n == m
            assert found == pytest.approx(wanted, rel=1e-4)
        assert two.val_auc_by_label == pytest.approx(one.val_auc_by_label)
        state = read_state(source.location, "one", "plain")
        assert state is not None
        assert state.facts["workers"] == 2
        a, b = (load_file(next(Path(s.uri).glob("_weights/*.safetensors"))) for s in (source, alone))
        for name, tensor in a.items():
            torch.testing.assert_close(tensor, b[name], rtol=1e-3, atol=1e-5)

    @staticmethod
    def test_a_workers_sentence_reaches_the_person(source: Store, asked: PretrainRequest) -> None:
        with Workers() as workers:
            with pytest.raises(UsageError, match="--workers 3: the cluster has 2 CPUs, one a worker; give at most 2"):
                pretrain(source, replace(asked, workers=3), workers)
            pretrain(source, asked, workers)
            path = Path(source.uri).parent / "other.yaml"
            path.write_text("Fluid: [Pleural Effusion]\n")
            with pytest.raises(UsageError, match="end in a head for Lung Opacity"):
                pretrain(source, replace(asked, weights="one", name="three", label_map=str(path)), workers)


def test_workers_that_keep_dying_stop_the_run_in_words() -> None:
    from jobs.runners.training import _in_words

    class _Failure(Exception):
        def __init__(self, failure: Exception) -> None:
            super().__init__("x")
            self.worker_failures = {0: failure}

    found = _in_words(_Failure(RuntimeError("lost\nThe actor died")))
    assert isinstance(found, StoppedError)
    assert "failed more than 3 times, last with: The actor died; finished epochs are stored" in str(found)
    told = HarmError("clear")
    assert _in_words(_Failure(told)) is told
