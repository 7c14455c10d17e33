"""A small store of phantoms that many tests read, and copies of it for those that write."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from featurestore.images.sources.labels import CHEXPERT_LABELS
from featurestore.store import Store
from jobs.cli.main import run
from jobs.ingest import IngestRequest, ingest


@dataclass(frozen=True)
class Said:
    """What one call of `cxr` answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Return the one document on stdout; anything else there fails."""
        return json.loads(self.out)


def _cxr(*arguments: object) -> Said:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = run([str(argument) for argument in arguments])
    return Said(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def cxr() -> Callable[..., Said]:
    """Return a function that runs `cxr` in this process."""
    return _cxr


@dataclass(frozen=True)
class Walked:
    """A store that went through every command once, and what each answered."""

    store: Path
    csv: Path
    report: Path
    said: dict[str, Said]


@pytest.fixture(scope="session")
def walked(tmp_path_factory: pytest.TempPathFactory, phantom_folder: Path) -> Walked:
    """Run ingest, plan, extract, split, train, evaluate and report on a dozen patients; tests only read this store."""
    root = tmp_path_factory.mktemp("walked")
    store, csv, report = root / "store", phantom_folder / "phantom.csv", root / "report.html"
    networks = ("--backbones", "densenet121", "--weights", "random:0", "--size", "32", "--no-ray")
    columns = ("--image-column", "path", "--patient-column", "patient", "--labels", ",".join(CHEXPERT_LABELS))
    rois = ("--rois", phantom_folder / "rois.json")
    commands: dict[str, tuple[object, ...]] = {
        "ingest": ("ingest", "csv", csv, "--dataset", "local", *columns, *rois),
        "plan": ("plan", "--dataset", "local", *networks),
        "extract": ("extract", "--dataset", "local", *networks),
        "split": ("split", "--dataset", "local", "--name", "half", "--test", "0.4", "--val", "0.1"),
        "train": ("train", "--dataset", "local", "--split", "half", "--heads", "rf100"),
        "evaluate": ("evaluate", "--dataset", "local", "--split", "half"),
        "report": ("report", "--out", report),
    }
    said = {name: _cxr(*arguments, "--store", store, "--json") for name, arguments in commands.items()}
    return Walked(store, csv, report, said)


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
