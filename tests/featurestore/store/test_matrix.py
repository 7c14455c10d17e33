"""What a matrix refuses, and which spec it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from featurestore.errors import HarmError, UsageError
from featurestore.store.location import Location
from featurestore.store.matrix import read_matrix

HERE = Location("/")


@pytest.fixture
def filled(store, vector_rows, spec_row):
    """Return a store with three vectors of one spec."""
    store.append("specs", spec_row("vgg16", "s1", 4))
    store.append("embeddings", vector_rows(["a", "b", "c"], np.arange(12).reshape(3, 4)))
    return store


def test_missing_images_are_counted(filled):
    with pytest.raises(UsageError, match=r"2 of 3 images have no vector for this spec; run cxr extract"):
        filled.matrix("vgg16", ["x", "a", "y"])


def test_an_unknown_name_is_told_what_there_is(filled, tmp_path):
    with pytest.raises(UsageError, match=r"no backbone or spec 'vgg19' here; there is \['vgg16'\]"):
        filled.matrix("vgg19")
    from featurestore.store import Store

    with pytest.raises(UsageError, match=r"no backbone or spec 'vgg16' here; there is nothing: run cxr extract first"):
        Store(tmp_path / "empty").matrix("vgg16")


def test_a_backbone_of_two_specs_has_to_be_named_by_spec(filled, vector_rows, spec_row):
    filled.append("specs", spec_row("vgg16", "s2", 4))
    filled.append("embeddings", vector_rows(["a"], np.full((1, 4), 7), spec_id="s2"))
    with pytest.raises(UsageError, match=r"'vgg16' has 2 specs: \['s1', 's2'\]; name one"):
        filled.matrix("vgg16")
    assert filled.matrix("s2")[1].tolist() == [[7, 7, 7, 7]]
    assert filled.matrix("s1", ["b"])[1].tolist() == [[4, 5, 6, 7]]


def test_a_spec_without_vectors_is_an_empty_matrix_of_its_width(store, spec_row):
    store.append("specs", spec_row("vgg16", "s1", 4))
    ids, X = store.matrix("vgg16")
    assert (ids, X.shape, X.dtype) == ([], (0, 4), np.float32)
    with pytest.raises(UsageError, match=r"1 of 1 images have no vector"):
        store.matrix("vgg16", ["a"])


def test_no_ids_asked_for_is_no_rows(filled):
    ids, X = filled.matrix("vgg16", [])
    assert (ids, X.shape) == ([], (0, 4))


def _vectors(path: Path, ids: list[str], vectors: list[list[float] | None]) -> str:
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table({"image_id": pa.array(ids, pa.string()), "embedding": pa.array(vectors, pa.list_(pa.float32()))}), path
    )
    return str(path)


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        ([[1.0, 2.0], [3.0]], "1 of 2 vectors are not of length 2, 0 values are null"),
        # The sum of the lengths is right: only one look at each vector tells.
        ([[1.0, 2.0, 3.0], [4.0]], "2 of 2 vectors are not of length 2, 0 values are null"),
        ([[1.0, 2.0], [None, 4.0]], "0 of 2 vectors are not of length 2, 1 values are null"),
        ([[], []], "2 of 2 vectors are not of length 2"),
    ],
)
def test_vectors_that_do_not_fit_their_spec_are_harm(tmp_path, vectors, words):
    path = _vectors(tmp_path / "file.parquet", ["a", "b"], vectors)
    with pytest.raises(HarmError, match=words):
        read_matrix(HERE, [path], 2)


@pytest.mark.parametrize("vectors", [[[1.0, 2.0], None], [None, None]])
def test_a_vector_that_is_null_is_harm(tmp_path, vectors):
    with pytest.raises(HarmError, match=r"[12] of 2 vectors are not of length 2"):
        read_matrix(HERE, [_vectors(tmp_path / "file.parquet", ["a", "b"], vectors)], 2)


def test_two_vectors_of_one_image_are_harm(tmp_path):
    paths = [_vectors(tmp_path / f"{k}.parquet", ["a", f"b{k}"], [[1.0], [2.0]]) for k in range(2)]
    with pytest.raises(HarmError, match=r"1 images have more than one vector for this spec"):
        read_matrix(HERE, paths, 1, ["a"])


def test_a_file_without_rows_adds_none(tmp_path):
    paths = [_vectors(tmp_path / "0.parquet", [], []), _vectors(tmp_path / "1.parquet", ["a"], [[1.0]])]
    assert read_matrix(HERE, paths, 1)[1].tolist() == [[1.0]]
