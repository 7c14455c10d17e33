"""From a source to rows: identity, idempotence, contradictions, and broken images among good ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import featurestore.ingest as module
from featurestore.errors import UsageError
from featurestore.images.decode import hash_pixels
from featurestore.images.records import ImageRecord, Reject, Roi
from featurestore.images.sources.registry import make_source
from featurestore.ingest import IngestCounts, image_id, ingest
from featurestore.names import check_name
from featurestore.store import Store


@dataclass(frozen=True)
class Listed:
    """A source that is a list."""

    items: tuple[ImageRecord | Reject, ...]
    name: str = "list"

    def records(self) -> Iterator[ImageRecord | Reject]:
        return iter(self.items)

    def count(self) -> int:
        return len(self.items)


def png(folder: Path, name: str, seed: int) -> ImageRecord:
    """Write a small grey image and describe it."""
    path = folder / f"{name}.png"
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24), np.uint8)).save(path)
    return ImageRecord(path.name, str(path), patient_id=f"p-{name}", labels={"Edema": 1, "Fracture": None})


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def records(tmp_path) -> list[ImageRecord]:
    return [png(tmp_path, name, seed) for seed, name in enumerate(("one", "two", "three"))]


def take(
    store: Store, records: list[ImageRecord | Reject], dataset: str = "demo", run_id: str = "run1"
) -> IngestCounts:
    return ingest(store, dataset, Listed(tuple(records)), run_id=run_id)


def stored(store: Store, table: str) -> list[dict[str, Any]]:
    """Return a table's rows by plain JSON and pyarrow."""
    folder = Path(store.uri) / table
    lines = [line for log in sorted((folder / "_delta_log").glob("*.json")) for line in log.read_text().splitlines()]
    actions = [json.loads(line) for line in lines]
    gone = {action["remove"]["path"] for action in actions if "remove" in action}
    paths = [action["add"]["path"] for action in actions if "add" in action and action["add"]["path"] not in gone]
    return [row for path in paths for row in pq.ParquetFile(folder / path).read().to_pylist()]


def test_an_image_is_one_row_with_its_hashes_and_sizes(store, records):
    assert take(store, records) == IngestCounts(images=3, labels=6, rois=0, rejected=0)
    rows = {row["source_key"]: row for row in stored(store, "images")}
    assert sorted(rows) == ["one.png", "three.png", "two.png"]
    for record in records:
        row, data = rows[record.source_key], Path(record.uri).read_bytes()
        assert row["file_hash"] == hashlib.sha256(data).hexdigest()
        assert row["pixel_hash"] == hash_pixels(np.array(Image.open(record.uri)))
        assert (row["width"], row["height"], row["bits"]) == (24, 20, 8)
        assert (row["dataset"], row["uri"], row["patient_id"]) == ("demo", record.uri, record.patient_id)


def test_the_id_is_a_hash_over_data_set_key_and_content(store, records):
    take(store, records[:1])
    (row,) = stored(store, "images")
    content = hashlib.sha256(Path(records[0].uri).read_bytes()).hexdigest()
    assert row["image_id"] == hashlib.sha256(b"demo\0one.png\0" + content.encode()).hexdigest()
    assert row["image_id"] == image_id("demo", "one.png", content)


def test_the_id_does_not_run_its_parts_together():
    assert image_id("a", "bc", "d") != image_id("ab", "c", "d")


def test_labels_are_as_the_source_gave_them(store, records):
    values = {"Edema": -1, "Fracture": 0, "Mass": 1, "Nodule": None}
    take(store, [replace(records[0], labels=values)])
    rows = stored(store, "labels")
    assert {row["label"]: row["value"] for row in rows} == values
    assert {row["image_id"] for row in rows} == {stored(store, "images")[0]["image_id"]}


def test_ingesting_again_changes_nothing_and_says_the_same(store, records):
    broken = records[0].uri.replace("one", "none")
    everything = [*records, ImageRecord("none.png", broken)]
    first = take(store, everything, run_id="run1")
    before = {table: stored(store, table) for table in ("images", "labels", "rejects")}
    assert first.rejected == 1
    assert take(store, everything, run_id="run2") == first
    assert {table: stored(store, table) for table in before} == before


def test_an_interrupted_ingest_is_completed_by_the_next(store, records):
    take(store, records[:2])
    assert take(store, records).images == 3
    assert len(stored(store, "images")) == 3


def test_batches_do_not_change_the_rows(store, records, monkeypatch):
    monkeypatch.setattr(module, "BATCH_RECORDS", 2)
    steps: list[int] = []
    ingest(store, "demo", Listed(tuple(records)), run_id="r", advance=steps.append)
    assert steps == [2, 1]
    assert len(stored(store, "images")) == 3


def test_equal_pixels_under_two_keys_stay_two(store, tmp_path):
    records = [png(tmp_path, "a", 0), png(tmp_path, "b", 0)]
    take(store, records)
    rows = stored(store, "images")
    assert len({row["image_id"] for row in rows}) == 2
    assert len({row["pixel_hash"] for row in rows}) == len({row["file_hash"] for row in rows}) == 1


def test_one_image_in_two_data_sets_is_two(store, records):
    take(store, records[:1], "demo")
    take(store, records[:1], "other")
    assert len({row["image_id"] for row in stored(store, "images")}) == 2


def test_content_that_changed_under_its_key_is_rejected_and_the_rest_goes_on(store, records, tmp_path):
    take(store, records[:2])
    before = stored(store, "images")
    png(tmp_path, "one", 99)
    assert take(store, records) == IngestCounts(images=2, labels=4, rois=0, rejected=1)
    (reject,) = stored(store, "rejects")
    assert (reject["stage"], reject["source_key"], reject["uri"]) == ("changed", "one.png", records[0].uri)
    assert reject["reason"].startswith("one.png is stored with other facts: image_id ")
    assert reject["reason"].endswith("; ingest it under another --dataset")
    assert sorted(row["source_key"] for row in stored(store, "images")) == ["one.png", "three.png", "two.png"]
    assert [row for row in stored(store, "images") if row in before] == before


@pytest.mark.parametrize(
    "change", [{"patient_id": "p-x"}, {"patient_id": None}, {"view": "PA"}, {"sex": "F"}, {"official_part": "test"}]
)
def test_another_identity_under_the_same_key_is_rejected(store, records, change):
    take(store, records[:1])
    assert take(store, [replace(records[0], **change)]).rejected == 1
    (reject,) = stored(store, "rejects")
    assert reject["stage"] == "changed"
    assert f"{next(iter(change))} " in reject["reason"]


def test_a_reject_says_whose_it_is_and_its_reason_does_not(store, records, tmp_path):
    first, second, third = (replace(r, patient_id=f"person-{i}") for i, r in enumerate(records))
    take(store, [first])
    Path(second.uri).write_bytes(b"broken")
    by_source = Reject("rows.csv#7", "climbs.png", "path", "it climbs out of its folder", patient_id="person-3")
    moved = replace(first, patient_id="person-4", study_id="person-4/study1")
    take(store, [moved, second, replace(third, labels={"Edema": 1}), by_source])
    rejects = {row["source_key"]: row for row in stored(store, "rejects")}
    assert {key: row["patient_id"] for key, row in rejects.items()} == {
        "one.png": "person-4", "two.png": "person-1", "climbs.png": "person-3",
    }  # fmt: skip
    assert "patient_id became another, study_id became another" in rejects["one.png"]["reason"]
    assert "person-" not in str([row["reason"] for row in rejects.values()])


def test_a_rejected_thing_of_somebody_forgotten_stays_out(store, records):
    from featurestore.store.tombstones import bury

    bury(store, "demo", [("patient", "person-0")])
    hers = Reject("rows.csv#7", "climbs.png", "path", "it climbs out of its folder", patient_id="person-0")
    assert take(store, [records[0], hers]).rejected == 1
    assert {row["stage"] for row in stored(store, "rejects")} == {"forgotten"}


def test_a_label_that_contradicts_the_stored_one_is_rejected_and_the_stored_is_kept(store, records):
    take(store, records[:1])
    counts = take(store, [replace(records[0], labels={"Edema": 0, "Fracture": None, "Mass": 1})])
    assert (counts.images, counts.rejected) == (1, 1)
    assert {row["label"]: row["value"] for row in stored(store, "labels")} == {"Edema": 1, "Fracture": None, "Mass": 1}
    (reject,) = stored(store, "rejects")
    assert reject["stage"] == "label"
    assert reject["reason"] == "label 'Edema' is stored as 1 and now given as 0; the stored one is kept"
    # The image itself is fine: a reject that named it would keep it from extraction.
    assert reject["image_id"] is None


def test_a_label_once_unmentioned_stays_so(store, records):
    take(store, records[:1])
    assert take(store, [replace(records[0], labels={"Fracture": 1})]).rejected == 1
    assert {row["label"]: row["value"] for row in stored(store, "labels")}["Fracture"] is None


BOX = Roi("Edema", "box", "[1, 2, 3, 4]", 24, 20, "boxes.csv")


def test_regions_are_stored_once(store, records):
    record = replace(records[0], rois=(BOX, replace(BOX, geometry="[5, 6, 7, 8]")))
    assert take(store, [record]).rois == 2
    assert take(store, [record]).rois == 2
    rows = stored(store, "rois")
    assert sorted(row["geometry"] for row in rows) == ["[1, 2, 3, 4]", "[5, 6, 7, 8]"]
    assert len({row["roi_id"] for row in rows}) == 2
    image = stored(store, "images")[0]["image_id"]
    assert {(r["image_id"], r["label"], r["kind"], r["width"], r["height"]) for r in rows} == {
        (image, "Edema", "box", 24, 20)
    }


def test_regions_that_come_later_are_added(store, records):
    take(store, records[:1])
    assert take(store, [replace(records[0], rois=(BOX,))]) == IngestCounts(images=1, labels=2, rois=1, rejected=0)
    assert len(stored(store, "rois")) == 1


def _broken(folder: Path) -> dict[str, bytes]:
    whole = (folder / "one.png").read_bytes()
    return {"truncated.png": whole[:-40], "empty.png": b"", "text.png": b"not an image", "missing.png": b""}


def test_broken_images_among_good_ones_are_rejected_and_the_rest_goes_on(store, records, tmp_path):
    broken: list[ImageRecord | Reject] = []
    for name, data in _broken(tmp_path).items():
        (tmp_path / name).write_bytes(data)
        broken.append(ImageRecord(name, str(tmp_path / name), labels={"Edema": 1}))
    (tmp_path / "missing.png").unlink()
    by_source = Reject("rows.csv#7", "climbs.png", "path", "it climbs out of its folder")
    mixed = [broken[0], records[0], *broken[1:], by_source, *records[1:]]
    assert take(store, mixed) == IngestCounts(images=3, labels=6, rois=0, rejected=5)
    rejects = {row["source_key"]: row for row in stored(store, "rejects")}
    stages = {"truncated.png": "decode", "empty.png": "decode", "text.png": "decode"}
    stages |= {"missing.png": "path", "climbs.png": "path"}
    assert {key: row["stage"] for key, row in rejects.items()} == stages
    assert rejects["missing.png"]["retryable"] is True
    assert rejects["text.png"]["retryable"] is False
    assert all(
        row["reason"] and row["uri"] and row["dataset"] == "demo" and row["run_id"] == "run1"
        for row in rejects.values()
    )
    assert {row["label"] for row in stored(store, "labels")} == {"Edema", "Fracture"}


def test_a_mended_image_is_taken_next_time(store, records, tmp_path):
    path = Path(records[0].uri)
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    assert take(store, records).rejected == 1
    path.write_bytes(whole)
    assert take(store, records) == IngestCounts(images=3, labels=6, rois=0, rejected=0)


def test_only_rejects_is_not_no_image_at_all(store, tmp_path):
    assert take(store, [ImageRecord("x.png", str(tmp_path / "x.png"))]) == IngestCounts(rejected=1)


def test_no_image_at_all_is_an_error_that_says_where_to_look(store):
    with pytest.raises(UsageError, match=r"list: no image found; look at the path"):
        take(store, [])
    assert not store.exists()


def test_an_image_is_never_visible_without_its_labels(store, records, monkeypatch):
    """A writer that dies between two tables leaves labels without an image, which nobody sees."""
    order: list[str] = []
    append = Store.append

    def spy(self: Store, table: str, rows: Any) -> int:
        order.append(table)
        return append(self, table, rows)

    monkeypatch.setattr(Store, "append", spy)
    take(store, [replace(records[0], rois=(BOX,))])
    assert order == ["labels", "rois", "images"]


@pytest.mark.parametrize("name", ["Demo", "a b", "a-b", "", "a.b", "ü", "a/b", "..", "x" * 65, "demo\n"])
def test_a_name_that_is_not_plain_is_refused(store, records, name):
    with pytest.raises(
        UsageError, match=r"data set .*: 1 to 64 lower-case letters, digits and '_' only, such as nih_2017"
    ):
        take(store, records, name)
    assert not Path(store.uri).exists()


@pytest.mark.parametrize("name", ["images", "runs", "vgg16", "densenet121"])
def test_a_views_name_is_refused(store, records, name):
    with pytest.raises(UsageError, match=rf"data set '{name}': that is the name of a view; choose another"):
        take(store, records, name)


def test_names_that_are_plain_are_returned():
    assert check_name("nih_2017", "data set") == "nih_2017"
    assert check_name("x" * 64, "head") == "x" * 64
    assert check_name("vgg16", "backbone") == "vgg16"
    with pytest.raises(UsageError, match=r"backbone 'images': that is the name of a view"):
        check_name("images", "backbone")


def test_phantoms_go_in_with_their_regions_and_only_once(store, tmp_path):
    from featurestore.images.phantoms import LABELS, write_phantoms

    folder = tmp_path / "phantoms"
    written = write_phantoms(folder, patients=3, seed=1, hospital="a", fmt="png", size=64)
    regions = len(json.loads((folder / "rois.json").read_text())["annotations"])
    for _ in range(2):
        counts = ingest(store, "phantom_a", make_source("phantom", folder), run_id="r")
        assert counts == IngestCounts(images=written, labels=written * len(LABELS), rois=regions, rejected=0)
    assert (len(stored(store, "images")), len(stored(store, "rois"))) == (written, regions)
    assert len({row["patient_id"] for row in stored(store, "images")}) == 3


def test_a_folder_that_moved_is_found_at_its_new_place(store, records, tmp_path):
    take(store, records)
    before = stored(store, "images")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = []
    for record in records:
        target = elsewhere / Path(record.uri).name
        Path(record.uri).rename(target)
        moved.append(replace(record, uri=str(target)))
    counts = take(store, moved)
    after = stored(store, "images")
    assert (counts.images, counts.rejected) == (len(records), 0)
    assert {row["uri"] for row in after} == {record.uri for record in moved}
    without = [{key: value for key, value in row.items() if key != "uri"} for row in before]
    assert [{key: value for key, value in row.items() if key != "uri"} for row in after] == without


def test_the_forgotten_do_not_come_back_and_leave_no_trace(store, records, tmp_path, find_words):
    from featurestore.store.tombstones import bury

    first, second, *others = [replace(r, patient_id=f"person-{i}") for i, r in enumerate(records)]
    with_one_more = png(tmp_path, "later.png", 99)
    bury(store, "demo", [("patient", "person-0"), ("source", second.source_key)])
    broken = replace(
        with_one_more, uri=str(tmp_path / "gone-of-0.png"), source_key="gone-of-0.png", patient_id="person-0"
    )
    refused = Reject(str(tmp_path / second.source_key), second.source_key, "path", "twice")
    counts = ingest(store, "demo", Listed((first, second, *others, broken, refused)), run_id="r")
    assert (counts.images, counts.rejected) == (len(others), 4)
    (row,) = stored(store, "rejects")
    assert (row["stage"], row["uri"], row["source_key"], row["image_id"]) == ("forgotten", None, None, None)
    assert "forgotten by cxr forget" in row["reason"]
    words = ("person-0", second.source_key, "gone-of-0")
    assert find_words(Path(store.uri), words) == {word: [] for word in words}
    elsewhere = ingest(store, "elsewhere", Listed((first, second)), run_id="r")
    assert (elsewhere.images, elsewhere.rejected) == (2, 0)


def test_an_image_that_was_forgotten_is_known_by_its_content_too(store, records):
    from featurestore.store.tombstones import bury

    ingest(store, "first", Listed((records[0],)), run_id="r")
    file_hash = stored(store, "images")[0]["file_hash"]
    bury(store, "demo", [("image", image_id("demo", records[0].source_key, file_hash))])
    assert ingest(store, "demo", Listed(tuple(records)), run_id="r").images == len(records) - 1
