"""`cxr compact`, its numbers, and the lease that `--purge` needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from featurestore.store import Store
from featurestore.store.lease import writing
from featurestore.store.purge import purged_versions
from jobs.compact import compact


@pytest.fixture
def store(tmp_path) -> Store:
    """Return a store with six small files of labels and one image."""
    store = Store(tmp_path / "store")
    store.append("images", pa.table({"image_id": ["a"], "dataset": ["demo"]}))
    for i in range(6):
        store.append("labels", pa.table({"image_id": [f"i{i}"], "label": ["x"]}))
    return store


def test_it_says_files_and_removes_no_version(store: Store, cxr: Callable[..., Any]) -> None:
    said = cxr("compact", "--store", store.uri, "--json")
    assert said.code == 0
    assert {"files_before": 7, "files_after": 2, "versions_removed": 0}.items() <= said.json.items()
    assert store.query("SELECT * FROM labels").num_rows == 6
    assert purged_versions(store)["labels"] == 0


def test_a_purge_removes_the_merged_files_and_their_versions(store: Store, cxr: Callable[..., Any]) -> None:
    cited = store.versions()["labels"]
    assert cxr("compact", "--store", store.uri).code == 0
    said = cxr("compact", "--purge", "--store", store.uri, "--json").json
    assert (said["versions_removed"], said["files_removed"]) == (7, 6)
    assert purged_versions(store)["labels"] > cited
    assert store.query("SELECT * FROM labels").num_rows == 6
    sql = "SELECT arguments, counts, status FROM runs WHERE command = 'compact' ORDER BY started_at DESC"
    row = store.query(sql).to_pylist()[0]
    assert json.loads(row["arguments"])["purge"] is True
    assert json.loads(row["counts"])["files_removed"] == 6
    assert row["status"] == "done"


def test_a_purge_leaves_tables_alone_in_which_nothing_is_dead(store: Store, cxr: Callable[..., Any]) -> None:
    """Merged first, every table with two small files had dead ones, and what cited it nothing to cite."""
    store.append("scores", pa.table({"backbone": ["x"], "spec_id": ["s1"], "image_id": ["a"], "label": ["x"]}))
    store.relocate({"a": "/moved"})
    before = store.versions()
    said = cxr("compact", "--purge", "--store", store.uri, "--json").json
    assert said["files_removed"] == 1
    after = store.versions()
    assert {name for name in before if after[name] != before[name]} == {"images"}
    assert purged_versions(store) == {"images": before["images"], "labels": 0, "scores": 0, "runs": 0}
    assert len(store.snapshot("labels").files) == 6


def test_a_purge_is_refused_with_exit_3_while_a_job_runs_and_nothing_is_done(
    store: Store, cxr: Callable[..., Any]
) -> None:
    files = store.snapshot("labels").files
    with writing(store.location, "cxr extract"):
        said = cxr("compact", "--purge", "--store", store.uri)
        assert said.code == 3
        assert "cxr extract (process" in said.err
        assert store.snapshot("labels").files == files
        assert cxr("compact", "--store", store.uri).code == 0
    assert len(store.snapshot("labels").files) == 1


def test_the_target_decides(store: Store) -> None:
    size = max(file.size for file in store.snapshot("labels").files)
    assert compact(store, target_bytes=2 * size).files_after == 1 + 3


def test_no_store_is_a_usage_error(tmp_path, cxr: Callable[..., Any]) -> None:
    said = cxr("compact", "--store", tmp_path / "nothing")
    assert said.code == 2
    assert "no store at" in said.err
    assert not (tmp_path / "nothing").exists()
