"""What a commit does not do: read what it knows, ask what it need not know."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

import featurestore.store.commit as commit_module
from featurestore.store import stored_keys
from featurestore.store.commit import Committer
from featurestore.store.schema import TABLES

EMBEDDINGS = TABLES["embeddings"]


def _ids(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(row["image_id"] for row in rows)


def _numbers(*ranges: range) -> list[str]:
    return sorted({f"i{k:03d}" for numbers in ranges for k in numbers})


def test_transactions_grow_and_nobody_looks_their_versions_up(store, raw, staged, monkeypatch):
    """Looking them up read the log's tail once for every spec of every commit."""
    monkeypatch.delattr(DeltaTable, "transaction_version")
    committer = Committer(store.location, EMBEDDINGS)
    for k in range(3):
        committer.commit(staged(range(k, k + 1), "s1") + staged(range(k, k + 1), "s2"))
    Committer(store.location, EMBEDDINGS).commit(staged(range(9, 10), "s1"))
    versions: dict[str, list[int]] = {}
    for action in raw("embeddings").actions("txn"):
        versions.setdefault(action["appId"], []).append(action["version"])
    assert versions == {"embeddings/vgg16/s1": [1, 2, 3, 4], "embeddings/vgg16/s2": [1, 2, 3]}


def test_without_files_the_table_is_made_and_then_nothing_is_asked(store, raw, staged, monkeypatch):
    committer = Committer(store.location, EMBEDDINGS)
    assert committer.commit([]) == 0
    assert len(raw("embeddings").actions("metaData")) == 1
    with monkeypatch.context() as patch:
        for name in ("writing", "create_table", "files_of"):
            patch.delattr(commit_module, name)
        assert committer.commit([]) == 0
    assert committer.commit(staged(range(2))) == 2


def test_only_files_that_came_since_become_objects(store, staged, monkeypatch):
    """With 22,000 files an object for each, at each commit, took longer than the commit."""
    committer, made = Committer(store.location, EMBEDDINGS), list[int]()
    real = commit_module.files_of

    def counting(*arguments):
        found = real(*arguments)
        made.append(len(found))
        return found

    monkeypatch.setattr(commit_module, "files_of", counting)
    for k in range(4):
        assert committer.commit(staged(range(k, k + 1))) == 1
    Committer(store.location, EMBEDDINGS).commit(staged(range(50, 51)))
    assert committer.commit(staged(range(60, 61))) == 1
    assert made == [0, 0, 0, 0, 4, 1]


def test_what_others_wrote_is_read_once_where_the_images_are_known(store, raw, staged, monkeypatch):
    """A resumed run read all older files again at each of its commits."""
    Committer(store.location, EMBEDDINGS).commit(staged(range(10)))
    Committer(store.location, EMBEDDINGS).commit(staged(range(100, 110)))
    read: list[int] = []
    real = stored_keys.open_files

    def counting(table, location, paths, columns):
        read.append(len(paths))
        return real(table, location, paths, columns)

    monkeypatch.setattr(stored_keys, "open_files", counting)
    images = pa.chunked_array([[f"i{k:03d}" for k in range(5, 40)]])
    committer = Committer(store.location, EMBEDDINGS, images=images)
    assert committer.commit(staged(range(5, 15))) == 5  # of a shard, what was left of an earlier run
    assert committer.commit(staged(range(15, 20))) == 5
    assert committer.commit(staged(range(6, 9))) == 0
    assert read == [2]
    Committer(store.location, EMBEDDINGS).commit(staged(range(20, 22)))
    assert committer.commit(staged(range(20, 25))) == 3
    assert committer.commit(staged(range(25, 40))) == 15
    assert read == [2, 1]
    assert _ids(raw("embeddings").rows()) == _numbers(range(40), range(100, 110))
