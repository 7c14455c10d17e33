"""`cxr forget`: over a store that went through every command; unknown people; what the run log keeps."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featurestore.store import Store

pytestmark = pytest.mark.slow  # the whole of it; `make test` runs it, `make test-fast` does not


@pytest.fixture
def own(tmp_path: Path, walked: Any) -> Store:
    """Copy the walked store, to write to."""
    shutil.copytree(walked.store, tmp_path / "store")
    return Store(tmp_path / "store")


def _person(store: Store) -> tuple[str, list[dict[str, Any]]]:
    """Return a patient with predictions and regions, and their images."""
    ((patient,),) = store.connect().sql(
        "SELECT patient_id FROM images JOIN predictions USING (image_id) JOIN rois USING (image_id) "
        "ORDER BY patient_id LIMIT 1"
    ).fetchall()  # fmt: skip
    sql = "SELECT image_id, source_key, uri FROM images WHERE patient_id = ? ORDER BY ALL"
    return patient, store.query(sql, [patient]).to_pylist()


def _vectors(store: Store) -> dict[str, tuple[float, ...]]:
    rows = store.query("SELECT image_id, embedding FROM embeddings").to_pylist()
    return {row["image_id"]: tuple(row["embedding"]) for row in rows}


def test_a_patient_leaves_every_file_and_every_version_after_the_purge(
    own: Store, walked: Any, cxr: Callable[..., Any], find_words: Callable[..., Any]
) -> None:
    patient, images = _person(own)
    ids = [image["image_id"] for image in images]
    words = [*ids, *(image["source_key"] for image in images), *(image["uri"] for image in images), patient]
    vectors = _vectors(own)
    folder = Path(own.uri)
    assert all(find_words(folder, words).values())

    said = cxr("forget", "--patient", f"local:{patient}", "--store", own.uri, "--json")
    assert said.code == 0, said.err
    removed = said.json["rows_removed"]
    assert removed["images"] == len(ids)
    assert {"labels", "rois", "embeddings", "splits", "predictions"} <= removed.keys()
    assert all(find_words(folder, words).values()), "old versions hold it still; a search that finds nothing is blind"
    for table in removed:
        assert own.query(f"SELECT * FROM {table} WHERE image_id IN (SELECT unnest(?::VARCHAR[]))", [ids]).num_rows == 0

    purged = cxr("compact", "--purge", "--store", own.uri, "--json")
    assert purged.code == 0, purged.err
    assert purged.json["versions_removed"] > 0
    assert find_words(folder, words) == {word: [] for word in words}
    assert _vectors(own) == {key: value for key, value in vectors.items() if key not in ids}

    columns = ("--image-column", "path", "--patient-column", "patient", "--labels", "Edema")
    again = cxr("ingest", "csv", walked.csv, "--dataset", "local", *columns, "--store", own.uri, "--json")
    assert again.json["images"] == len(vectors) - len(ids)
    assert find_words(folder, words) == {word: [] for word in words}
    without = cxr("ingest", "csv", walked.csv, "--dataset", "local", "--image-column", "path", "--store", own.uri)
    assert without.code == 0
    found = find_words(folder, words)
    assert {word for word in words if found[word]} == set(), "a source that does not say whose an image is"


def test_a_report_and_another_training_go_on_without_the_person(own: Store, cxr: Callable[..., Any]) -> None:
    patient, _ = _person(own)
    assert cxr("forget", "--patient", f"local:{patient}", "--store", own.uri).code == 0
    where = ("--dataset", "local", "--split", "half", "--store", own.uri)
    assert cxr("train", *where, "--heads", "rf100", "--json").json["failed"] == 0
    assert cxr("evaluate", *where).code == 0
    assert cxr("verify", "--sample", "0", "--store", own.uri, "--no-ray").code == 0


def test_a_request_that_was_interrupted_at_its_end_can_be_made_again(own: Store, cxr: Callable[..., Any]) -> None:
    patient, _ = _person(own)
    where = ("--patient", f"local:{patient}", "--store", own.uri, "--json")
    assert cxr("forget", *where).json["rows_removed"]
    again = cxr("forget", *where)
    assert (again.code, again.json["rows_removed"]) == (0, {}), again.err


def test_one_image_by_prefix(ingested: Store, cxr: Callable[..., Any]) -> None:
    ids = ingested.query("SELECT image_id FROM images ORDER BY image_id")["image_id"].to_pylist()
    said = cxr("forget", "--image", ids[0][:10], "--store", ingested.uri)
    assert said.code == 0
    assert said.out.startswith("rows removed: ")
    assert "run cxr compact --purge" in said.out
    left = ingested.query("SELECT image_id FROM images ORDER BY image_id")["image_id"].to_pylist()
    assert left == ids[1:]


def test_a_reject_goes_by_its_source_key(
    ingested: Store, tmp_path: Path, cxr: Callable[..., Any], find_words: Callable[..., Any]
) -> None:
    (tmp_path / "broken-otto.png").write_bytes(b"x")
    (tmp_path / "x.csv").write_text("path\nbroken-otto.png\n")
    assert cxr("ingest", "csv", tmp_path / "x.csv", "--dataset", "demo", "--image-column", "path", "--store",
               ingested.uri).code == 0  # fmt: skip
    said = cxr("forget", "--image", "broken-otto.png", "--dataset", "demo", "--store", ingested.uri, "--json")
    assert said.json == {"rows_removed": {"rejects": 1}, "undecided_rejects": 0}
    assert cxr("compact", "--purge", "--store", ingested.uri).code == 0
    assert find_words(Path(ingested.uri), ["broken-otto"]) == {"broken-otto": []}


def test_a_person_of_whom_everything_was_rejected_is_forgotten(
    tmp_path: Path, cxr: Callable[..., Any], find_words: Callable[..., Any]
) -> None:
    """A data set without one image; another person with nearly the same id; rows that name nobody."""
    folder, store = tmp_path / "in", tmp_path / "store"
    folder.mkdir()
    (folder / "ann-broken.png").write_bytes(b"x")
    rows = ["ann-broken.png,annika-01", "ann-missing.png,annika-01", "ann-missing.png,annika-01x", ",annika-01",
            "other.png,annika-01x", "short"]  # fmt: skip
    (folder / "cases.csv").write_text("\n".join(["path,who", *rows]) + "\n")
    ingest = ("ingest", "csv", folder / "cases.csv", "--dataset", "lost", "--image-column", "path",
              "--patient-column", "who", "--store", store, "--json")  # fmt: skip
    assert cxr(*ingest).json["images"] == 0
    said = cxr("forget", "--patient", "lost:annika-01", "--store", store, "--json")
    assert said.code == 0, said.err
    # The broken one, the blank path, and both rows that claim the missing one.
    assert said.json == {"rows_removed": {"rejects": 4}, "undecided_rejects": 1}
    assert "1 rejects of lost stay: they say neither of which image nor of which patient" in said.err
    (query,) = re.findall(r'cxr sql "([^"]+)"', said.err)
    assert [row["source_key"] for row in Store(store).query(query).to_pylist()] == ["line 7"]
    assert cxr("compact", "--purge", "--store", store).code == 0
    assert find_words(store, ["ann-broken", "ann-missing"]) == {"ann-broken": [], "ann-missing": []}
    left = Store(store).query("SELECT source_key, patient_id FROM rejects ORDER BY source_key").to_pylist()
    assert [tuple(row.values()) for row in left] == [("line 7", None), ("other.png", "annika-01x")]
    again = cxr(*ingest)
    assert again.json["rejected"] == 6
    assert find_words(store, ["ann-broken", "ann-missing"]) == {"ann-broken": [], "ann-missing": []}


def test_the_run_log_counts_and_names_nobody(ingested: Store, cxr: Callable[..., Any]) -> None:
    (image,) = ingested.query("SELECT image_id FROM images LIMIT 1")["image_id"].to_pylist()
    cxr("forget", "--image", image, "--store", ingested.uri)
    (row,) = ingested.query("SELECT * FROM runs WHERE command = 'forget'").to_pylist()
    assert json.loads(row["arguments"]) == {"images": 1, "kind": "image"}
    assert json.loads(row["counts"])["images"] == 1
    assert image not in str(row)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "either --patient DATASET:ID or --image ID"),
        (("--patient", "demo:1", "--image", "2"), "either --patient DATASET:ID or --image ID"),
        (("--patient", "demo"), "expected DATASET:ID"),
        (("--patient", "demo:"), "expected DATASET:ID"),
        (("--patient", "nowhere:1"), "no data set 'nowhere'"),
        (("--patient", "demo:nobody"), "no patient 'nobody' in data set 'demo'"),
        (("--image", "abcdef"), "no image 'abcdef'"),
        (("--image", "none.png", "--dataset", "demo"), "no image 'none.png' of data set 'demo'"),
        (("--patient", "demo:1", "--dataset", "demo"), "goes with --image"),
    ],
)
def test_who_is_not_there_is_a_usage_error_and_nothing_changes(
    ingested: Store, cxr: Callable[..., Any], arguments: tuple[str, ...], words: str
) -> None:
    versions = ingested.versions()
    said = cxr("forget", *arguments, "--store", ingested.uri)
    assert said.code == 2
    assert words in said.err
    assert ingested.versions() == versions


def test_an_ambiguous_key_asks_for_the_data_set(ingested: Store, cxr: Callable[..., Any]) -> None:
    import pyarrow as pa

    (key,) = ingested.query("SELECT source_key FROM images ORDER BY source_key LIMIT 1")["source_key"].to_pylist()
    ingested.append("images", pa.table({"image_id": ["0" * 64], "dataset": ["b"], "source_key": [key]}))
    said = cxr("forget", "--image", key, "--store", ingested.uri)
    assert said.code == 2
    assert "means 2 images" in said.err
    assert cxr("forget", "--image", key, "--dataset", "b", "--store", ingested.uri).code == 0
