"""The guarded views take vectors of fixed length from Arrow: the same rows as DuckDB's own reader gives."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from featurestore.store import Store

IDS = [f"{k:03d}" for k in range(50)]


@pytest.fixture(scope="module")
def filled(new_root, vector_rows, spec_row) -> Store:
    """Return a store of three files; in the second some vectors are null."""
    store = Store(new_root())
    store.append("images", pa.table({"image_id": IDS}))
    store.append("specs", spec_row("vgg16", "s1", 4))
    X = np.random.default_rng(0).standard_normal((len(IDS), 4)).astype(np.float32)
    for start, stop in ((0, 10), (10, 30), (30, 50)):
        rows = vector_rows(IDS[start:stop], X[start:stop])
        if start == 10:
            some = [None if k % 3 == 0 else row for k, row in enumerate(rows["embedding"].to_pylist())]
            rows = rows.set_column(
                rows.column_names.index("embedding"), "embedding", pa.array(some, pa.list_(pa.float32()))
            )
        store.append("embeddings", rows)
    return store


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM vgg16 ORDER BY image_id",
        "SELECT image_id, embedding[2] FROM vgg16 WHERE image_id > '025' ORDER BY ALL",
        "SELECT embedding FROM vgg16 WHERE image_id = '011'",
        "SELECT count(*), count(embedding), count(DISTINCT spec_id) FROM vgg16",
        "SELECT image_id FROM vgg16 WHERE embedding IS NULL ORDER BY ALL",
        "SELECT array_cosine_similarity(embedding, [1, 2, 3, 4]::FLOAT[4]) FROM vgg16 ORDER BY image_id",
        "SELECT a.image_id, b.embedding FROM vgg16 a JOIN embeddings b USING (image_id) ORDER BY ALL LIMIT 7",
    ],
)
def test_both_ways_of_reading_give_the_same_rows(filled, query):
    with filled.connect() as guarded, filled.connect(guarded=False) as plain:
        rows = guarded.sql(query).fetchall()
        assert rows == plain.sql(query).fetchall()
        assert len(rows) > 0


def test_a_vector_of_another_length_is_an_error_of_those_who_read_it(filled, vector_rows, tmp_path, spec_row):
    store = Store(tmp_path / "store")
    store.append("specs", spec_row("vgg16", "s1", 4))
    store.append("images", pa.table({"image_id": ["a", "b"]}))
    store.append("embeddings", vector_rows(["a"], np.ones((1, 4), np.float32)))
    store.append("embeddings", vector_rows(["b"], np.ones((1, 3), np.float32)))
    with store.connect() as con:
        assert con.sql("SELECT image_id FROM vgg16 ORDER BY ALL").fetchall() == [("a",), ("b",)]
        with pytest.raises(duckdb.Error, match=r"expected size"):
            con.sql("SELECT embedding FROM vgg16").fetchall()
