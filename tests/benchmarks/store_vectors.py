"""Appending, reading and comparing 100,000 vectors of 1,024 numbers, ours and by hand."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import WriterProperties, write_deltalake
from numpy.typing import NDArray

import featurestore
from featurestore.store import Store
from featurestore.store.files import writer_properties
from featurestore.store.vector_cache import open_vectors
from jobs.sql import run_query
from tests.benchmarks.interleaved import Timed, interleave
from tests.benchmarks.synthetic import BACKBONE, SPEC, embedding_rows, image_ids, register, vectors
from tests.benchmarks.table import print_table

N_FEATURES = 1024
PARTS = 10
TOP = 10


def _parts(images: int) -> list[pa.Table]:
    rows = images // PARTS
    return [embedding_rows(k * rows, vectors(rows, N_FEATURES, seed=k)) for k in range(PARTS)]


def write_vectors(root: Path, images: int) -> Store:
    """Make a store of ``images`` vectors in ten files, as compaction leaves them."""
    store = Store(root)
    store.append("images", pa.table({"image_id": image_ids(0, images), "dataset": pa.repeat("bench", images)}))
    register(store, ((BACKBONE, SPEC),), N_FEATURES)
    for part in _parts(images):
        store.append("embeddings", part)
    return store


def bench_append(folder: Path, images: int, repeats: int) -> dict[str, float]:
    """Write the same ten tables: with keys compared, checksums and leases; as Delta; as bare Parquet files."""
    parts, number = _parts(images), itertools.count()

    def fresh() -> Path:
        for old in folder.glob("append-*"):
            shutil.rmtree(old)
        target = folder / f"append-{next(number)}"
        target.mkdir()
        return target

    def ours() -> None:
        store = Store(fresh())
        for part in parts:
            store.append("embeddings", part)

    def delta() -> None:
        target = fresh()
        how = WriterProperties(compression="ZSTD", compression_level=1, max_row_group_size=4096)
        for part in parts:
            write_deltalake(target, part, mode="append", partition_by=["backbone", "spec_id"], writer_properties=how)

    def parquet() -> None:
        target = fresh()
        for k, part in enumerate(parts):
            rows = part.drop_columns(["backbone", "spec_id"])
            pq.write_table(rows, target / f"{k}.parquet", **writer_properties(rows.schema))

    timed = interleave({"Store.append": ours, "write_deltalake": delta, "pyarrow write_table": parquet}, repeats)
    shutil.rmtree(fresh())
    print_table(f"Append {images} x {N_FEATURES} in {PARTS} parts", timed.rows("pyarrow write_table"))
    return {
        "append_over_deltalake": timed.ratio("write_deltalake", "Store.append"),
        "append_over_pyarrow": timed.ratio("pyarrow write_table", "Store.append"),
        "append_s": timed.median("Store.append"),
    }


def bench_matrix(store: Store, repeats: int) -> dict[str, float]:
    """Read all vectors into one array, in the order of their ids."""
    paths = store.snapshot("embeddings").paths()

    def ours() -> tuple[list[str], NDArray[np.float32]]:
        return store.matrix(BACKBONE)

    def plain() -> tuple[list[str], NDArray[np.float32]]:
        table = pq.read_table(paths, columns=["image_id", "embedding"], partitioning=None)
        order = pc.array_sort_indices(table["image_id"])
        X = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, N_FEATURES)
        return table["image_id"].take(order).to_pylist(), X[order.to_numpy()]

    mine, theirs = ours(), plain()
    assert mine[0] == theirs[0]
    assert np.array_equal(mine[1], theirs[1])
    images = len(mine[0])
    del mine, theirs
    timed = interleave({"Store.matrix": ours, "pyarrow.parquet": plain}, repeats)
    print_table(f"Matrix of {images} x {N_FEATURES}, float32, sorted by id", timed.rows("pyarrow.parquet"))
    return {
        "matrix_over_pyarrow": timed.ratio("pyarrow.parquet", "Store.matrix"),
        "matrix_s": timed.median("Store.matrix"),
    }


_COSINE = """
SELECT image_id, array_cosine_similarity({vector}, {question}::FLOAT[1024]) AS similarity FROM {source}
ORDER BY similarity DESC, image_id LIMIT 11
"""
_PLAIN = "read_parquet($paths, hive_partitioning=true, hive_types={'backbone': VARCHAR, 'spec_id': VARCHAR})"
_AS_LIST = _COSINE.replace("array_cosine_similarity", "list_cosine_similarity").replace("FLOAT[1024]", "FLOAT[]")


def bench_cosine(store: Store, repeats: int) -> dict[str, float]:
    """Find the ten nearest to one image, by SQL over Parquet and through the cache.

    The image itself is the first of eleven, but not in the cache, which leaves it out.
    """
    image_id = image_ids(7, 8)[0]
    question = str(store.matrix(BACKBONE, [image_id])[1][0].tolist())
    paths = store.snapshot("embeddings").paths()
    query = _COSINE.format(vector="embedding", question=question, source=BACKBONE)
    by_hand = _COSINE.format(vector="embedding::FLOAT[1024]", question=question, source=_PLAIN)
    as_list = _AS_LIST.format(vector="embedding", question=question, source=_PLAIN)

    def similar() -> Sequence[Any]:
        with open_vectors(store, BACKBONE) as cache:
            return _ids(cache.nearest(image_id, TOP))

    with duckdb.connect() as plain, featurestore.connect(store.uri) as ours, open_vectors(store, BACKBONE) as cache:
        arms = {
            "plain DuckDB": lambda: _first(plain.execute(by_hand, {"paths": paths}).fetchall()),
            "plain DuckDB, list_cosine_similarity": lambda: _first(plain.execute(as_list, {"paths": paths}).fetchall()),
            "featurestore.connect": lambda: _first(ours.execute(query).fetchall()),
            "cxr sql, all but the interpreter": lambda: _ids(run_query(store.uri, query, None))[1:],
            "cache, open": lambda: _ids(cache.nearest(image_id, TOP)),
            "cache, opened for it": similar,
        }
        answers = {name: arm() for name, arm in arms.items()}
        assert all(answer == answers["plain DuckDB"] for answer in answers.values()), answers
        timed = interleave(arms, repeats)
    print_table(f"The {TOP} nearest of {_rows(store)} by cosine", timed.rows("plain DuckDB"))
    return _cosine_figures(timed)


def _cosine_figures(timed: Timed) -> dict[str, float]:
    sql, guarded = "cxr sql, all but the interpreter", "featurestore.connect"
    return {
        "cosine_sql_over_duckdb": timed.ratio(sql, "plain DuckDB"),
        "cosine_connect_over_duckdb": timed.ratio(guarded, "plain DuckDB"),
        "cosine_sql_over_duckdb_list": timed.ratio(sql, "plain DuckDB, list_cosine_similarity"),
        "cosine_cached_over_sql": timed.ratio(guarded, "cache, open"),
        "cosine_similar_over_cxr_sql": timed.ratio(sql, "cache, opened for it"),
        "cosine_sql_s": timed.median(sql),
        "cosine_cached_s": timed.median("cache, open"),
    }


def _rows(store: Store) -> int:
    return sum(file.rows for file in store.snapshot("embeddings").files)


def _first(rows: Sequence[tuple[Any, ...]]) -> list[str]:
    return [row[0] for row in rows][1:]


def _ids(rows: pa.Table) -> list[str]:
    ids: list[str] = rows["image_id"].to_pylist()
    return ids
