"""DuckDB connections in memory, each with a place of its own to spill to."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import uuid
from functools import lru_cache
from pathlib import Path

import duckdb

from featurestore.store.location import Location


def open_memory(location: Location | None = None) -> duckdb.DuckDBPyConnection:
    """Return a connection that downloads nothing and, given a location, can read the files there.

    Its folder for spilling is made on need and removed on closing. It is nobody else's: DuckDB's temporary files have
    fixed names, so two connections that spill into one folder would overwrite each other's. Nobody else can look into
    it either, since rows with patients' ids may be spilled; what is left of a process that was killed stays closed.
    """
    scratch = _private_folder(os.getpid()) / uuid.uuid4().hex
    con = duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "temp_directory": str(scratch),
        }
    )
    # It would be on stdout, after two seconds, where Python runs no script: -c, a prompt, a notebook.
    con.execute("SET enable_progress_bar = false")
    if location is not None and not location.is_local:
        from featurestore.store.duckdb_s3 import ExactObjects

        con.register_filesystem(ExactObjects(location.filesystem()))
    return con


@lru_cache(maxsize=1)  # a forked child has another pid, and makes its own
def _private_folder(pid: int) -> Path:
    """Return a folder for this user only, which this process removes when it ends."""
    folder = Path(tempfile.mkdtemp(prefix="cxrstore-"))
    atexit.register(_remove, folder, pid)
    return folder


def _remove(folder: Path, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)  # what cannot be removed is closed to others still
