"""Reading and writing files at a store's place, on a folder and on S3."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from featurestore.store.location import Location


@pytest.fixture
def here(root) -> Location:
    """Return the place."""
    return Location.parse(root)


def test_what_is_written_is_read_and_listed(here, store, folder_of):
    here.write_bytes("images/backbone=x/é ü.bin", b"abc")
    here.write_bytes("images/plain", pa.py_buffer(b""))
    assert here.read_bytes("images/backbone=x/é ü.bin") == b"abc"
    assert (here.size("images/backbone=x/é ü.bin"), here.size("images/plain")) == (3, 0)
    assert here.list_files("images") == {"backbone=x/é ü.bin": 3, "plain": 0}
    assert (folder_of(store) / "images" / "backbone=x" / "é ü.bin").read_bytes() == b"abc"


def test_an_absolute_path_is_the_same_file(here):
    here.write_bytes("labels/a", b"abc")
    assert here.read_bytes(f"{here.table('labels')}/a") == b"abc"


def test_what_is_not_there(here):
    assert here.size("images/none") is None
    assert here.size("images") is None
    assert here.list_files("images") == {}
    here.remove("images/none")
    with pytest.raises(FileNotFoundError):
        here.read_bytes("images/none")
    assert not here.exists()


def test_a_folder_is_no_file(here):
    here.write_bytes("images/_delta_log/x", b"a")
    assert here.size("images/_delta_log") is None
    assert here.exists()


def test_removing_leaves_nothing(here, store, folder_of):
    here.write_bytes("images/sub/a", b"abc")
    for _ in range(2):
        here.remove("images/sub/a")
    assert here.list_files("") == {}
    assert [path for path in folder_of(store).rglob("*") if path.is_file()] == []


def test_a_file_is_whole_under_its_name_whoever_writes_it_again(here):
    contents = [bytes([k]) * 300_000 for k in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda content: here.write_bytes("images/a", content), contents * 3))
    assert here.read_bytes("images/a") in contents
    assert here.list_files("images") == {"a": 300_000}
