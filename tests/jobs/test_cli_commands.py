"""Every command once: its flags, the fields of its JSON, its exit code, and who gets stdout."""

from __future__ import annotations

import csv
import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

import jobs.experiment
from featurestore.images.sources.labels import CHEXPERT_LABELS
from featurestore.store import Store

pytestmark = pytest.mark.slow  # the whole of it; `make test` runs it, `make test-fast` does not

FIELDS = {
    "ingest": {"dataset", "images", "labels", "rois", "rejected", "seconds"},
    "plan": {"pending_pairs", "pending_by_backbone", "images_to_decode", "bytes", "hours"},
    "extract": {"written", "skipped", "rejected", "lost", "seconds", "images_per_second"},
    "split": {"split", "parts"},
    "train": {"models", "failed", "seconds", "images_read"},
    "report": {"path", "bytes", "seconds"},
}
ROW = {
    "approach", "head", "backbone", "weights", "ensemble", "label", "part", "auc", "auc_lo", "auc_hi", "n",
    "n_positive", "n_positive_patients", "extract_seconds", "fit_seconds", "predict_seconds",
}  # fmt: skip
NETWORKS = ("--backbones", "densenet121", "--weights", "random:0", "--size", "32", "--no-ray")


@pytest.fixture
def own(tmp_path: Path, walked: Any) -> Path:
    """Copy the walked store, to write to."""
    shutil.copytree(walked.store, tmp_path / "store")
    return tmp_path / "store"


def _phantoms(walked: Any) -> list[dict[str, str]]:
    with walked.csv.open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("command", FIELDS)
def test_json_has_the_pinned_fields(walked: Any, command: str) -> None:
    assert walked.said[command].code == 0
    assert FIELDS[command] <= walked.said[command].json.keys()


def test_stdout_is_one_line_of_json_and_the_talk_goes_to_stderr(walked: Any) -> None:
    for command, said in walked.said.items():
        assert said.out.count("\n") == 1, command
    images = len(_phantoms(walked))
    assert f"{images} of {images} pairs pending" in walked.said["extract"].err


def test_ingest_counts_what_the_table_says(walked: Any) -> None:
    rows = _phantoms(walked)
    said = walked.said["ingest"].json
    regions = len(json.loads((walked.csv.parent / "rois.json").read_text())["annotations"])
    assert (said["dataset"], said["images"], said["rejected"]) == ("local", len(rows), 0)
    assert (said["labels"], said["rois"]) == (len(rows) * len(CHEXPERT_LABELS), regions)


def test_ingesting_again_says_the_same_and_adds_nothing(own: Path, walked: Any, cxr: Callable[..., Any]) -> None:
    columns = ("--image-column", "path", "--patient-column", "patient", "--labels", "Edema,Fracture")
    again = cxr("ingest", "csv", walked.csv, "--dataset", "local", *columns, "--store", own)
    assert again.code == 0
    assert again.out.splitlines()[-1].startswith(f"local: {len(_phantoms(walked))} images, ")
    for table in ("images", "labels", "rejects"):
        assert Store(own).query(f"SELECT count(*) n FROM {table}") == Store(walked.store).query(
            f"SELECT count(*) n FROM {table}"
        )


def test_the_plan_is_what_extract_then_did(walked: Any) -> None:
    plan, done = walked.said["plan"].json, walked.said["extract"].json
    images = len(_phantoms(walked))
    assert plan["pending_by_backbone"] == {"densenet121": images}
    assert (plan["pending_pairs"], plan["images_to_decode"], plan["bytes"]) == (images, images, images * 1024 * 4)
    assert 0 < plan["hours"] < 1  # nothing was extracted before: by a probe
    assert (done["written"], done["skipped"], done["rejected"], done["lost"]) == (images, 0, 0, 0)
    assert done["images_per_second"] > 0


def test_plan_computes_nothing(walked: Any, cxr: Callable[..., Any], own: Path) -> None:
    before = Store(own).versions()
    said = cxr("plan", "--dataset", "local", *NETWORKS[:-3], "--size", "48", "--no-ray", "--store", own)
    assert said.code == 0
    images = len(_phantoms(walked))
    assert said.out.startswith(f"local: {images} of {images} pairs pending, {images} images to decode")
    assert Store(own).versions()["embeddings"] == before["embeddings"]


def test_extracting_again_runs_no_network(own: Path, walked: Any, cxr: Callable[..., Any]) -> None:
    said = cxr("extract", "--dataset", "local", *NETWORKS, "--store", own, "--json")
    images = len(_phantoms(walked))
    assert said.code == 0
    assert (said.json["written"], said.json["skipped"], said.json["images_per_second"]) == (0, images, None)
    assert cxr("plan", "--dataset", "local", *NETWORKS, "--store", own, "--json").json["hours"] == 0


def test_a_rejected_pair_is_tried_again_only_when_asked(own: Path, cxr: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    picture = tmp_path / "more" / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)).save(picture)
    (tmp_path / "more" / "a.csv").write_text("path\na.png\n")
    cxr("ingest", "csv", tmp_path / "more" / "a.csv", "--dataset", "more", "--image-column", "path", "--store", own)
    picture.rename(tmp_path / "elsewhere.png")
    extract = ("extract", "--dataset", "more", *NETWORKS, "--store", own, "--json")
    counts = [cxr(*extract).json for _ in range(2)]
    assert [(c["written"], c["rejected"], c["lost"]) for c in counts] == [(0, 1, 0), (0, 1, 0)]
    (tmp_path / "elsewhere.png").rename(picture)
    retried = cxr(*extract, "--retry-rejects")
    assert (retried.code, retried.json["written"], retried.json["rejected"]) == (0, 1, 0)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (("--kind", "holdout", "--test", "0.3", "--val", "0.2", "--seed", "3"), {"train", "val", "test"}),
        (("--kind", "kfold", "--folds", "3"), {"test", "fold0", "fold1", "fold2"}),
        (("--kind", "holdout", "--val", "0", "--lateral"), {"train", "test"}),
    ],
)
def test_split_counts_every_image_and_patient(
    own: Path, walked: Any, cxr: Callable[..., Any], flags: tuple[str, ...], parts: set[str]
) -> None:
    said = cxr("split", "--dataset", "local", "--name", "other", *flags, "--store", own, "--json")
    assert said.code == 0
    assert said.json["split"] == "other"
    found = said.json["parts"]
    assert found.keys() == parts
    rows = _phantoms(walked)  # this source names no views, so none of them is known to be lateral
    whole = [found[part] for part in ("train", "val", "test") if part in found]
    assert sum(part["images"] for part in whole) == len(rows)
    assert sum(part["patients"] for part in whole) == len({r["patient"] for r in rows})


def test_training_again_fits_nothing(own: Path, cxr: Callable[..., Any], walked: Any) -> None:
    first = walked.said["train"].json
    assert (first["models"], first["cached"], first["failed"], first["images_read"]) == (1, 0, 0, 0)
    train = ("train", "--dataset", "local", "--split", "half", "--heads", "rf100", "--store", own)
    again = cxr(*train, "--json")
    assert (again.code, again.json["models"], again.json["cached"]) == (0, 0, 1)
    assert cxr(*train, "--seed", "1", "--backbones", "densenet121", "--json").json["models"] == 1


def test_a_cell_that_cannot_be_fitted_is_exit_1_and_named(own: Path, cxr: Callable[..., Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(8):
        Image.fromarray(rng.integers(0, 255, (40, 40), np.uint8)).save(tmp_path / f"{k}.png")
    (tmp_path / "all.csv").write_text("path,Sick\n" + "".join(f"{k}.png,0\n" for k in range(8)))
    about = ("--dataset", "healthy", "--store", own)
    cxr("ingest", "csv", tmp_path / "all.csv", "--image-column", "path", "--labels", "Sick", *about)
    cxr("extract", *NETWORKS, *about)
    cxr("split", "--name", "h", "--test", "0.3", *about)
    said = cxr("train", "--split", "h", "--heads", "rf100", *about, "--json")
    assert (said.code, said.json["failed"], said.json["models"]) == (1, 1, 0)
    assert "rf100 on densenet121" in said.err
    assert "'Sick' has one class" in said.err


def test_evaluate_rows_have_the_pinned_fields_and_null_for_what_is_not_known(walked: Any) -> None:
    rows = walked.said["evaluate"].json
    assert all(row.keys() >= ROW for row in rows)
    assert {(row["approach"], row["head"], row["weights"], row["part"]) for row in rows} == {
        ("embeddings", "rf100", "random:0", "test")
    }
    arms = {("densenet121", "none"), ("all", "simple"), ("all", "entropy")}
    assert {(row["backbone"], row["ensemble"]) for row in rows} == arms
    # Pneumonia is null in every phantom, so nothing offers it.
    assert {row["label"] for row in rows} == set(CHEXPERT_LABELS) - {"Pneumonia"} | {"macro"}
    for row in rows:
        assert row["auc"] is None or 0 <= row["auc"] <= 1
        assert isinstance(row["n"], int)
        assert all(row[f"{stage}_seconds"] > 0 for stage in ("extract", "fit", "predict"))
        # A dozen patients are too few for any interval.
        assert row["auc_lo"] is None
        assert row["auc_hi"] is None
    assert "NaN" not in walked.said["evaluate"].out


def test_positives_beside_the_auc_are_those_of_the_table(walked: Any) -> None:
    store = Store(walked.store)
    test = set(store.query("SELECT image_id FROM splits WHERE part = 'test'")["image_id"].to_pylist())
    keys = dict(store.query("SELECT source_key, image_id FROM images").select([0, 1]).to_pandas().to_numpy().tolist())
    held = [row for row in _phantoms(walked) if keys[row["path"]] in test]
    for row in walked.said["evaluate"].json:
        if row["label"] != "macro" and row["ensemble"] == "none":
            positive = [r for r in held if r[row["label"]] in ("1.0", "-1.0")]
            assert row["n"] == len(held)
            assert row["n_positive"] == len(positive)
            assert row["n_positive_patients"] == len({r["patient"] for r in positive})


def test_one_forests_auc_is_what_plain_scikit_learn_gives(walked: Any) -> None:
    """The whole way again by hand: the CSV's labels, the stored vectors, one forest, one thread."""
    store = Store(walked.store)
    placed = store.query("SELECT image_id, source_key, part FROM splits JOIN images USING (image_id) ORDER BY image_id")
    truth = {row["path"]: row for row in _phantoms(walked)}
    offered = [label for label in CHEXPERT_LABELS if label != "Pneumonia"]
    values = {"1.0": 1, "-1.0": 1, "0.0": 0, "": 0}
    Y = np.array([[values[truth[key][label]] for label in offered] for key in placed["source_key"].to_pylist()])
    part = np.array(placed["part"].to_pylist())
    usable = [k for k in range(len(offered)) if len(set(Y[part == "train", k])) == 2]
    _, X = store.matrix("densenet121", placed["image_id"].to_pylist())
    forest = RandomForestClassifier(
        n_estimators=100, max_depth=10, min_samples_leaf=4, min_samples_split=10, max_features="sqrt",
        bootstrap=False, random_state=0, n_jobs=1,
    )  # fmt: skip
    forest.fit(X[part == "train"], Y[part == "train"][:, usable])
    p = np.column_stack([answer[:, 1] for answer in forest.predict_proba(X[part == "test"])])
    y = Y[part == "test"][:, usable]
    expected = {offered[k]: roc_auc_score(y[:, i], p[:, i]) for i, k in enumerate(usable) if 0 < y[:, i].sum() < len(y)}
    assert len(expected) >= 3
    found = {
        row["label"]: row["auc"]
        for row in walked.said["evaluate"].json
        if row["ensemble"] == "none" and row["auc"] is not None and row["label"] != "macro"
    }
    assert found == pytest.approx(expected, rel=0, abs=1e-12)


def test_an_ensemble_of_one_network_is_that_network(walked: Any) -> None:
    auc = {(row["label"], row["ensemble"]): row["auc"] for row in walked.said["evaluate"].json}
    for label, ensemble in list(auc):
        assert auc[label, ensemble] == auc[label, "none"]


def test_val_can_be_evaluated_too(own: Path, cxr: Callable[..., Any]) -> None:
    said = cxr("evaluate", "--dataset", "local", "--split", "half", "--part", "val", "--store", own, "--json")
    assert said.code == 0
    assert {row["part"] for row in said.json} == {"val"}


def test_a_person_gets_tables(own: Path, cxr: Callable[..., Any]) -> None:
    said = cxr("evaluate", "--dataset", "local", "--split", "half", "--store", own)
    assert said.code == 0
    assert "patient-clustered 95 % intervals" in said.out
    assert "No Finding" in said.out
    assert "NaN" not in said.out


def test_the_report_is_the_file_it_says_it_is(walked: Any) -> None:
    said = walked.said["report"].json
    assert Path(said["path"]) == walked.report
    assert said["bytes"] == walked.report.stat().st_size
    title = walked.report.read_text("utf-8").partition("<title>")[2].partition("</title>")[0]
    assert "local, split half" in title
    assert "pipeline check, not a result" in title


def test_sql_prints_and_writes_every_format(walked: Any, cxr: Callable[..., Any], tmp_path: Path) -> None:
    query = "SELECT count(*) AS n, 'NaN'::DOUBLE AS nothing FROM densenet121"
    images, store = len(_phantoms(walked)), ("--store", walked.store)
    assert cxr("sql", query, "--format", "json", *store).json == [{"n": images, "nothing": None}]
    assert cxr("sql", query, *store).out.split() == ["n", "nothing", "--", "-------", str(images), "-"]
    assert cxr("sql", query, "--format", "csv", *store).out.splitlines()[0] == '"n","nothing"'
    for kind in ("json", "parquet"):
        said = cxr("sql", query, "--format", kind, "--out", tmp_path / f"rows.{kind}", *store)
        assert (said.code, said.out) == (0, "")
    assert json.loads((tmp_path / "rows.json").read_text()) == [{"n": images, "nothing": None}]
    row = pq.read_table(tmp_path / "rows.parquet").to_pylist()[0]
    assert row["n"] == images
    assert math.isnan(row["nothing"])


def test_sql_reads_stdin_and_the_store_may_come_from_the_environment(
    walked: Any, cxr: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXR_STORE", str(walked.store))
    query = tmp_path / "query.sql"
    query.write_text("SELECT DISTINCT backbone FROM embeddings")
    with query.open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        said = cxr("sql", "--format", "json")
    assert said.json == [{"backbone": "densenet121"}]


def test_runs_says_what_was_done(walked: Any) -> None:
    rows = Store(walked.store).query("SELECT command, dataset, status, counts FROM runs").to_pylist()
    assert {row["command"] for row in rows} == {"ingest", "extract", "train", "evaluate"}
    assert {(row["dataset"], row["status"]) for row in rows} == {("local", "done")}
    counts = {row["command"]: json.loads(row["counts"]) for row in rows}
    assert counts["ingest"]["images"] == counts["extract"]["written"] == len(_phantoms(walked))
    assert counts["train"] == {"models": 1, "cached": 0, "failed": 0}
    assert counts["evaluate"]["metrics"] == len(walked.said["evaluate"].json)


def _nih(folder: Path) -> None:
    (folder / "images").mkdir()
    _grey(folder / "images" / "00000001_000.png")
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
    (folder / "Data_Entry_2017.csv").write_text(f"{header}\n00000001_000.png,Edema|Mass,0,1,58,M,PA\n")
    boxes = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000001_000.png,Mass,100,100,200,200\n"
    (folder / "BBox_List_2017.csv").write_text(boxes)


def _chexpert(folder: Path) -> None:
    image = folder / "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
    image.parent.mkdir(parents=True)
    _grey(image)
    header = ",".join(("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_LABELS))
    cells = ",".join((image.relative_to(folder).as_posix(), "Male", "60", "Frontal", "AP", "1.0", "-1.0", *[""] * 12))
    (folder / "train.csv").write_text(f"{header}\n{cells}\n")


def _medmnist(folder: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (1, 28, 28), np.uint8)
    parts = {f"{part}_images": images for part in ("train", "val", "test")}
    parts |= {f"{part}_labels": np.array([[1]], np.uint8) for part in ("train", "val", "test")}
    np.savez(folder / "pneumoniamnist.npz", **parts)


def _grey(path: Path) -> None:
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64), np.uint8)).save(path)


@pytest.mark.parametrize(
    ("kind", "make", "path", "counts"),
    [
        ("nih", _nih, ".", (1, 15, 1)),
        ("chexpert", _chexpert, "train.csv", (1, 14, 0)),
        ("medmnist", _medmnist, "pneumoniamnist.npz", (3, 3, 0)),
    ],
)
def test_published_layouts_come_in(
    cxr: Callable[..., Any],
    tmp_path: Path,
    kind: str,
    make: Callable[[Path], None],
    path: str,
    counts: tuple[int, int, int],
) -> None:
    (tmp_path / "data").mkdir()
    make(tmp_path / "data")
    said = cxr("ingest", kind, tmp_path / "data" / path, "--store", tmp_path / "store", "--json")
    assert said.code == 0
    assert (said.json["dataset"], said.json["rejected"]) == (kind, 0)
    assert (said.json["images"], said.json["labels"], said.json["rois"]) == counts


def test_phantoms_are_made_and_their_dicom_files_are_a_source(cxr: Callable[..., Any], tmp_path: Path) -> None:
    phantoms, store = tmp_path / "phantoms", ("--store", tmp_path / "store", "--json")
    flags = ("--patients", "2", "--seed", "5", "--hospital", "b", "--format", "dicom")
    made = cxr("ingest", "phantom", phantoms, *flags, *store)
    assert (made.code, made.json["dataset"], made.json["rejected"]) == (0, "phantom_b", 0)
    (tmp_path / "labels.csv").write_text("path,Edema\n" + "".join(f"{p.name},1\n" for p in phantoms.rglob("*.dcm")))
    again = cxr("ingest", "dicom", phantoms, "--labels-csv", tmp_path / "labels.csv", *store)
    assert again.code == 0
    assert (again.json["dataset"], again.json["images"]) == ("dicom", made.json["images"])
    pixels = Store(tmp_path / "store").query("SELECT count(DISTINCT pixel_hash) n, count(*) m FROM images").to_pylist()
    assert pixels == [{"n": made.json["images"], "m": 2 * made.json["images"]}]


def test_demo_leaves_a_report(cxr: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real command on a demo cut down to one network and eight patients (`make demo` runs all of it)."""
    whole = jobs.experiment.load_experiment
    smaller = (
        "extract.backbones=densenet121", "extract.size=32", "data.patients=8", "train.heads=[rf100]",
        "explain.head=rf100", "explain.images=2", "pretrain=null", "extract.weights=random:0", "finetune=null",
        "train.stacking=[]",
    )  # fmt: skip
    monkeypatch.setattr(jobs.experiment, "load_experiment", lambda name: whole(name, smaller))
    said = cxr("demo", "--folder", tmp_path / "demo", "--no-ray", "--json")
    assert said.code == 0
    assert {"store", "report", "rows"} <= said.json.keys()
    assert Path(said.json["report"]) == tmp_path / "demo" / "report.html"
    assert "pipeline check, not a result" in (tmp_path / "demo" / "report.html").read_text("utf-8")
    assert "maps of rf100 on densenet121" in said.err
