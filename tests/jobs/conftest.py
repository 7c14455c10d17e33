"""A small store of phantoms that many tests read, and copies of it for those that write."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from featurestore.store import Store
from jobs.ingest import IngestRequest, ingest


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a dozen patients' small phantoms."""
    from featurestore.images.phantoms import write_phantoms

    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, patients=12, seed=1, hospital="a", fmt="png", size=64)
    return folder


@pytest.fixture(scope="session")
def _ingested(tmp_path_factory: pytest.TempPathFactory, phantom_folder: Path) -> Path:
    root = tmp_path_factory.mktemp("ingested") / "store"
    request = IngestRequest("csv", phantom_folder / "phantom.csv", dataset="demo", image_column="path", labels="Edema")
    ingest(Store(root), request)
    return root


@pytest.fixture
def ingested(tmp_path: Path, _ingested: Path) -> Store:
    """Return a store of one's own that holds the data set ``demo``."""
    shutil.copytree(_ingested, tmp_path / "store")
    return Store(tmp_path / "store")
