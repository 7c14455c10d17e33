"""The row of `runs`: written however a job ends, and never in the place of how it ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from featurestore.errors import HarmError, StoppedError, UsageError
from featurestore.store import Store
from featurestore.store.lease_files import LeaseFile
from jobs.cli.main import cxr as group
from jobs.runlog import record_run


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.append("labels", pa.table({"image_id": ["x"], "label": ["y"]}))
    return store


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be written into `runs`."""
    append = Store.append

    def fail(self: Store, table: str, rows: pa.Table) -> int:
        if table == "runs":
            raise OSError(28, "No space left on device")
        return append(self, table, rows)

    monkeypatch.setattr(Store, "append", fail)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no lease be removed."""

    def fail(self: LeaseFile) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(LeaseFile, "remove", fail)


ENDS = [
    (KeyboardInterrupt(), "interrupted"),
    (StoppedError("s"), "stopped"),
    (HarmError("h"), "failed"),
    (KeyError("k"), "failed"),
]


def _end_with(store: Store, error: BaseException) -> None:
    with record_run(store, "extract", "demo", {}):
        raise error


@pytest.mark.parametrize(("error", "status"), ENDS)
def test_an_error_is_logged_and_goes_on(store: Store, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)) as caught:
        _end_with(store, error)
    assert caught.value is error
    assert store.query("SELECT status FROM runs")["status"].to_pylist() == [status]


def test_what_was_refused_leaves_no_row(store: Store) -> None:
    with pytest.raises(UsageError):
        _end_with(store, UsageError("u"))
    assert store.query("SELECT * FROM runs").num_rows == 0


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("error", [error for error, _ in ENDS])
def test_a_row_that_cannot_be_written_is_a_note_on_the_error(store: Store, error: BaseException) -> None:
    error = type(error)(*error.args)  # notes stay on an exception
    with pytest.raises(type(error)) as caught:
        _end_with(store, error)
    assert caught.value is error
    (note,) = caught.value.__notes__
    assert note == "Its row of runs could not be written either: OSError: [Errno 28] No space left on device"


@pytest.mark.usefixtures("full")
def test_a_job_that_was_done_says_so_where_only_its_row_is_missing(store: Store) -> None:
    with pytest.raises(OSError, match="No space left") as caught, record_run(store, "extract", "demo", {}):
        pass
    (note,) = caught.value.__notes__
    assert note == "cxr extract itself was done and what it wrote is kept; only its row of runs is missing."


@pytest.mark.usefixtures("stuck")
def test_a_lease_that_cannot_be_removed_is_a_note_on_the_error(store: Store) -> None:
    error = HarmError("a shard was lost")
    with pytest.raises(HarmError) as caught:
        _end_with(store, error)
    assert caught.value is error
    (note,) = error.__notes__
    assert note.startswith(f"Its lease on {store.uri} could not be removed and keeps others waiting")


@pytest.mark.usefixtures("stuck")
def test_a_lease_that_cannot_be_removed_takes_no_result(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), record_run(store, "extract", "demo", {}) as run:
        run.counts = {"written": 3}
    assert store.query("SELECT status FROM runs")["status"].to_pylist() == ["done"]
    assert "could not be removed" in caplog.text


def test_the_command_line_shows_notes(cxr: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    error = HarmError("a shard was lost")
    error.add_note("Its row of runs could not be written either.")

    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(group, "main", fail)
    said = cxr("extract")
    assert (said.code, said.err) == (1, "Error: a shard was lost\nIts row of runs could not be written either.\n")
