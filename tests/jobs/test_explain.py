"""The forest's own maps of held-out phantoms: they add up, they are kept, and no network runs for them twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classifiers.cells import Cell
from classifiers.splits import make_split
from classifiers.training import plan_cells
from featurestore.backbones.catalogue import get_backbone
from featurestore.backbones.weights import WeightsRequest
from featurestore.errors import HarmError
from featurestore.images.phantoms import write_phantoms
from featurestore.store import Store
from jobs.explain import METHOD, ExplainRequest, Explanation, explain
from jobs.extract import ExtractRequest, extract
from jobs.ingest import IngestRequest, ingest
from jobs.train import TrainRequest, train
from jobs.workers import Workers

pytestmark = pytest.mark.slow  # the whole of it; `make test` runs it, `make test-fast` does not

LABELS = ["Cardiomegaly", "Lung Opacity", "Support Devices"]
SIZE = 64  # a grid of 2 x 2
NETWORK = get_backbone("densenet121")
WEIGHTS = WeightsRequest("random", seed=0)
HERE = Workers(use_ray=False)
DATASET = "phantoms"


class NoNetwork(Workers):
    """Workers that must not be asked."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        message = f"{function.__name__} was asked for"
        raise AssertionError(message)


@dataclass(frozen=True)
class Fitted:
    """A store with fitted heads, and how to explain them."""

    store: Store
    specs: dict[str, tuple[str, str]]
    folder: Path

    def cell(self, head: str, split: str = "holdout") -> Cell:
        return plan_cells(self.store, DATASET, split, [head], self.specs, labels=LABELS)[0]

    def request(self, head: str, split: str = "holdout", images: int = 5) -> ExplainRequest:
        return ExplainRequest(self.cell(head, split), NETWORK, WEIGHTS, "bilinear-v1", SIZE, images)

    def explain(self, request: ExplainRequest, workers: Workers = HERE, *, pictures: bool = False) -> Any:
        return explain(self.store, request, workers, pictures=pictures)

    def rows(self) -> list[dict[str, Any]]:
        return self.store.query("SELECT * FROM saliency ORDER BY image_id, label").to_pylist()


@pytest.fixture(scope="module")
def _fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    root = tmp_path_factory.mktemp("explain")
    write_phantoms(root / "phantoms", patients=20, seed=2, hospital="a", fmt="png", size=96)
    store = Store(root / "store")
    about = {"dataset": DATASET, "image_column": "path", "patient_column": "patient", "labels": ",".join(LABELS)}
    table, rois = root / "phantoms" / "phantom.csv", root / "phantoms" / "rois.json"
    ingest(store, IngestRequest("csv", table, rois=rois, **about))  # type: ignore[arg-type]
    done = extract(store, ExtractRequest(DATASET, "densenet121", "random:0", size=SIZE), HERE)
    specs = {name: (spec_id, "random:0") for name, spec_id in done.specs.items()}
    make_split(store, DATASET, "holdout", test=0.4, val=0.1)
    make_split(store, DATASET, "folds", "kfold", folds=3)
    train(store, TrainRequest(DATASET, "holdout", ["rf100", "lightgbm"], specs, labels=LABELS))
    train(store, TrainRequest(DATASET, "folds", ["rf100"], specs, labels=LABELS))
    return Fitted(store, specs, root / "phantoms")


@pytest.fixture
def fitted(tmp_path: Path, _fitted: Fitted) -> Fitted:
    """Return a fitted store of one's own, over the same pictures."""
    shutil.copytree(_fitted.store.uri, tmp_path / "store")
    return replace(_fitted, store=Store(tmp_path / "store"))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, _fitted: Fitted) -> tuple[Fitted, list[Explanation]]:
    """Explain every held-out region of one forest, once for all tests that only look."""
    store = tmp_path_factory.mktemp("told") / "store"
    shutil.copytree(_fitted.store.uri, store)
    fitted = replace(_fitted, store=Store(store))
    return fitted, fitted.explain(fitted.request("rf100", images=100))


def _predicted(fitted: Fitted, head: str) -> dict[tuple[str, str], float]:
    sql = "SELECT * FROM predictions JOIN models USING (model_id) WHERE split = 'holdout' AND head = ?"
    rows = fitted.store.query(sql, [head]).to_pylist()
    return {(row["image_id"], row["label"]): row["probability"] for row in rows}


def test_base_map_and_remainder_add_up_to_what_the_forest_said(told: tuple[Fitted, list[Explanation]]) -> None:
    fitted, found = told
    said, rows = _predicted(fitted, "rf100"), fitted.rows()
    assert len(rows) >= 5
    assert {(row["image_id"], row["label"]) for row in rows} == {(one.image_id, one.label) for one in found}
    for row in rows:
        assert (row["grid_height"], row["grid_width"], len(row["map"])) == (2, 2, 4)
        assert (row["unit"], row["method"]) == ("probability", METHOD)
        total = row["base"] + sum(row["map"]) + row["remainder"]
        assert total == pytest.approx(row["output"], abs=1e-6)  # the map is kept in float32
        assert row["output"] == pytest.approx(said[row["image_id"], row["label"]], abs=1e-12)


def test_boosting_is_explained_in_log_odds(fitted: Fitted) -> None:
    found = fitted.explain(fitted.request("lightgbm", images=3))
    assert len(found) == 3
    said = _predicted(fitted, "lightgbm")
    for row in fitted.rows():
        assert row["unit"] == "log-odds"
        assert row["base"] + sum(row["map"]) + row["remainder"] == pytest.approx(row["output"], abs=1e-5)
        assert 1 / (1 + np.exp(-row["output"])) == pytest.approx(said[row["image_id"], row["label"]], abs=1e-9)


def test_a_map_is_made_once_and_scored_again_without_a_network(told: tuple[Fitted, list[Explanation]]) -> None:
    fitted, found = told
    rows = fitted.rows()
    assert fitted.explain(fitted.request("rf100", images=100), NoNetwork()) == found
    assert fitted.rows() == rows
    runs = fitted.store.query("SELECT counts FROM runs WHERE command = 'explain'").to_pylist()
    assert [json.loads(run["counts"]) for run in runs] == [{"maps": len(found)}]


def test_asking_for_more_computes_only_what_is_missing(fitted: Fitted) -> None:
    fitted.explain(fitted.request("rf100", images=2))
    with pytest.raises(AssertionError, match="feature_maps was asked for"):
        fitted.explain(fitted.request("rf100", images=4), NoNetwork())
    assert len(fitted.explain(fitted.request("rf100", images=4))) == 4
    runs = fitted.store.query("SELECT counts FROM runs WHERE command = 'explain' AND status = 'done'").to_pylist()
    assert sorted(json.loads(run["counts"])["maps"] for run in runs) == [2, 2]


def test_only_held_out_positives_with_a_region_are_explained_label_by_label_in_turn(
    told: tuple[Fitted, list[Explanation]],
) -> None:
    fitted, found = told
    expected = fitted.store.query(
        "SELECT DISTINCT image_id, label FROM splits JOIN labels USING (image_id) JOIN rois USING (image_id, label) "
        "WHERE split = 'holdout' AND part = 'test' AND value = 1"
    )
    pairs = [(one.image_id, one.label) for one in found]
    assert set(pairs) == {(row["image_id"], row["label"]) for row in expected.to_pylist()}
    assert len(pairs) == len(set(pairs))
    offered = {label for _, label in pairs}
    assert {label for _, label in pairs[: len(offered)]} == offered


def test_of_a_fold_only_the_images_it_was_not_fitted_on_are_explained(fitted: Fitted) -> None:
    request = fitted.request("rf100", "folds", images=100)
    found = fitted.explain(request)
    folds = fitted.store.query("SELECT image_id, fold FROM splits WHERE split = 'folds'").to_pylist()
    fold_of = {row["image_id"]: row["fold"] for row in folds}
    assert found
    assert {fold_of[one.image_id] for one in found} == {request.cell.fold}


def test_pictures_of_patients_come_only_when_asked_for(told: tuple[Fitted, list[Explanation]]) -> None:
    fitted, found = told
    assert {one.png_bytes for one in found} == {None}
    with_pictures = fitted.explain(fitted.request("rf100", images=2), NoNetwork(), pictures=True)
    assert all(one.png_bytes.startswith(b"\x89PNG") for one in with_pictures)
    assert [replace(one, png_bytes=None) for one in with_pictures] == found[:2]


def test_the_caption_and_the_numbers_say_what_was_measured(told: tuple[Fitted, list[Explanation]]) -> None:
    fitted, found = told
    rows = {(row["image_id"], row["label"]): row for row in fitted.rows()}
    share = _region_shares(fitted)
    for one in found:
        row = rows[one.image_id, one.label]
        assert f"rf100 on densenet121 says {row['output']:.2f} (probability) = base {row['base']:.2f}" in one.caption
        # A map that is the same everywhere scores the region's share of the image.
        assert one.numbers["uniform baseline"] == pytest.approx(share[one.image_id, one.label])
        assert all(0 <= value <= 1 for value in one.numbers.values())


def _region_shares(fitted: Fitted) -> dict[tuple[str, str], float]:
    """Return each region's share of its image, from the phantom writer's own document."""
    document = json.loads((fitted.folder / "rois.json").read_text())
    labels = {category["id"]: category["name"] for category in document["categories"]}
    images = {image["id"]: image for image in document["images"]}
    ids = {row["source_key"]: row["image_id"] for row in fitted.store.query("SELECT * FROM images").to_pylist()}
    return {
        (ids[image["file_name"]], labels[note["category_id"]]): note["area"] / (image["width"] * image["height"])
        for note in document["annotations"]
        for image in [images[note["image_id"]]]
    }


def test_an_image_that_changed_since_is_not_explained(fitted: Fitted, tmp_path: Path) -> None:
    """Maps of another picture than the stored vector came from would add up, and mean nothing."""
    request = fitted.request("rf100", images=1)
    (one,) = fitted.explain(request)
    uri = fitted.store.query("SELECT uri FROM images WHERE image_id = ?", [one.image_id])["uri"][0].as_py()
    shutil.rmtree(Path(fitted.store.location.table("saliency")))
    shutil.move(uri, tmp_path / "kept.png")
    try:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 96), np.uint8)).save(uri)
        with pytest.raises(HarmError, match=r"differ from the stored vectors by .* extract again before explaining"):
            fitted.explain(request)
    finally:
        shutil.move(tmp_path / "kept.png", uri)
    assert fitted.rows() == []


def test_without_regions_nothing_is_explained_and_nothing_runs(fitted: Fitted) -> None:
    shutil.rmtree(Path(fitted.store.location.table("rois")))
    assert fitted.explain(fitted.request("rf100"), NoNetwork()) == []
