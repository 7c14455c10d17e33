"""Similarity through the disposable copy: as NumPy says it, never from a stale copy, and gone when somebody is."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from featurestore.errors import HarmError, UsageError
from featurestore.store import Store, vector_cache
from featurestore.store.cache_files import CACHES, local_cache
from featurestore.store.finding import FoundImage
from featurestore.store.forgetting import Forgotten, forget
from featurestore.store.vector_cache import open_vectors

pytestmark = pytest.mark.slow  # writes copies of vectors

N_FEATURES = 8
IDS = [f"{k:064x}" for k in range(40)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_CACHE", str(tmp_path / "user's cache"))


def _vectors(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, N_FEATURES)).astype(np.float32)


@pytest.fixture
def filled(store, spec_row, vector_rows) -> Store:
    """Return a store with 40 vectors of one spec in two files; one is all zeros, two are equal."""
    X = _vectors(len(IDS))
    X[3] = 0
    X[5] = X[4]
    store.append("images", pa.table({"image_id": IDS, "dataset": ["demo"] * len(IDS)}))
    store.append("specs", spec_row("vgg16", "s1", N_FEATURES))
    store.append("embeddings", vector_rows(IDS[:25], X[:25]))
    store.append("embeddings", vector_rows(IDS[25:], X[25:]))
    return store


def _nearest(store: Store, image_id: str, k: int = 100, name: str = "vgg16") -> list[tuple[str, float]]:
    with open_vectors(store, name) as vectors:
        return [tuple(row.values()) for row in vectors.nearest(image_id, k).to_pylist()]


def _by_numpy(store: Store, image_id: str) -> dict[str, float]:
    ids, X = store.matrix("vgg16")
    wide = X.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    dots = wide @ wide[ids.index(image_id)]
    scale = lengths * lengths[ids.index(image_id)]
    cosine = np.divide(dots, scale, out=np.zeros_like(dots), where=scale > 0)
    return {other: value for other, value in zip(ids, cosine.tolist(), strict=True) if other != image_id}


def _files(store: Store) -> list[Path]:
    return sorted(local_cache(store.location).glob("*.arrow"))


def test_it_ranks_as_numpy_does(filled):
    expected = _by_numpy(filled, IDS[7])
    found = _nearest(filled, IDS[7])
    assert [image_id for image_id, _ in found] == sorted(expected, key=lambda i: (-expected[i], i))
    assert [value for _, value in found] == pytest.approx([expected[i] for i, _ in found], abs=1e-6)
    assert _nearest(filled, IDS[7], 3) == found[:3]


def test_vectors_of_several_batches_are_found_where_they_are(filled, monkeypatch):
    before = _nearest(filled, IDS[7])
    for path in _files(filled):
        path.unlink()
    monkeypatch.setattr(vector_cache, "_BATCH", 7)
    assert _nearest(filled, IDS[7]) == before
    with open_vectors(filled, "vgg16") as vectors:
        assert [len(unit) for unit in vectors.units] == [7, 7, 7, 7, 7, 5]


def test_no_neighbours_may_be_asked_for(filled):
    assert _nearest(filled, IDS[7], 0) == []


def test_equal_ones_come_by_id_and_none_is_above_one(filled):
    (first, *_) = _nearest(filled, IDS[4])
    assert first == (IDS[5], pytest.approx(1, abs=1e-6))
    assert first[1] <= 1
    equal = [image_id for image_id, _ in _nearest(filled, IDS[7]) if image_id in IDS[4:6]]
    assert equal == IDS[4:6]


def test_zeros_are_like_nothing(filled):
    assert dict(_nearest(filled, IDS[0]))[IDS[3]] == 0
    with pytest.raises(UsageError, match=rf"image {IDS[3]} under spec 's1' is all zeros: it is like no other"):
        _nearest(filled, IDS[3])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_no_neighbour(filled, vector_rows, value):
    X = np.full((1, N_FEATURES), value, np.float32)
    filled.append("embeddings", vector_rows(["f" * 64], X))
    assert "f" * 64 not in dict(_nearest(filled, IDS[0]))
    with pytest.raises(UsageError, match=r"has no finite vector of spec 's1'; ask cxr why"):
        _nearest(filled, "f" * 64)


def test_an_image_without_a_vector_is_told(filled):
    with pytest.raises(UsageError, match=r"image nobody has no finite vector of spec 's1'; ask cxr why"):
        _nearest(filled, "nobody")


def test_specs_that_are_not_there_or_several_are_told(filled, spec_row, vector_rows):
    with pytest.raises(UsageError, match=r"no backbone or spec 'vgg19' here; there is \['vgg16'\]"):
        _nearest(filled, IDS[0], name="vgg19")
    filled.append("specs", spec_row("xception", "s3", 2))
    with pytest.raises(UsageError, match=r"spec 's3' has no vectors; run cxr extract first"):
        _nearest(filled, IDS[0], name="xception")
    filled.append("specs", spec_row("vgg16", "s2", N_FEATURES))
    filled.append("embeddings", vector_rows(IDS[:2], _vectors(2, seed=1), spec_id="s2"))
    with pytest.raises(UsageError, match=r"'vgg16' has 2 specs: \['s1', 's2'\]; name one"):
        _nearest(filled, IDS[0])
    assert len(_nearest(filled, IDS[0], name="s2")) == 1
    assert len(_nearest(filled, IDS[0], name="s1")) == 39


def test_a_vector_of_another_length_is_harm_and_leaves_nothing(filled, vector_rows):
    filled.append("embeddings", vector_rows(["e" * 64], np.ones((1, 3), np.float32)))
    with pytest.raises(HarmError, match=rf"1 of 1 vectors are not of length {N_FEATURES}"):
        _nearest(filled, IDS[0])
    assert [p.name for p in local_cache(filled.location).iterdir()] == ["s1.lock"]


def test_it_is_made_once_and_only_its_owner_can_read_it(filled, monkeypatch):
    before = _nearest(filled, IDS[0])
    (file,) = _files(filled)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert file.is_relative_to(os.environ["CXR_CACHE"] if filled.uri.startswith("s3://") else filled.uri)
    monkeypatch.setattr(vector_cache, "_make", None)  # calling it fails
    assert _nearest(filled, IDS[0]) == before


def test_new_vectors_make_a_new_copy_and_the_old_one_goes(filled, vector_rows):
    _nearest(filled, IDS[0])
    (old,) = _files(filled)
    X = filled.matrix("vgg16", [IDS[0]])[1]
    filled.append("embeddings", vector_rows(["d" * 64], X * 2))
    assert _nearest(filled, IDS[0], 1) == [("d" * 64, pytest.approx(1, abs=1e-6))]
    (new,) = _files(filled)
    assert new != old


def test_vectors_of_another_spec_leave_the_copy_alone(filled, spec_row, vector_rows):
    _nearest(filled, IDS[0])
    before = _files(filled)
    filled.append("specs", spec_row("xception", "s3", 2))
    filled.append("embeddings", vector_rows(IDS[:2], np.ones((2, 2), np.float32), backbone="xception", spec_id="s3"))
    _nearest(filled, IDS[0])
    assert _files(filled) == before


def test_what_a_killed_maker_left_is_swept(filled, vector_rows):
    _nearest(filled, IDS[0])
    folder = local_cache(filled.location)
    (folder / ".s1-left").mkdir()
    (folder / ".s1-left" / "vectors.arrow").write_bytes(b"half")
    filled.append("embeddings", vector_rows(["d" * 64], _vectors(1)))
    _nearest(filled, IDS[0])
    assert not (folder / ".s1-left").exists()


def _forget(store: Store, image_id: str) -> None:
    forget(store, Forgotten("demo", (FoundImage(image_id, "demo", "", "", "", None),)))


def test_forgetting_removes_it(filled):
    _nearest(filled, IDS[0])
    folder = local_cache(filled.location)
    assert any(IDS[9].encode() in path.read_bytes() for path in _files(filled)), "a search that finds nothing is blind"
    _forget(filled, IDS[9])
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    assert filled.location.list_files(CACHES) == {}
    assert IDS[9] not in dict(_nearest(filled, IDS[0]))


def test_who_was_forgotten_while_it_was_made_is_not_in_it(filled, monkeypatch):
    """The copy's rows are read, then somebody is forgotten, then the copy gets its name."""
    write = vector_cache._write

    def write_then_forget(path: Path, vectors: vector_cache._Vectors) -> None:
        write(path, vectors)
        if filled.query("SELECT 1 FROM images WHERE image_id = ?", [IDS[9]]).num_rows:
            _forget(filled, IDS[9])
            path.parent.mkdir(exist_ok=True)
            write(path, vectors)  # forgetting emptied the folder: as if it had been written a moment later

    monkeypatch.setattr(vector_cache, "_write", write_then_forget)
    assert IDS[9] not in dict(_nearest(filled, IDS[0]))
    assert len(_files(filled)) == 1
    assert not any(IDS[9].encode() in path.read_bytes() for path in _files(filled))


def test_the_last_vectors_take_their_copy_along(store, spec_row, vector_rows):
    store.append("images", pa.table({"image_id": IDS[:2], "dataset": ["demo"] * 2}))
    store.append("specs", spec_row("vgg16", "s1", N_FEATURES))
    store.append("embeddings", vector_rows(IDS[:2], _vectors(2)))
    _nearest(store, IDS[0])
    kept = _files(store)[0].read_bytes()
    name = _files(store)[0]
    for image_id in IDS[:2]:
        _forget(store, image_id)
    name.write_bytes(kept)  # somebody made it from what they had read before
    with pytest.raises(UsageError, match=r"no vectors"):
        _nearest(store, IDS[0])
    assert _files(store) == []


_ASK = """
import json, sys
from featurestore.store import Store
from featurestore.store.vector_cache import open_vectors
with open_vectors(Store(sys.argv[1]), "vgg16") as vectors:
    print(json.dumps(vectors.nearest(sys.argv[2], 5).to_pylist()))
"""


@pytest.mark.slow
def test_four_at_once_agree(filled):
    command = [sys.executable, "-c", _ASK, filled.uri, IDS[0]]
    asking = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=120)[0] for process in asking]
    assert [process.returncode for process in asking] == [0] * 4
    assert {tuple(row["image_id"] for row in json.loads(text)) for text in said} == {
        tuple(image_id for image_id, _ in _nearest(filled, IDS[0], 5))
    }
    assert len(_files(filled)) == 1


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_store_that_cannot_be_written_is_told(tmp_path):
    store = Store(tmp_path)
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match=r"cannot be made a folder of yours alone .*cxr sql answers without one"):
        local_cache(store.location)


def test_a_cache_that_is_a_file_is_told(tmp_path):
    (tmp_path / CACHES).write_text("")
    with pytest.raises(UsageError, match=r"cannot be made a folder of yours alone .*cxr sql answers without one"):
        local_cache(Store(tmp_path).location)
