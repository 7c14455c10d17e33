"""The contract of an append, checked on the Delta log's JSON and on Parquet by plain pyarrow."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from threading import Barrier

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from featurestore.store import Store
from featurestore.store.schema import TABLES
from featurestore.store.snapshot import create_table


def test_an_append_is_visible_in_the_log_and_in_parquet(store, raw, label_rows):
    assert store.append("labels", label_rows(["a", "b"])) == 2
    assert [action["path"] for action in raw("labels").actions("add")] == [f.name for f in raw("labels").files()]
    assert sorted(row["image_id"] for row in raw("labels").rows()) == ["a", "b"]


def test_appending_twice_changes_nothing(store, raw, label_rows):
    store.append("labels", label_rows(["a", "b"]))
    before = raw("labels").log()
    assert store.append("labels", label_rows(["a", "b"])) == 0
    assert raw("labels").log() == before


def test_only_new_keys_of_an_overlapping_append_are_added_and_old_values_stay(store, raw, label_rows):
    store.append("labels", label_rows(["a", "b"], value=1))
    assert store.append("labels", label_rows(["b", "c"], value=0)) == 1
    assert {row["image_id"]: row["value"] for row in raw("labels").rows()} == {"a": 1, "b": 1, "c": 0}


def test_no_file_stays_behind_that_the_log_does_not_name(store, raw, label_rows):
    for ids in (["a", "b"], ["b", "c"], ["a", "c"]):
        store.append("labels", label_rows(ids))
    assert sorted(raw("labels").folder.glob("*.parquet")) == sorted(raw("labels").files())


def test_of_duplicates_within_one_append_the_first_is_kept(store, raw, label_rows):
    rows = pa.concat_tables([label_rows(["a"], value=1), label_rows(["a", "b"], value=0)])
    assert store.append("labels", rows) == 2
    assert {row["image_id"]: row["value"] for row in raw("labels").rows()} == {"a": 1, "b": 0}


def test_null_is_a_key_like_any_other(store, raw):
    reject = {"dataset": ["d", "d"], "uri": ["u", "u"], "stage": ["decode", "decode"], "reason": ["bad", "bad"]}
    unspecific = pa.table(reject)
    specific = pa.table(reject | {"spec_id": pa.array(["s1", None])})
    assert store.append("rejects", unspecific) == 1
    assert store.append("rejects", unspecific) == 0
    assert store.append("rejects", specific) == 1
    assert sorted(str(row["spec_id"]) for row in raw("rejects").rows()) == ["None", "s1"]


def test_absent_columns_become_null_and_all_are_in_order(store, raw):
    store.append("images", pa.table({"dataset": ["d"], "image_id": ["a"]}))
    (file,) = raw("images").files()
    assert pq.ParquetFile(file).schema_arrow.equals(TABLES["images"].schema)
    (row,) = raw("images").rows()
    assert {name for name, value in row.items() if value is not None} == {"image_id", "dataset"}


def test_an_unknown_column_is_named(store, raw):
    with pytest.raises(ValueError, match=r"table 'labels' has no column \['colour'\]; it has \['image_id', 'dataset'"):
        store.append("labels", pa.table({"image_id": ["a"], "label": ["x"], "colour": ["red"]}))
    assert not raw("labels").folder.parent.exists()


def test_no_rows_write_nothing(store, raw, label_rows):
    assert store.append("labels", label_rows([])) == 0
    assert not raw("labels").folder.parent.exists()


def test_partitions_are_hive_folders_whose_columns_are_not_in_the_file(store, raw, vector_rows):
    for backbone, spec_id in (("vgg16", "s1"), ("vgg16", "s2"), ("xception", "s3")):
        store.append("embeddings", vector_rows(["a"], np.ones((1, 3)), backbone=backbone, spec_id=spec_id))
    folders = {str(f.relative_to(raw("embeddings").folder).parent) for f in raw("embeddings").files()}
    assert folders == {"backbone=vgg16/spec_id=s1", "backbone=vgg16/spec_id=s2", "backbone=xception/spec_id=s3"}
    names = {name for f in raw("embeddings").files() for name in pq.ParquetFile(f).schema_arrow.names}
    assert names == {"image_id", "run_id", "runtime", "embedding"}


def test_one_append_of_several_partitions_is_one_commit(store, raw, vector_rows):
    rows = pa.concat_tables([vector_rows(["a"], np.ones((1, 3)), spec_id=s) for s in ("s1", "s2")])
    assert store.append("embeddings", rows) == 2
    assert len(raw("embeddings").actions("add")) == 2
    assert len(list((raw("embeddings").folder / "_delta_log").glob("*.json"))) == 2  # the table, and this


def test_the_same_key_in_two_partitions_is_two_rows(store, vector_rows):
    assert store.append("embeddings", vector_rows(["a"], np.ones((1, 3)), spec_id="s1")) == 1
    assert store.append("embeddings", vector_rows(["a"], np.ones((1, 3)), spec_id="s2")) == 1


@pytest.mark.parametrize("spec_id", [None, "", "a/b", "s=1", "ü", "a b"])
def test_a_partition_that_would_need_escaping_is_refused(store, vector_rows, spec_id):
    with pytest.raises(ValueError, match=r"partition spec_id=.*: letters, digits, '_', '-' and '\.' only"):
        store.append("embeddings", vector_rows(["a"], np.ones((1, 3)), spec_id=spec_id))


def _columns(file: Path) -> dict[str, pq.ColumnChunkMetaData]:
    group = pq.ParquetFile(file).metadata.row_group(0)
    return {group.column(k).path_in_schema.split(".")[0]: group.column(k) for k in range(group.num_columns)}


def test_files_are_zstd_and_floats_have_no_dictionary(store, raw, vector_rows):
    ids = [f"i{k}" for k in range(50)]
    store.append("embeddings", vector_rows(ids, np.zeros((50, 4), np.float32)))
    # The second file is what is left of an append after the stored rows were taken out.
    store.append("embeddings", vector_rows([*ids, "new1", "new2"], np.zeros((52, 4), np.float32)))
    assert len(raw("embeddings").files()) == 2
    for file in raw("embeddings").files():
        columns = _columns(file)
        assert {column.compression for column in columns.values()} == {"ZSTD"}
        assert "RLE_DICTIONARY" not in columns["embedding"].encodings
        assert "RLE_DICTIONARY" in columns["image_id"].encodings
        assert pq.ParquetFile(file).schema_arrow.field("embedding").type == pa.list_(pa.float32())


def test_row_groups_are_a_few_thousand_rows(store, raw, label_rows):
    store.append("labels", label_rows([f"i{k}" for k in range(9000)]))
    (file,) = raw("labels").files()
    metadata = pq.ParquetFile(file).metadata
    assert [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)] == [4096, 4096, 808]


def test_a_filtered_append_keeps_every_type(store, raw):
    when = datetime(2026, 1, 2, 3, 4, 5, 6)
    for ids in (["a"], ["a", "b"]):
        n = len(ids)
        rows = {"image_id": ids, "age": pa.array([40.5] * n), "bits": pa.array([8] * n), "ingested_at": [when] * n}
        store.append("images", pa.table(rows))
    assert len(raw("images").files()) == 2
    for file in raw("images").files():
        schema = pq.ParquetFile(file).schema_arrow
        assert schema.equals(TABLES["images"].schema)
        assert schema.field("ingested_at").type == pa.timestamp("us")
    assert {row["ingested_at"] for row in raw("images").rows()} == {when}


def test_timestamps_have_no_zone_in_sql_either(store):
    store.append("runs", pa.table({"run_id": ["r"], "started_at": [datetime(2026, 1, 2)]}))
    assert store.query("SELECT started_at FROM runs").schema.field(0).type == pa.timestamp("us")


SECRET = {"patient_id": "patient-SECRET", "uri": "/clinic/SECRET.png", "image_id": "idSECRET", "source_key": "kSECRET"}


def test_the_log_holds_no_values_of_any_row(store, raw):
    store.append("images", pa.table({column: [value] for column, value in SECRET.items()}))
    store.append("rejects", pa.table({"dataset": ["d"], "uri": [SECRET["uri"]], "stage": ["s"], "reason": ["SECRET"]}))
    for table in ("images", "rejects"):
        text = "".join(path.read_text() for path in (raw(table).folder / "_delta_log").glob("*.json"))
        assert "SECRET" not in text
        assert [json.loads(add["stats"]) for add in raw(table).actions("add")] == [{"numRecords": 1}]
        (metadata,) = raw(table).actions("metaData")
        assert metadata["configuration"]["delta.dataSkippingNumIndexedCols"] == "0"


@pytest.mark.parametrize("table", sorted(TABLES))
def test_every_table_has_statistics_off(store, raw, table):
    create_table(store.location, TABLES[table])
    (metadata,) = raw(table).actions("metaData")
    assert metadata["configuration"]["delta.dataSkippingNumIndexedCols"] == "0"
    assert metadata["partitionColumns"] == list(TABLES[table].partition_by)


def test_a_checkpoint_holds_no_values_either(store, raw):
    store.append("images", pa.table({column: [value] for column, value in SECRET.items()}))
    options = store.location.storage_options()
    DeltaTable(store.location.delta("images"), storage_options=options).create_checkpoint()
    (checkpoint,) = (raw("images").folder / "_delta_log").glob("*.checkpoint.parquet")
    text = str(pq.ParquetFile(checkpoint).read().to_pylist())
    assert raw("images").files()[0].name in text
    assert "SECRET" not in text
    assert store.query("SELECT image_id FROM images").to_pylist() == [{"image_id": SECRET["image_id"]}]


def test_a_table_that_was_made_and_never_filled_is_empty(store):
    for name, spec in TABLES.items():
        create_table(store.location, spec)
        assert store.query(f"SELECT count(*) AS n FROM {name}").to_pylist() == [{"n": 0}]


def test_a_table_that_many_make_at_once_is_made_once(new_root, raw_at):
    """Made in place, it failed for some, and others wrote a second first version."""
    for _ in range(8):
        store, start = Store(new_root()), Barrier(6)

        def create(_: int, location=store.location, start=start) -> int:
            start.wait()
            return create_table(location, TABLES["images"]).version()

        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(create, range(6))) == [0] * 6
        folder = raw_at(store, "images").folder
        assert [path.name for path in folder.iterdir()] == ["_delta_log"]
        (_, *others) = (folder / "_delta_log").glob("*.json")
        assert others == []


def test_making_a_table_twice_is_making_it_once(store, raw):
    for _ in range(2):
        create_table(store.location, TABLES["images"])
    assert len(raw("images").actions("metaData")) == 1


def test_versions_name_the_written_tables_only(store, label_rows):
    assert store.versions() == {}
    store.append("labels", label_rows(["a"]))
    store.append("labels", label_rows(["b"]))
    assert store.versions() == {"labels": 2}


def test_a_snapshot_does_not_see_later_commits(store, label_rows):
    store.append("labels", label_rows(["a"]))
    snapshot = store.snapshot("labels")
    connection = store.connect()
    store.append("labels", label_rows(["b"]))
    assert len(snapshot.paths()) == 1
    assert connection.sql("SELECT image_id FROM labels").fetchall() == [("a",)]
    assert store.query("SELECT count(*) AS n FROM labels").to_pylist() == [{"n": 2}]


def test_equal_content_under_two_ids_stays_two_rows(store, raw):
    store.append("images", pa.table({"image_id": ["a", "b"], "file_hash": ["h", "h"], "pixel_hash": ["p", "p"]}))
    assert sorted(row["image_id"] for row in raw("images").rows()) == ["a", "b"]


def test_the_class_documentation_runs():
    import doctest

    import featurestore.store.store as module

    failures, run = doctest.testmod(module)
    assert run
    assert not failures
    assert Store is module.Store
