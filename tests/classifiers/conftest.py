"""A small real store: planted findings in random vectors, patients of one to three images, two backbones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from featurestore.store import Store

SIZES = {"vgg16": 8, "xception": 12}
LABELS = ("Edema", "Fracture", "Aaa Rare", "Pneumonia")


@dataclass(frozen=True)
class Planted:
    """A store and what was put into it."""

    store: Store
    ids: list[str]
    patients: list[str]
    values: dict[str, list[int | None]]
    vectors: dict[str, np.ndarray]
    specs: dict[str, tuple[str, str]]

    def embed(self, backbone: str, spec_id: str, X: np.ndarray) -> None:
        """Store the vectors of all images under a new spec."""
        size = pa.array([X.shape[1]], pa.int32())
        self.store.append("specs", pa.table({"spec_id": [spec_id], "backbone": [backbone], "n_features": size}))
        n = len(self.ids)
        rows = {"backbone": [backbone] * n, "spec_id": [spec_id] * n, "image_id": self.ids, "run_id": ["run1"] * n}
        vectors = pa.array(list(X), pa.list_(pa.float32()))
        self.store.append("embeddings", pa.table({**rows, "embedding": vectors}))


def _rows(kind: str, ids: list[str], dataset: str, **columns: Any) -> pa.Table:
    return pa.table({"image_id": ids, "dataset": [dataset] * len(ids), **columns})


def plant(
    root: Path,
    *,
    patients: int = 90,
    seed: int = 0,
    dataset: str = "demo",
    images: dict[str, list[Any]] | None = None,
    uncertain: bool = False,
) -> Planted:
    """Fill a store; ``images`` replaces columns of the images table."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    n = len(owner)
    ids = [f"i{k:04d}" for k in range(n)]
    sick = rng.random((patients, 3)) < (0.4, 0.3, 0.05)
    truth = (sick[owner] & (rng.random((n, 3)) < 0.9)).astype(int)
    values: dict[str, list[int | None]] = {label: truth[:, k].tolist() for k, label in enumerate(LABELS[:3])}
    values["Pneumonia"] = [None] * n
    if uncertain:
        values["Edema"] = [-1 if k % 7 == 0 else value for k, value in enumerate(values["Edema"])]
        values["Fracture"] = [None if k % 5 == 0 else value for k, value in enumerate(values["Fracture"])]
    store = Store(root)
    columns: dict[str, list[Any]] = {
        "patient_id": [f"p{k}" for k in owner],
        "view": ["PA"] * n,
        "official_part": [None] * n,
    }
    columns |= images or {}
    store.append("images", _rows("images", ids, dataset, **{k: pa.array(v, pa.string()) for k, v in columns.items()}))
    store.append(
        "labels",
        _rows(
            "labels",
            ids * len(LABELS),
            dataset,
            label=[label for label in LABELS for _ in ids],
            value=pa.array([value for label in LABELS for value in values[label]], pa.int8()),
        ),
    )
    planted = Planted(store, ids, columns["patient_id"], values, {}, {})
    for backbone, size in SIZES.items():
        X = rng.normal(size=(n, size)).astype(np.float32)
        X[:, :3] += truth * np.float32(1.2)
        planted.vectors[backbone], planted.specs[backbone] = X, (f"s{backbone}", "random:7")
        planted.embed(backbone, f"s{backbone}", X)
    return planted


@pytest.fixture(scope="session")
def plant_at() -> Callable[..., Planted]:
    """Return the function that fills a store at a path."""
    return plant


@pytest.fixture
def planter(tmp_path: Path) -> Callable[..., Planted]:
    """Return a function that fills a new store under tmp_path."""
    return lambda **options: plant(tmp_path / "store", **options)


@pytest.fixture
def planted(planter: Callable[..., Planted]) -> Planted:
    """Return a filled store of one's own."""
    return planter()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Return a filled store that tests only read."""
    return plant(tmp_path_factory.mktemp("shared"))
