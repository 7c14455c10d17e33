"""What the store's tests need to look past the store: Delta's log as JSON, Parquet by plain pyarrow."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.store import Store
from featurestore.store.files import StagedFile, conform, stage
from featurestore.store.schema import TABLES


@dataclass(frozen=True)
class Raw:
    """A table's folder, read without any code of the store and without deltalake."""

    folder: Path

    def log(self) -> list[dict[str, Any]]:
        """Return all actions of all commits, oldest first."""
        commits = sorted((self.folder / "_delta_log").glob("*.json"))
        return [json.loads(line) for commit in commits for line in commit.read_text().splitlines()]

    def actions(self, kind: str) -> list[dict[str, Any]]:
        """Return the actions of one kind, such as ``add`` or ``txn``."""
        return [action[kind] for action in self.log() if kind in action]

    def files(self) -> list[Path]:
        """Return the live files: added, not removed."""
        removed = {action["path"] for action in self.actions("remove")}
        return [self.folder / a["path"] for a in self.actions("add") if a["path"] not in removed]

    def rows(self) -> list[dict[str, Any]]:
        """Return all live rows, with their partition's values."""
        rows: list[dict[str, Any]] = []
        for action in self.actions("add"):
            table = pq.ParquetFile(self.folder / action["path"]).read()
            rows += [row | action["partitionValues"] for row in table.to_pylist()]
        return rows


TEMPTING = "a store's 100% größe"
"""A name that tempts every layer to quote it wrongly."""


@pytest.fixture(scope="session", params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def new_root(request, tmp_path_factory) -> Callable[[], str]:
    """Return a function that makes up a place for a store: what uses it runs on a folder and on S3."""
    if request.param == "local":
        return lambda: str(tmp_path_factory.mktemp("store") / TEMPTING)
    bucket = request.getfixturevalue("s3_bucket")
    return lambda: f"s3://{bucket}/{uuid.uuid4().hex}/x=1/{TEMPTING}"


@pytest.fixture
def root(new_root: Callable[[], str]) -> str:
    """Return a place for a store, local and on S3."""
    return new_root()


@pytest.fixture
def s3_root(s3_bucket: str) -> str:
    """Return a prefix of its own, for what only S3 has."""
    return f"s3://{s3_bucket}/{uuid.uuid4().hex}"


@pytest.fixture
def store(root: str) -> Store:
    """Return an empty store, local and on S3."""
    return Store(root)


@pytest.fixture(scope="session")
def folder_of(request, tmp_path_factory) -> Callable[[Store], Path]:
    """Return a function from a store to a local folder with its files of this moment.

    Objects on S3 are fetched anew at each call, by a client that is not ours; where there are none there is no folder.
    """

    def look(store: Store) -> Path:
        if not store.uri.startswith("s3://"):
            return Path(store.uri)
        bucket, _, prefix = store.uri.removeprefix("s3://").partition("/")
        folder = tmp_path_factory.getbasetemp() / "mirror" / hashlib.sha256(store.uri.encode()).hexdigest()[:16]
        shutil.rmtree(folder, ignore_errors=True)
        client = request.getfixturevalue("s3_client")
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
            for item in page.get("Contents", []):
                target = folder / item["Key"].removeprefix(f"{prefix}/")
                target.parent.mkdir(parents=True, exist_ok=True)
                client.download_file(bucket, item["Key"], str(target))
        return folder

    return look


@pytest.fixture
def raw(store: Store, raw_at: Callable[[Store, str], Raw]) -> Callable[[str], Raw]:
    """Return a function from a table's name to its raw folder."""
    return lambda table: raw_at(store, table)


@pytest.fixture(scope="session")
def raw_at(folder_of: Callable[[Store], Path]) -> Callable[[Store, str], Raw]:
    """Return a function from any store and a table's name to its raw folder."""
    return lambda store, table: Raw(folder_of(store) / table)


@pytest.fixture(scope="session")
def label_rows() -> Callable[..., pa.Table]:
    """Return a function that makes rows of `labels`, one an image."""

    def make(ids: list[str], label: str = "Edema", value: int | None = 1) -> pa.Table:
        n = len(ids)
        values = pa.array([value] * n, pa.int8())
        return pa.table({"image_id": ids, "dataset": ["demo"] * n, "label": [label] * n, "value": values})

    return make


@pytest.fixture(scope="session")
def vector_rows() -> Callable[..., pa.Table]:
    """Return a function that makes rows of `embeddings` from ids and an array of shape (n, features)."""

    def make(ids: list[str], X: np.ndarray, *, backbone: str = "vgg16", spec_id: str = "s1") -> pa.Table:
        n = len(ids)
        vectors = pa.array(list(X), pa.list_(pa.float32()))
        return pa.table(
            {
                "backbone": pa.array([backbone] * n, pa.string()),
                "spec_id": pa.array([spec_id] * n, pa.string()),
                "image_id": pa.array(ids, pa.string()),
                "run_id": pa.array(["run1"] * n, pa.string()),
                "embedding": vectors,
            }
        )

    return make


@pytest.fixture(scope="session")
def spec_row() -> Callable[[str, str, int], pa.Table]:
    """Return a function that makes a row of `specs`."""

    def make(backbone: str, spec_id: str, n_features: int) -> pa.Table:
        return pa.table(
            {"backbone": [backbone], "spec_id": [spec_id], "n_features": pa.array([n_features], pa.int32())}
        )

    return make


@pytest.fixture(scope="session")
def checksums() -> Callable[[Path], dict[str, str]]:
    """Return a function from a folder to the SHA-256 of every file below it."""

    def read(folder: Path) -> dict[str, str]:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return read


@pytest.fixture(scope="session")
def python() -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts code in another interpreter, with arguments."""

    def start(code: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


@pytest.fixture
def staged(store, vector_rows) -> Callable[..., list[StagedFile]]:
    """Return a function that stages vectors for a range of image numbers."""

    def make(numbers: range, spec_id: str = "s1") -> list[StagedFile]:
        X = np.full((len(numbers), 3), numbers.start, np.float32)
        rows = vector_rows([f"i{k:03d}" for k in numbers], X, spec_id=spec_id)
        return stage(store.location, TABLES["embeddings"], conform(rows, TABLES["embeddings"]))

    return make
