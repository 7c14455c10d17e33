"""Which errors are told in a sentence as the store's, and which are bugs with a traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from featurestore.store import Store
from featurestore.store.location import Location
from jobs.cli.main import cxr as group

TOLD = "Error: the store or its disk: "


@pytest.fixture
def damaged(tmp_path: Path) -> Callable[[Callable[[Path], object]], Store]:
    """Return a function that makes a store with vectors and does something to their file."""

    def make(harm: Callable[[Path], object]) -> Store:
        store = Store(tmp_path / "store")
        vectors = pa.array(np.ones((3, 2), np.float32).tolist(), pa.list_(pa.float32()))
        ids = {"backbone": ["vgg16"] * 3, "spec_id": ["s1"] * 3, "image_id": ["a", "b", "c"]}
        store.append("embeddings", pa.table({**ids, "embedding": vectors}))
        store.append("specs", pa.table({"spec_id": ["s1"], "backbone": ["vgg16"], "n_features": [2]}))
        (file,) = store.snapshot("embeddings").files
        harm(tmp_path / "store" / "embeddings" / file.path)
        return store

    return make


@pytest.fixture
def run_as(cxr: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], Any]:
    """Return a function that lets `cxr` do something else."""

    def run(what: Callable[[], object]) -> Any:
        monkeypatch.setattr(group, "main", lambda *arguments, **options: what())
        return cxr("extract")

    return run


READS: list[Callable[[Store], object]] = [
    lambda store: store.matrix("vgg16"),
    lambda store: store.query("SELECT embedding FROM embeddings"),
    lambda store: store.connect().sql("SELECT * FROM vgg16").fetchall(),
]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("harm", [Path.unlink, _cut], ids=["gone", "cut"])
@pytest.mark.parametrize("read", READS, ids=["matrix", "query", "guarded"])
def test_a_damaged_file_is_the_stores(damaged: Any, run_as: Any, harm: Any, read: Callable[[Store], object]) -> None:
    store = damaged(harm)
    said = run_as(lambda: read(store))
    assert said.code == 1
    assert said.err.startswith(TOLD)
    assert ".parquet" in said.err


def test_a_damaged_log_is_the_stores(damaged: Any, run_as: Any) -> None:
    store = damaged(lambda path: None)
    (Path(store.uri) / "embeddings" / "_delta_log" / f"{1:020}.json").write_text("{")
    said = run_as(lambda: store.snapshot("embeddings"))
    assert (said.code, said.err.startswith(TOLD)) == (1, True)


def test_a_disk_that_takes_nothing_is_the_stores(tmp_path: Path, run_as: Any) -> None:
    (tmp_path / "file").write_text("")
    said = run_as(lambda: Location(str(tmp_path / "file")).write_bytes("x", b"y"))
    assert (said.code, said.err.startswith(TOLD)) == (1, True)


def test_a_full_disk_elsewhere_is_told_and_not_the_stores(run_as: Any) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device", "/tmp/report.html")

    said = run_as(fail)
    assert said.code == 1
    assert said.err == (
        "Error: a file outside the store, or its disk: OSError: [Errno 28] No space left on device: "
        "'/tmp/report.html'\n"
    )


def _sql(text: str) -> None:
    duckdb.connect().execute(text)


BUGS: dict[str, tuple[type[Exception], Callable[[], object]]] = {
    "a file of ours": (FileNotFoundError, lambda: Path("/nowhere/at/all").read_text()),
    "a network": (ConnectionRefusedError, lambda: (_ for _ in ()).throw(ConnectionRefusedError("ray"))),
    "wrong SQL": (duckdb.Error, lambda: _sql("SELECT nothing FROM nowhere")),
    "a parameter": (duckdb.Error, lambda: _sql("SELECT ?")),
    "a wrong cast": (pa.ArrowInvalid, lambda: pa.array(["a"]).cast(pa.int64())),
}


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_is_not_blamed_on_the_store(run_as: Any, name: str) -> None:
    error, bug = BUGS[name]
    with pytest.raises(error):
        run_as(bug)
