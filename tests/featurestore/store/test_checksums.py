"""Names that hold checksums, what they reveal, and files that nobody names."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from featurestore.store import Store
from featurestore.store.checksums import checksum_in, damage
from featurestore.store.files import conform, stage
from featurestore.store.orphans import dead_files, log_litter, lowest_version, orphans
from featurestore.store.schema import TABLES


def _file(store: Store, path: str) -> bytes:
    return store.location.read_bytes(f"labels/{path}")


def test_the_log_holds_the_checksum_of_every_file(store, raw, label_rows):
    store.append("labels", label_rows(["a"]))
    (added,) = raw("labels").actions("add")
    content = (raw("labels").folder / added["path"]).read_bytes()
    assert checksum_in(added["path"]) == hashlib.sha256(content).hexdigest()


def test_the_checksum_is_read_below_a_partition_and_absent_from_older_names():
    name = f"part-{'0' * 32}-{'ab' * 32}.parquet"
    assert checksum_in(f"backbone=x/spec_id=s1/{name}") == "ab" * 32
    assert checksum_in(f"part-{'0' * 32}.parquet") is None


@pytest.mark.parametrize("kind", ["whole", "gone", "short", "flipped"])
def test_damage_is_found_and_named(store, label_rows, kind):
    store.append("labels", label_rows(["a", "b"]))
    snapshot = store.snapshot("labels")
    (file,) = snapshot.files
    content = bytearray(_file(store, file.path))
    if kind == "gone":
        store.location.remove(f"labels/{file.path}")
    elif kind == "short":
        store.location.write_bytes(f"labels/{file.path}", bytes(content[:-1]))
    elif kind == "flipped":
        content[len(content) // 2] ^= 1
        store.location.write_bytes(f"labels/{file.path}", bytes(content))
    found = damage(snapshot, file)
    words = {"gone": "it is gone", "short": "bytes where", "flipped": "its content changed: SHA-256"}
    if kind == "whole":
        assert found is None
    else:
        assert found is not None
        assert words[kind] in found.problem
        assert found.path == f"labels/{file.path}"


def test_orphans_are_what_no_version_names(store, label_rows):
    store.append("labels", label_rows(["a"]))
    spec = TABLES["labels"]
    (staged,) = stage(store.location, spec, conform(label_rows(["b"]), spec))
    store.location.write_bytes("labels/.half.tmp", b"x")
    assert orphans(store.snapshot("labels")) == sorted([staged.path, ".half.tmp"])


def test_files_of_older_versions_are_dead_but_no_orphans(store, label_rows):
    from featurestore.store.rewrite import rewrite

    store.append("labels", label_rows(["a"]))
    old = store.snapshot("labels").files[0].path
    rewrite(store.location, TABLES["labels"], lambda rows: rows.slice(0, 0))
    snapshot = store.snapshot("labels")
    assert snapshot.files == ()
    assert dead_files(snapshot) == {old}
    assert orphans(snapshot) == []


def test_a_checkpoint_names_files_too(tmp_path, label_rows):
    from deltalake import DeltaTable

    from featurestore.store.rewrite import rewrite

    store = Store(tmp_path / "s")
    store.append("labels", label_rows(["a"]))
    rewrite(store.location, TABLES["labels"], lambda rows: rows.slice(0, 0))
    DeltaTable(f"{store.uri}/labels").create_checkpoint()
    for commit in (tmp_path / "s" / "labels" / "_delta_log").glob("*.json"):
        if commit.name != "00000000000000000002.json":
            commit.unlink()
    assert orphans(store.snapshot("labels")) == []
    assert lowest_version(store.location, "labels") == 2


def test_what_is_not_of_the_log_is_litter(store, label_rows):
    assert lowest_version(store.location, "labels") is None
    store.append("labels", label_rows(["a"]))
    store.location.write_bytes("labels/_delta_log/_commit_1.json.tmp", b"{}")
    assert log_litter(store.location, "labels") == ["_delta_log/_commit_1.json.tmp"]
    assert lowest_version(store.location, "labels") == 0


def test_a_copied_file_under_another_checksum_is_seen(tmp_path: Path, label_rows):
    """Swapping two whole files is damage too: each is a fine Parquet file."""
    store = Store(tmp_path / "s")
    store.append("labels", label_rows(["a"]))
    store.append("labels", label_rows(["b"]))
    snapshot = store.snapshot("labels")
    one, two = (tmp_path / "s" / "labels" / f.path for f in snapshot.files)
    first, second = one.read_bytes(), two.read_bytes()
    assert len(first) == len(second)
    one.write_bytes(second)
    two.write_bytes(first)
    assert [damage(snapshot, f) is None for f in snapshot.files] == [False, False]
