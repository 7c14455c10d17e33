"""What holds for any rows at all."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.store import Store

pytestmark = pytest.mark.slow  # hundreds of stores

ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
KEY = ("dataset", "uri", "stage", "reason", "spec_id")
FEW = st.sampled_from(["a", "b", "'", ""])
REJECT = st.fixed_dictionaries(
    {
        "dataset": FEW,
        "uri": FEW | ANY_TEXT,
        "stage": st.none() | FEW,
        "reason": st.none() | FEW,
        "spec_id": st.none() | FEW,
        "retryable": st.none() | st.booleans(),
    }
)
VECTORS = st.dictionaries(ANY_TEXT, st.lists(st.floats(width=32), min_size=3, max_size=3), min_size=1, max_size=6)


@contextmanager
def fresh_store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        yield Store(Path(folder) / "store")


def _key(row: dict) -> tuple:
    return tuple(row[column] for column in KEY)


def _table(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, pa.schema([*((c, pa.string()) for c in KEY), ("retryable", pa.bool_())]))


@settings(max_examples=25, deadline=None)
@given(batches=st.lists(st.lists(REJECT, min_size=1, max_size=6), min_size=1, max_size=4))
def test_any_appends_leave_the_first_row_of_each_key(raw_at, batches):
    expected: dict[tuple, bool | None] = {}
    with fresh_store() as store:
        for batch in batches:
            before = len(expected)
            for row in batch:
                expected.setdefault(_key(row), row["retryable"])
            assert store.append("rejects", _table(batch)) == len(expected) - before
        for rows in (raw_at(store, "rejects").rows(), store.query("SELECT * FROM rejects").to_pylist()):
            assert len(rows) == len(expected)
            assert {_key(row): row["retryable"] for row in rows} == expected


@settings(max_examples=25, deadline=None)
@given(batch=st.lists(REJECT, min_size=1, max_size=6))
def test_appending_twice_is_appending_once(raw_at, batch):
    with fresh_store() as store:
        store.append("rejects", _table(batch))
        before = raw_at(store, "rejects").log()
        assert store.append("rejects", _table(batch)) == 0
        assert raw_at(store, "rejects").log() == before


@settings(max_examples=25, deadline=None)
@given(vectors=VECTORS)
def test_vectors_come_back_bit_for_bit_by_every_way(raw_at, vector_rows, spec_row, vectors):
    ids = list(vectors)
    X = np.array(list(vectors.values()), np.float32)
    with fresh_store() as store:
        store.append("specs", spec_row("vgg16", "s1", 3))
        store.append("embeddings", vector_rows(ids, X))
        found, Y = store.matrix("vgg16", ids)
        assert (found, Y.dtype) == (ids, np.float32)
        np.testing.assert_array_equal(Y.view(np.uint32), X.view(np.uint32))
        with store.connect() as con:
            by_sql = dict(con.sql("SELECT image_id, embedding FROM vgg16").fetchall())
        by_file = {row["image_id"]: row["embedding"] for row in raw_at(store, "embeddings").rows()}
        for image, x in zip(ids, X.tolist(), strict=True):
            np.testing.assert_array_equal(by_sql[image], x)
            np.testing.assert_array_equal(by_file[image], x)


@settings(max_examples=15, deadline=None)
@given(ids=st.lists(ANY_TEXT, unique=True, min_size=2, max_size=6), content=ANY_TEXT)
def test_equal_content_under_several_ids_is_kept_as_often(raw_at, ids, content):
    with fresh_store() as store:
        n = len(ids)
        columns = {"image_id": ids, "file_hash": [content] * n, "pixel_hash": [content] * n}
        store.append("images", pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}))
        rows = raw_at(store, "images").rows()
        assert sorted(row["image_id"] for row in rows) == sorted(ids)
        assert {row["pixel_hash"] for row in rows} == {content}


N = 60


@pytest.fixture(scope="module")
def filled(tmp_path_factory, vector_rows, spec_row) -> tuple[Store, dict[str, list[float]]]:
    """Return a store with vectors in many files, in no order, beside another spec's; and the vectors."""
    store = Store(tmp_path_factory.mktemp("matrix") / "store")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, 5)).astype(np.float32)
    ids = [f"i{k}" for k in rng.permutation(N)]
    store.append("specs", spec_row("vgg16", "s1", 5))
    store.append("specs", spec_row("xception", "s2", 5))
    for first in range(0, N, 7):
        part = slice(first, first + 7)
        store.append("embeddings", vector_rows(ids[part], X[part]))
        store.append("embeddings", vector_rows(ids[part], X[part] + 100, backbone="xception", spec_id="s2"))
    return store, dict(zip(ids, X.tolist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(numbers=st.lists(st.integers(0, N - 1), max_size=2 * N))
def test_a_matrix_is_in_the_order_asked_for_with_repetitions(filled, numbers):
    store, vectors = filled
    ids = [f"i{k}" for k in numbers]
    found, X = store.matrix("vgg16", ids)
    assert found == ids
    assert X.shape == (len(ids), 5)
    np.testing.assert_array_equal(X, np.array([vectors[i] for i in ids], np.float32).reshape(-1, 5))


def test_a_matrix_without_ids_is_all_of_them_sorted(filled):
    store, vectors = filled
    ids, X = store.matrix("s1")
    assert ids == sorted(vectors)
    assert X.dtype == np.float32
    np.testing.assert_array_equal(X, np.array([vectors[i] for i in ids], np.float32))
    assert not any(math.isnan(x) for x in X.ravel())
