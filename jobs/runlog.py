"""One row of `runs` for every job: arguments, versions, counts, seconds by stage, table versions read."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from time import perf_counter
from typing import Any

import pyarrow as pa

from featurestore.errors import StoppedError, UsageError
from featurestore.store import Store
from featurestore.store.lease import writing

_LIBRARIES = ("cxrstore", "torch", "timm", "ray", "duckdb", "pyarrow", "deltalake", "scikit-learn", "lightgbm", "numpy")


@dataclass
class Run:
    """A job in progress; fill `counts`, `seconds`, `device` and `status` as it goes.

    Parameters
    ----------
    run_id : str
    counts : dict
    seconds : dict
        By stage; ``by_backbone`` is a nested dict.
    device : dict
    status : str
        ``done``, ``failed``, ``stopped`` or ``interrupted``.
    """

    run_id: str
    counts: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, Any] = field(default_factory=dict)
    device: list[dict[str, str]] = field(default_factory=list)
    status: str = "done"


def library_versions() -> dict[str, str]:
    """Return versions of Python and the libraries that matter, without importing them."""
    found = {"python": python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def utc_now() -> datetime:
    """Return the time in UTC without a zone, as every table stores it."""
    return datetime.now(UTC).replace(tzinfo=None)


@contextmanager
def record_run(store: Store, command: str, dataset: str | None, arguments: Mapping[str, Any]) -> Iterator[Run]:
    """Write a row of `runs` when the block ends, however it ends; until then nobody can have the store for himself.

    Parameters
    ----------
    store : Store
    command : str
    dataset : str or None
    arguments : mapping
        JSON-able; nothing that names a patient.

    Raises
    ------
    featurestore.errors.StoppedError
        If somebody has the store for himself and does not end soon.
    """
    run = Run(f"{command}-{uuid.uuid4().hex[:12]}")
    with writing(store.location, f"cxr {command}"), _logged(store, run, command, dataset, arguments):
        yield run


@contextmanager
def _logged(store: Store, run: Run, command: str, dataset: str | None, arguments: Mapping[str, Any]) -> Iterator[None]:
    read, started, start = store.versions(), utc_now(), perf_counter()

    def write() -> None:
        run.seconds["total"] = perf_counter() - start
        row = {
            "run_id": run.run_id,
            "command": command,
            "dataset": dataset,
            "arguments": json.dumps(dict(arguments), sort_keys=True, default=str),
            "versions": json.dumps(library_versions()),
            "device": json.dumps(run.device),
            "counts": json.dumps(run.counts),
            "seconds": json.dumps(run.seconds),
            "tables": json.dumps(read),
            "status": run.status,
            "started_at": started,
            "finished_at": utc_now(),
        }
        store.append("runs", pa.table({name: [value] for name, value in row.items()}))

    try:
        yield
    except BaseException as error:
        run.status = _status_after(error)
        _write_after(error, run, write)
        raise
    try:
        write()
    except Exception as error:
        error.add_note(f"cxr {command} itself was done and what it wrote is kept; only its row of runs is missing.")
        raise


def _status_after(error: BaseException) -> str:
    for kind, status in ((KeyboardInterrupt, "interrupted"), (StoppedError, "stopped"), (UsageError, "refused")):
        if isinstance(error, kind):
            return status
    return "failed"


def _write_after(error: BaseException, run: Run, write: Callable[[], None]) -> None:
    """Write the row of a run that ended with an error, which stays the one that is told."""
    # What was refused did nothing, and must not make a store where there was none.
    if run.status == "refused":
        return
    try:
        write()
    except Exception as second:  # noqa: BLE001 - it is told, as a note on what came first
        error.add_note(f"Its row of runs could not be written either: {type(second).__name__}: {second}")
