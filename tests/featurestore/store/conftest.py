"""What the store's tests need to look past the store: Delta's log as JSON, Parquet by plain pyarrow."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.store import Store


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


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return an empty store at a path that tempts every layer to quote it wrongly."""
    return Store(tmp_path / "a store's 100% größe")


@pytest.fixture
def raw(store: Store) -> Callable[[str], Raw]:
    """Return a function from a table's name to its raw folder."""
    return lambda table: Raw(Path(store.uri) / table)


@pytest.fixture(scope="session")
def raw_at() -> Callable[[Store, str], Raw]:
    """Return a function from any store and a table's name to its raw folder."""
    return lambda store, table: Raw(Path(store.uri) / table)


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
