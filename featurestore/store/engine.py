"""DuckDB connections in memory, each with a place of its own to spill to."""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path

import duckdb


def open_memory() -> duckdb.DuckDBPyConnection:
    """Return a connection that downloads nothing.

    Its folder for spilling is made on need and removed on closing. It is nobody else's: DuckDB's temporary files have
    fixed names, so two processes that spill into one folder would overwrite each other's.
    """
    scratch = Path(tempfile.gettempdir()) / f"cxrstore-{uuid.uuid4().hex}"
    return duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "temp_directory": str(scratch),
        }
    )
