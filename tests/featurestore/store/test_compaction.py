"""Small files become large ones while others append, delete and read; no row is lost, doubled or brought back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from featurestore.store import Store, compaction
from featurestore.store.checksums import checksum_in, damage
from featurestore.store.commit import Committer
from featurestore.store.compaction import compact
from featurestore.store.files import conform, stage
from featurestore.store.orphans import orphans
from featurestore.store.rewrite import rewrite
from featurestore.store.schema import TABLES

SPEC = TABLES["labels"]


def _ids(store: Store, table: str = "labels") -> list[str]:
    return sorted(row["image_id"] for row in store.query(f"SELECT image_id FROM {table}").to_pylist())


def _without(image_id: str):
    def change(rows):
        mask = pc.not_equal(rows["image_id"], image_id)
        return None if pc.all(mask).as_py() else rows.filter(mask)

    return change


def test_many_files_become_one_and_rows_stay(store, label_rows, raw):
    for i in range(12):
        store.append("labels", label_rows([f"i{i}"], value=None))
    before = store.snapshot("labels")
    assert compact(store.location) == compaction.Compacted(12, 1)
    (file,) = store.snapshot("labels").files
    assert file.rows == 12
    assert checksum_in(file.path)
    assert damage(store.snapshot("labels"), file) is None
    assert len(_ids(store)) == 12
    # The old version reads on, and the log says that no row changed.
    assert all(damage(before, old) is None for old in before.files)
    assert {a["dataChange"] for a in raw("labels").log()[-1].values() if "dataChange" in a} <= {False}
    assert [a["dataChange"] for a in raw("labels").actions("remove")] == [False] * 12
    assert compact(store.location) == compaction.Compacted(1, 1)


def test_partitions_stay_apart_and_floats_have_no_dictionary(tmp_path, vector_rows):
    store = Store(tmp_path / "s")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((6, 8)).astype(np.float32)
    for i in range(6):
        store.append("embeddings", vector_rows([f"i{i}"], X[i : i + 1], spec_id=f"s{i % 2}"))
    assert compact(store.location).files_after == 2
    for file in store.snapshot("embeddings").files:
        metadata = pq.ParquetFile(tmp_path / "s" / "embeddings" / file.path).metadata.row_group(0)
        columns = {c.path_in_schema: c for k in range(metadata.num_columns) for c in [metadata.column(k)]}
        assert "RLE_DICTIONARY" not in columns["embedding.list.element"].encodings
        assert columns["embedding.list.element"].compression == "ZSTD"
    rows = store.query("SELECT image_id, spec_id, embedding FROM embeddings ORDER BY image_id").to_pylist()
    assert [row["spec_id"] for row in rows] == [f"s{i % 2}" for i in range(6)]
    assert np.array_equal(np.array([row["embedding"] for row in rows], np.float32), X)


def test_large_files_are_left_alone_and_merged_ones_stay_below_the_target(store, label_rows):
    store.append("labels", label_rows([f"big{i:04}" for i in range(4000)]))
    (big,) = store.snapshot("labels").files
    for i in range(8):
        store.append("labels", label_rows([f"i{i}"]))
    small = max(f.size for f in store.snapshot("labels").files if f.path != big.path)
    assert compact(store.location, target_bytes=min(4 * small, big.size)).files_after == 3
    assert big in store.snapshot("labels").files
    assert len(_ids(store)) == 4008


def test_a_row_that_is_deleted_meanwhile_does_not_come_back(store, label_rows, monkeypatch):
    for i in "abc":
        store.append("labels", label_rows([i]))
    merges: list[int] = []
    merge = compaction._merge

    def slow(*arguments):
        done = merge(*arguments)
        if not merges:
            assert rewrite(store.location, SPEC, _without("a")) == 1
        merges.append(1)
        return done

    monkeypatch.setattr(compaction, "_merge", slow)
    compact(store.location)
    assert _ids(store) == ["b", "c"]
    assert len(merges) == 2
    assert orphans(store.snapshot("labels")) == []  # what the first try wrote is not left lying about


def test_a_delete_that_began_before_a_merge_does_not_double_rows(store, label_rows):
    """delta-rs lets both commit (see featurestore.store.rewrite); the shared app_id is what stops the second."""
    for i in "abc":
        store.append("labels", label_rows([i]))
    calls: list[int] = []

    def change(rows):
        if not calls:
            assert compact(store.location).files_after == 1
        calls.append(rows.num_rows)
        return _without("a")(rows)

    assert rewrite(store.location, SPEC, change) == 1
    assert _ids(store) == ["b", "c"]
    assert calls[-1] == 3


def test_an_append_between_reading_and_committing_stops_nothing(store, label_rows, monkeypatch):
    for i in "abc":
        store.append("labels", label_rows([i]))
    merges: list[int] = []
    merge = compaction._merge

    def slow(*arguments):
        done = merge(*arguments)
        store.append("labels", label_rows([f"new{len(merges)}"]))
        merges.append(1)
        return done

    monkeypatch.setattr(compaction, "_merge", slow)
    compact(store.location)
    assert _ids(store) == ["a", "b", "c", "new0"]
    assert len(merges) == 1


def test_an_append_planned_before_the_merge_adds_no_row_twice(store, label_rows):
    for i in "abc":
        store.append("labels", label_rows([i]))
    committer = Committer(store.location, SPEC, [f.path for f in store.snapshot("labels").files])
    staged = stage(store.location, SPEC, conform(label_rows(["c", "d"]), SPEC))
    compact(store.location)
    assert committer.commit(staged) == 1
    assert _ids(store) == ["a", "b", "c", "d"]


def test_two_mergers_and_two_writers_at_once(store, label_rows):
    store.append("labels", label_rows(["first"]))

    def write(name: str) -> None:
        for i in range(8):
            store.append("labels", label_rows([f"{name}{i}"]))

    def merge() -> None:
        for _ in range(4):
            compact(store.location)

    works = [lambda: write("a"), lambda: write("b"), merge, merge]
    with ThreadPoolExecutor(len(works)) as pool:
        for done in [pool.submit(work) for work in works]:
            done.result(300)
    assert _ids(store) == sorted(["first", *(f"{n}{i}" for n in "ab" for i in range(8))])
    assert compact(store.location).files_after == 1


def test_statistics_stay_out_of_the_log(tmp_path, label_rows):
    store = Store(tmp_path / "s")
    for i in "abc":
        store.append("labels", label_rows([f"patient-{i}"]))
    compact(store.location)
    DeltaTable(f"{store.uri}/labels").create_checkpoint()
    log = tmp_path / "s" / "labels" / "_delta_log"
    assert "patient-" not in "".join(p.read_text() for p in log.glob("*.json"))
    (checkpoint,) = log.glob("*.parquet")
    assert "patient-" not in str(pq.read_table(checkpoint).to_pylist())


def test_an_empty_store_is_no_trouble(store):
    assert compact(store.location) == compaction.Compacted(0, 0)


@pytest.mark.parametrize(("sizes", "expected"), [((), []), ((5,), []), ((1, 1, 1), [[1, 1, 1]]), ((6, 6, 6), []),
                                             ((10, 1, 1), [[1, 1]]), ((4, 4, 4, 4), [[4, 4], [4, 4]])])  # fmt: skip
def test_groups_fit_below_the_target(sizes, expected, store, label_rows):
    store.append("labels", label_rows(["a"]))
    (file,) = store.snapshot("labels").files
    groups = compaction._groups([replace(file, size=size) for size in sizes], 10)
    assert [[f.size for f in group] for group in groups] == expected
