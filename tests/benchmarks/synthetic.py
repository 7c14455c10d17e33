"""Stores for the benchmarks: vectors of a real size, and a million keys in 27,000 files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from featurestore.store import Store
from featurestore.store.checksums import checked_name
from featurestore.store.commit import Committer
from featurestore.store.files import StagedFile, conform, writer_properties
from featurestore.store.schema import TABLES

BACKBONE, SPEC = "densenet121", "sbench"
SPECS = tuple((f"network{k}", f"s{k}") for k in range(7))
SHARD = 256
"""Images of a shard, and so rows of a file before compaction."""
DATASET = "bench"
_IMAGES_A_FILE = 50_000
_FILES_A_COMMIT = 7_000


def image_ids(start: int, stop: int) -> list[str]:
    """Return ids as ingest makes them: 64 hex digits without order."""
    return [hashlib.sha256(f"{DATASET}/{k}".encode()).hexdigest() for k in range(start, stop)]


def vectors(rows: int, n_features: int, seed: int) -> NDArray[np.float32]:
    """Return float32 of shape ``(rows, n_features)``, positive as pooled features are; they hardly compress."""
    draws = np.random.default_rng(seed).standard_normal((rows, n_features), dtype=np.float32)
    return np.abs(draws) * np.float32(0.1)


def embedding_rows(start: int, X: NDArray[np.float32]) -> pa.Table:
    """Return rows of `embeddings` for the images from ``start`` on."""
    rows, n_features = X.shape
    offsets = pa.array(np.arange(0, (rows + 1) * n_features, n_features, dtype=np.int32))
    constant = {"backbone": BACKBONE, "spec_id": SPEC, "run_id": "bench", "runtime": "eager"}
    columns = {name: pa.repeat(value, rows) for name, value in constant.items()}
    columns["image_id"] = pa.array(image_ids(start, start + rows))
    columns["embedding"] = pa.ListArray.from_arrays(offsets, pa.array(X.ravel()))
    return conform(pa.table(columns), TABLES["embeddings"])


def register(store: Store, specs: tuple[tuple[str, str], ...], n_features: int) -> None:
    """Write the rows of `specs` that views and matrices need."""
    backbones, spec_ids = zip(*specs, strict=True)
    lengths = pa.array([n_features] * len(specs), pa.int32())
    store.append("specs", pa.table({"backbone": backbones, "spec_id": spec_ids, "n_features": lengths}))


@dataclass(frozen=True)
class Keys:
    """How many keys a store has, and how many of them wait.

    Parameters
    ----------
    images : int
    files : int
        Of `embeddings`, uncompacted.
    pending : int
        Pairs that no file holds.
    """

    images: int
    files: int
    pending: int


def write_keys(root: Path, images: int) -> Keys:
    """Make a store of ``images`` x 7 specs as an interrupted extraction leaves it: a small file a shard and spec.

    The vectors have one number: a plan reads keys, and 27,000 files of real vectors would be 30 GB. The seventh spec
    lacks the last hundredth of its shards.
    """
    store = Store(root)
    _write_images(store, images)
    register(store, SPECS, 1)
    shards = [(start, min(start + SHARD, images)) for start in range(0, images, SHARD)]
    short = len(shards) - max(1, len(shards) // 100)
    staged = list(_stage_shards(store, shards, short))
    committer = Committer(store.location, TABLES["embeddings"])
    for first in range(0, len(staged), _FILES_A_COMMIT):
        committer.commit(staged[first : first + _FILES_A_COMMIT])
    return Keys(images, len(staged), images - shards[short][0])


def _write_images(store: Store, images: int) -> None:
    spec = TABLES["images"]
    for start in range(0, images, _IMAGES_A_FILE):
        ids = image_ids(start, min(start + _IMAGES_A_FILE, images))
        keys = [f"patient{k // 4:06d}/study{k % 4}/view1_frontal.jpg" for k in range(start, start + len(ids))]
        columns = {
            "image_id": ids,
            "dataset": pa.repeat(DATASET, len(ids)),
            "source_key": keys,
            "uri": [f"/data/{DATASET}/{key}" for key in keys],
            "file_hash": [text[::-1] for text in ids],
            "pixel_hash": [text[32:] + text[:32] for text in ids],
            "patient_id": [key[:13] for key in keys],
        }
        _commit(store, "images", _encode(conform(pa.table(columns), spec)), len(ids))


def _stage_shards(store: Store, shards: list[tuple[int, int]], short: int) -> Iterator[StagedFile]:
    for number, (start, stop) in enumerate(shards):
        rows = embedding_rows(start, np.zeros((stop - start, 1), np.float32)).drop_columns(["backbone", "spec_id"])
        content = _encode(rows)
        for backbone, spec_id in SPECS if number < short else SPECS[:-1]:
            yield _write(store, content, stop - start, {"backbone": backbone, "spec_id": spec_id})


def _encode(rows: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, **writer_properties(rows.schema))
    return sink.getvalue()


def _write(store: Store, content: pa.Buffer, rows: int, partition: dict[str, str]) -> StagedFile:
    folder = "".join(f"{column}={value}/" for column, value in partition.items())
    path = f"{folder}{checked_name(content)}"
    target = Path(store.uri) / "embeddings" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return StagedFile(path, content.size, rows, partition)


def _commit(store: Store, table: str, content: pa.Buffer, rows: int) -> None:
    path = checked_name(content)
    folder = Path(store.uri) / table
    folder.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(content)
    Committer(store.location, TABLES[table], [f.path for f in store.snapshot(table).files]).commit(
        [StagedFile(path, content.size, rows)]
    )
