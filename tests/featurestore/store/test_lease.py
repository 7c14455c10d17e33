"""Who may write: many together, or one alone; and what becomes of those that die or freeze."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from featurestore.errors import StoppedError, UsageError
from featurestore.store import Store, lease, lease_files
from featurestore.store.lease import alone, writing


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(lease, "WAIT_SECONDS", 0.2)
    monkeypatch.setattr(lease, "_POLL_SECONDS", 0.02)


_HOLD = """
import sys, time
from featurestore.store import Store, lease
with getattr(lease, sys.argv[2])(Store(sys.argv[1]).location, "a test's job"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(python):
    """Return a function that starts another process that holds a lease until it is killed."""
    started = []

    def start(store: Store, kind: str):
        process = python(_HOLD, store.uri, kind)
        started.append(process)
        assert process.stdout.readline() == "held\n", process.stderr.read()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _leases(store: Store) -> list[str]:
    return sorted(store.location.list_files("_leases"))


def test_writers_write_together_and_leave_nothing(store, label_rows):
    with writing(store.location) as one, writing(store.location) as two:
        assert one is two
        assert len(_leases(store)) == 1
        assert store.append("labels", label_rows(["a"])) == 1
    assert _leases(store) == []


def test_alone_is_refused_while_anybody_writes_and_says_who(store, label_rows, holder):
    store.append("labels", label_rows(["a"]))
    process = holder(store, "writing")
    with (
        pytest.raises(StoppedError, match=rf"a purge needs the store.*a test's job \(process {process.pid} on .*since"),
        alone(store.location, "a purge"),
    ):
        pass
    assert len(_leases(store)) == 1


def test_a_writer_waits_and_is_refused_while_somebody_is_alone(store, label_rows, holder):
    store.append("labels", label_rows(["a"]))
    process = holder(store, "alone")
    with pytest.raises(StoppedError, match=r"closed to writers by a test's job \(process"):
        store.append("labels", label_rows(["b"]))
    assert store.query("SELECT * FROM labels").num_rows == 1
    process.kill()
    process.wait()
    assert store.append("labels", label_rows(["b"])) == 1


def test_a_writer_goes_on_when_the_other_is_done(tmp_path, label_rows, monkeypatch):
    monkeypatch.setattr(lease, "WAIT_SECONDS", 30)
    store = Store(tmp_path / "s")
    store.append("labels", label_rows(["a"]))
    landed: list[int] = []
    writer = threading.Thread(target=lambda: landed.append(store.append("labels", label_rows(["b"]))))
    with alone(store.location, "a test"):
        writer.start()
        time.sleep(0.3)
        assert landed == []
    writer.join(30)
    assert landed == [1]


def test_only_the_thread_that_is_alone_writes(store, label_rows):
    refused: list[StoppedError] = []

    def write() -> None:
        try:
            store.append("labels", label_rows(["b"]))
        except StoppedError as error:
            refused.append(error)

    with alone(store.location, "a test"), alone(store.location, "a part of it"):
        other = threading.Thread(target=write)
        other.start()
        other.join(30)
        assert store.append("labels", label_rows(["a"])) == 1
    assert len(refused) == 1
    assert store.query("SELECT image_id FROM labels").to_pylist() == [{"image_id": "a"}]


def test_alone_is_refused_inside_a_job_of_this_process(store):
    with (
        writing(store.location, "cxr extract"),
        pytest.raises(StoppedError, match="cxr extract"),
        alone(store.location, "a purge"),
    ):
        pass
    assert _leases(store) == []


def test_a_killed_writer_on_this_machine_holds_nobody_up(store, label_rows, holder):
    store.append("labels", label_rows(["a"]))
    process = holder(store, "writing")
    process.kill()
    process.wait()
    assert len(_leases(store)) == 1
    with alone(store.location, "a purge"):
        assert len(_leases(store)) == 1
    assert _leases(store) == []


def test_a_writer_elsewhere_counts_until_it_was_silent_too_long(tmp_path, label_rows):
    store = Store(tmp_path / "s")
    store.append("labels", label_rows(["a"]))
    path = tmp_path / "s" / "_leases" / "shared-1.json"
    who = {"what": "cxr ingest", "host": "far", "machine": "far/1", "pid": os.getpid(), "since": "2026-01-01 00:00:00"}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(who))
    with pytest.raises(StoppedError, match="on far, since 2026-01-01"), alone(store.location, "a purge"):
        pass
    old = time.time() - lease_files.STALE_SECONDS - 1
    os.utime(path, (old, old))
    with alone(store.location, "a purge"):
        assert not path.exists()


def test_one_that_was_taken_for_dead_commits_nothing(store, label_rows):
    store.append("labels", label_rows(["a"]))
    with writing(store.location, "cxr extract"):
        (name,) = _leases(store)
        store.location.remove(f"_leases/{name}")
        with pytest.raises(StoppedError, match="gave no sign of life"):
            store.append("labels", label_rows(["b"]))
    assert store.query("SELECT * FROM labels").num_rows == 1


def test_a_beat_keeps_a_lease_young_and_never_brings_it_back(store):
    file = lease_files.LeaseFile(store.location, "shared", "a test")
    watcher = lease_files.LeaseFile(store.location, "exclusive", "a watcher")
    if store.location.is_local:
        path = Path(store.location.inside(file.path))
        os.utime(path, (1, 1))
        assert path.stat().st_mtime == 1
    file.beat()
    (seen,) = watcher.others()
    assert seen.silent < 60
    file.remove()
    file.beat()
    assert watcher.others() == []
    watcher.remove()


def test_the_heart_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.02)
    store = Store(tmp_path / "s")
    with writing(store.location):
        (path,) = (tmp_path / "s" / "_leases").iterdir()
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 20
        while path.stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert path.stat().st_mtime > 1


def test_a_job_that_stored_nothing_leaves_no_store(tmp_path):
    store = Store(tmp_path / "s")
    with pytest.raises(UsageError), writing(store.location):
        raise UsageError("no such file")
    assert not (tmp_path / "s").exists()


def test_one_that_could_not_beat_stops_by_its_own_clock(store, label_rows, monkeypatch):
    """Its lease is still there, and others may remove it at any moment."""
    store.append("labels", label_rows(["a"]))
    with writing(store.location, "cxr extract"):
        later = lease_files.now() + lease_files.STALE_SECONDS + 1
        monkeypatch.setattr(lease_files, "now", lambda: later)
        assert len(_leases(store)) == 1
        with pytest.raises(StoppedError, match="gave no sign of life"):
            store.append("labels", label_rows(["b"]))
        monkeypatch.undo()
        with pytest.raises(StoppedError, match="gave no sign of life"):
            store.append("labels", label_rows(["b"]))
    assert store.query("SELECT * FROM labels").num_rows == 1


def test_a_beat_that_took_too_long_leaves_no_lease_behind(tmp_path, monkeypatch):
    """Others removed it meanwhile; on S3 the late write would have brought it back."""
    location = Store(tmp_path / "s").location
    file = lease_files.LeaseFile(location, "shared", "a test")
    begun, utime = lease_files.now(), os.utime

    def hang(path) -> None:
        utime(path)
        monkeypatch.setattr(lease_files, "now", lambda: begun + lease_files.STALE_SECONDS + 1)

    monkeypatch.setattr(os, "utime", hang)
    file.beat()
    assert location.list_files("_leases") == {}
    monkeypatch.undo()
    assert not file.exists()
    file.beat()
    assert location.list_files("_leases") == {}


def test_a_lease_given_back_during_a_beat_is_gone(store, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.01)
    begun, real = threading.Event(), lease_files.LeaseFile.beat

    def slow(self) -> None:
        begun.set()
        time.sleep(0.3)
        self._location.write_bytes(self.path, self._content)  # as a put that was under way
        real(self)

    monkeypatch.setattr(lease_files.LeaseFile, "beat", slow)
    with writing(store.location):
        assert begun.wait(20)
    time.sleep(0.5)
    assert _leases(store) == []


@pytest.mark.parametrize("content", [b"", b"[]", b'{"what": "x"}', b"\xff"])
@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_a_lease_that_cannot_be_read_counts_until_it_was_silent_too_long(tmp_path, label_rows, kind, content):
    """A power cut leaves empty files."""
    store = Store(tmp_path / "s")
    store.append("labels", label_rows(["a"]))
    path = tmp_path / "s" / "_leases" / f"{kind}-1.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(StoppedError, match="somebody whose lease cannot be read"), alone(store.location, "a purge"):
        pass
    old = time.time() - lease_files.STALE_SECONDS - 1
    os.utime(path, (old, old))
    assert store.append("labels", label_rows(["b"])) == 1
    with alone(store.location, "a purge"):
        assert not path.exists()


def test_machines_of_one_name_are_told_apart_by_their_start(tmp_path, monkeypatch):
    """The first process namespace has the same number on every Linux."""
    (tmp_path / "boot_id").write_text("another-start\n")
    here = lease_files.machine()
    assert here == lease_files.machine()
    monkeypatch.setattr(lease_files, "_BOOT_ID", tmp_path / "boot_id")
    there = lease_files.machine()
    assert there != here
    assert "another-start" in there
    assert {here.split("/")[0], here.split("/")[-1]} == {there.split("/")[0], there.split("/")[-1]}
