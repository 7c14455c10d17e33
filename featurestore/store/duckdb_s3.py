"""The store's objects on S3 for DuckDB, whose own extension for that is downloaded at run time."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

from fsspec import AbstractFileSystem
from pyarrow import fs

_SMALL = 1 << 20
_KEPT = 64 << 20
# DuckDB asks when a file changed to tell whether what it knows of it still holds. These never change.
_NEVER = datetime(2000, 1, 1, tzinfo=UTC)


class ExactObjects(AbstractFileSystem):  # type: ignore[misc]
    """Objects by their exact names, read only.

    DuckDB asks for a pattern's matches before it reads, opens each file about three times, and reads it in small
    pieces; on S3 each is a request. Here a name is its own only match, and since a store's files never change, sizes
    are remembered and small objects kept once read.

    Parameters
    ----------
    system : pyarrow.fs.S3FileSystem
    """

    protocol = "s3"
    cachable = False

    def __init__(self, system: fs.S3FileSystem) -> None:
        super().__init__()
        self._system = system
        self._sizes: dict[str, int] = {}
        self._contents: dict[str, bytes] = {}
        self._room = _KEPT

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("s3://")

    def glob(self, path: str, **_: Any) -> list[str]:
        """Return the path itself: brackets and stars in a prefix are no pattern."""
        return [self._strip_protocol(path)]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return the size of an object."""
        key = self._strip_protocol(path)
        if key not in self._sizes:
            self.open(path).close()
        return {"name": key, "type": "file", "size": self._sizes[key]}

    def modified(self, path: str) -> datetime:
        """Return a time, the same for all."""
        return _NEVER

    def open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        """Open an object for reading."""
        if mode != "rb":
            message = f"{path}: the store is read-only through SQL"
            raise PermissionError(message)
        key = self._strip_protocol(path)
        if key in self._contents:
            return io.BytesIO(self._contents[key])
        file = self._system.open_input_file(key)
        self._sizes[key] = file.size()
        return self._whole(key, file) if self._sizes[key] <= _SMALL else file

    def _whole(self, key: str, file: Any) -> io.BytesIO:
        with file:
            content: bytes = file.read()
        if len(content) <= self._room:
            self._room -= len(content)
            self._contents[key] = content
        return io.BytesIO(content)
