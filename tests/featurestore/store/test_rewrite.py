"""Rows that change where they are stored."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from featurestore.errors import HarmError
from featurestore.store import Store
from featurestore.store.commit import Committer
from featurestore.store.files import StagedFile, conform, stage
from featurestore.store.rewrite import rewrite
from featurestore.store.schema import TABLES


def _images(store: Store, *ids: str) -> None:
    store.append("images", pa.table({"image_id": list(ids), "uri": [f"/old/{i}" for i in ids]}))


def _uris(store: Store) -> dict[str, str]:
    rows = store.query("SELECT image_id, uri FROM images").to_pylist()
    assert len(rows) == len({row["image_id"] for row in rows})
    return {row["image_id"]: row["uri"] for row in rows}


def test_moved_images_are_found_at_their_new_place_and_others_stay(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _images(store, "a", "b")
    _images(store, "c")
    untouched = {f.path for f in store.snapshot("images").files if f.rows == 1}
    store.relocate({"a": "/new/a"})
    assert _uris(store) == {"a": "/new/a", "b": "/old/b", "c": "/old/c"}
    assert untouched < {f.path for f in store.snapshot("images").files}
    # No value enters the log through a predicate.
    log = "".join(p.read_text() for p in (tmp_path / "images" / "_delta_log").glob("*.json"))
    assert "/new/a" not in log
    assert json.dumps("a") not in log


def test_a_writer_in_between_loses_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _images(store, "a", "b")
    seen: list[int] = []

    def change(rows: pa.Table) -> pa.Table | None:
        if not seen:
            _images(store, "c")  # commits while this rewrite is under way
        seen.append(rows.num_rows)
        return rows.filter(pa.array([i != "a" for i in rows["image_id"].to_pylist()]))

    assert rewrite(store.location, TABLES["images"], change) == 2
    assert set(_uris(store)) == {"b", "c"}
    assert len(seen) > 2


def test_partitions_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    vectors = pa.array([[1.0], [2.0]], pa.list_(pa.float32()))
    rows = {"backbone": ["x", "y"], "spec_id": ["s1", "s2"], "image_id": ["a", "a"], "embedding": vectors}
    store.append("embeddings", pa.table(rows))

    def change(rows: pa.Table) -> pa.Table | None:
        return None if rows["backbone"][0].as_py() == "x" else rows.slice(0, 0)

    assert rewrite(store.location, TABLES["embeddings"], change) == 1
    assert store.query("SELECT backbone, spec_id, embedding FROM embeddings").to_pylist() == [
        {"backbone": "x", "spec_id": "s1", "embedding": [1.0]}
    ]


def test_a_table_never_written_is_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.relocate({"a": "/b"})
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_staged_file_that_is_not_whole_here_is_not_committed(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    spec = TABLES["labels"]
    (staged,) = stage(store.location, spec, conform(pa.table({"image_id": ["a"], "label": ["x"]}), spec))
    path = tmp_path / "labels" / staged.path
    if damage == "gone":
        path.unlink()
    else:
        staged = StagedFile(staged.path, staged.size + 1, staged.rows, staged.partition)
    with pytest.raises(HarmError, match=r"written elsewhere and is not whole here.*a disk they all share"):
        Committer(store.location, spec).commit([staged])
    assert store.query("SELECT * FROM labels").num_rows == 0
