"""Rows that change where they are stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from featurestore.errors import HarmError
from featurestore.store import Store
from featurestore.store import rewrite as module
from featurestore.store.checksums import damage
from featurestore.store.commit import Committer
from featurestore.store.compaction import compact
from featurestore.store.files import StagedFile, conform, stage
from featurestore.store.rewrite import rewrite
from featurestore.store.schema import TABLES


def _images(store: Store, *ids: str) -> None:
    store.append("images", pa.table({"image_id": list(ids), "uri": [f"/old/{i}" for i in ids]}))


def _uris(store: Store) -> dict[str, str]:
    rows = store.query("SELECT image_id, uri FROM images").to_pylist()
    assert len(rows) == len({row["image_id"] for row in rows})
    return {row["image_id"]: row["uri"] for row in rows}


def test_moved_images_are_found_at_their_new_place_and_others_stay(store: Store, raw: Callable[[str], Any]) -> None:
    _images(store, "a", "b")
    _images(store, "c")
    untouched = {f.path for f in store.snapshot("images").files if f.rows == 1}
    store.relocate({"a": "/new/a"})
    assert _uris(store) == {"a": "/new/a", "b": "/old/b", "c": "/old/c"}
    assert untouched < {f.path for f in store.snapshot("images").files}
    # No value enters the log through a predicate.
    log = "".join(p.read_text() for p in (raw("images").folder / "_delta_log").glob("*.json"))
    assert "/new/a" not in log
    assert json.dumps("a") not in log


def test_a_writer_in_between_loses_nothing(store: Store) -> None:
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


def test_partitions_are_kept(store: Store) -> None:
    vectors = pa.array([[1.0], [2.0]], pa.list_(pa.float32()))
    rows = {"backbone": ["x", "y"], "spec_id": ["s1", "s2"], "image_id": ["a", "a"], "embedding": vectors}
    store.append("embeddings", pa.table(rows))

    def change(rows: pa.Table) -> pa.Table | None:
        return None if rows["backbone"][0].as_py() == "x" else rows.slice(0, 0)

    assert rewrite(store.location, TABLES["embeddings"], change) == 1
    assert store.query("SELECT backbone, spec_id, embedding FROM embeddings").to_pylist() == [
        {"backbone": "x", "spec_id": "s1", "embedding": [1.0]}
    ]


def test_a_table_never_written_is_left_alone(store: Store, raw: Callable[[str], Any]) -> None:
    store.relocate({"a": "/b"})
    assert not raw("images").folder.exists()


@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_staged_file_that_is_not_whole_here_is_not_committed(store: Store, damage: str) -> None:
    spec = TABLES["labels"]
    (staged,) = stage(store.location, spec, conform(pa.table({"image_id": ["a"], "label": ["x"]}), spec))
    if damage == "gone":
        store.location.remove(f"labels/{staged.path}")
    else:
        staged = StagedFile(staged.path, staged.size + 1, staged.rows, staged.partition)
    with pytest.raises(HarmError, match=r"written elsewhere and is not whole here.*a disk they all share"):
        Committer(store.location, spec).commit([staged])
    assert store.query("SELECT * FROM labels").num_rows == 0


@pytest.fixture
def answer_lost(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let every first commit of an exchange land and be reported as failed; return the tables it happened to."""
    real, lost = module._commit, list[str]()

    def commit(dt: DeltaTable, spec: Any, *rest: Any) -> None:
        real(dt, spec, *rest)
        if spec.name not in lost:
            lost.append(spec.name)
            message = "Concurrent transaction failed"
            raise CommitFailedError(message)

    monkeypatch.setattr(module, "_commit", commit)
    return lost


def test_a_merge_whose_answer_was_lost_keeps_its_files(store: Store, answer_lost: list[str]) -> None:
    for image in "abc":
        _images(store, image)
    assert compact(store.location).files_after == 1
    assert answer_lost == ["images"]
    assert set(_uris(store)) == {"a", "b", "c"}
    snapshot = store.snapshot("images")
    assert [damage(snapshot, file) for file in snapshot.files] == [None]


def test_a_removal_whose_answer_was_lost_is_counted(store: Store, answer_lost: list[str]) -> None:
    """No new file tells that it landed."""
    _images(store, "a")
    _images(store, "b")
    assert rewrite(store.location, TABLES["images"], lambda rows: rows.slice(0, 0)) == 2
    assert answer_lost == ["images"]
    assert _uris(store) == {}


def test_a_lost_race_leaves_no_files_of_its_own(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for image in "ab":
        _images(store, image)
    real, attempts = module._commit, list[int]()

    def commit(*arguments: Any) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            message = "Concurrent transaction failed"
            raise CommitFailedError(message)
        real(*arguments)

    monkeypatch.setattr(module, "_commit", commit)
    assert compact(store.location).files_after == 1
    there = [path for path in store.location.list_files("images") if "_delta_log" not in path]
    assert len(there) == 3  # two old ones, and one merged


def _damage(store: Store, how: str) -> str:
    file = store.snapshot("images").files[0]
    path = f"images/{file.path}"
    content = bytearray(store.location.read_bytes(path))
    if how == "gone":
        store.location.remove(path)
    else:
        content[len(content) // 3] ^= 0x10
        store.location.write_bytes(path, bytes(content if how == "flipped" else content[:-1]))
    return file.path


@pytest.mark.parametrize(
    ("how", "words"), [("flipped", "its content changed"), ("short", "where .* were committed"), ("gone", "it is gone")]
)
@pytest.mark.parametrize("what", ["merge", "relocate"])
def test_damage_is_not_written_anew_with_a_fresh_checksum(store: Store, what: str, how: str, words: str) -> None:
    _images(store, "a")
    _images(store, "b")
    path = _damage(store, how)
    before = store.snapshot("images")
    work = {"merge": lambda: compact(store.location), "relocate": lambda: store.relocate({"a": "/x", "b": "/x"})}
    with pytest.raises(HarmError, match=rf"images/{path} is damaged \(.*{words}.*put it back under its name.*0002"):
        work[what]()
    after = store.snapshot("images")
    assert after == before
    assert [bool(damage(after, file)) for file in after.files].count(True) == 1


def test_rows_of_a_damaged_file_can_be_given_up_and_written_again(store: Store) -> None:
    """What docs/adr/0002 tells people to do who have no backup."""
    for image in "ab":
        _images(store, image)
    store.location.remove(f"images/{_damage(store, 'flipped')}")
    DeltaTable(store.location.delta("images"), storage_options=store.location.storage_options()).repair()
    assert len(_uris(store)) == 1
    store.append("images", pa.table({"image_id": ["a", "b"], "uri": ["/old/a", "/old/b"]}))
    assert _uris(store) == {"a": "/old/a", "b": "/old/b"}
    assert compact(store.location).files_after == 1
