"""Where a store lies: a local folder, or a prefix of an S3 bucket; and the reading and writing of files there."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote
from urllib.request import url2pathname

import pyarrow as pa
from pyarrow import fs

from featurestore import failpoints
from featurestore.errors import UsageError
from featurestore.store.schema import TABLES

_S3 = "s3://"
AT_ONCE = 16
"""Requests, where each is a wait for the network and nothing else."""


@dataclass(frozen=True)
class Location:
    """The root folder of a store; every table is the folder of its name below it.

    Parameters
    ----------
    root : str
        Absolute path, or ``s3://bucket/prefix`` with nothing encoded, without a trailing slash.
    """

    root: str

    @classmethod
    def parse(cls, uri: str | Path) -> Location:
        """Read a store URI.

        Raises
        ------
        UsageError
            For a scheme that is not served, a path that is a file, or one that Delta would read as another.
        """
        text = str(uri)
        if text.startswith(_S3):
            from featurestore.store.s3 import parse_uri

            return cls(_checked(parse_uri(text), text))
        if "://" in text and not text.startswith("file://"):
            message = f"store {text!r}: give a folder such as ./store, or s3://bucket/prefix; no other scheme is served"
            raise UsageError(message)
        path = _absolute(text)
        _checked(str(path), text)
        if path.exists() and not path.is_dir():
            message = f"store {text!r} is a file; a store is a folder: name one that exists, or one to make"
            raise UsageError(message)
        return cls(str(path))

    @property
    def is_local(self) -> bool:
        """Return whether the store is a folder of this machine."""
        return not self.root.startswith(_S3)

    def table(self, name: str) -> str:
        """Return the folder of a table."""
        return f"{self.root}/{name}"

    def delta(self, name: str) -> str:
        """Return the folder of a table as deltalake takes it: URLs, which it decodes, and plain local paths."""
        folder = self.table(name)
        return folder if self.is_local else _S3 + quote(folder.removeprefix(_S3))

    def storage_options(self) -> dict[str, str] | None:
        """Return what deltalake has to be told beside the folder.

        Raises
        ------
        UsageError
            If the bucket does not answer, is not there, or is closed to these credentials.
        """
        if self.is_local:
            return None
        from featurestore.store import s3

        s3.connect(self.root)
        return s3.storage_options()

    def filesystem(self) -> fs.FileSystem:
        """Return Arrow's own filesystem for the store; with Delta's, some interpreters abort at exit.

        Raises
        ------
        UsageError
            As `storage_options`.
        """
        if self.is_local:
            return fs.LocalFileSystem()
        from featurestore.store import s3

        return s3.connect(self.root)

    def inside(self, path: str) -> str:
        """Return ``path``, which is absolute or relative to the root, as `filesystem` takes it."""
        absolute = path if path.startswith((_S3, "/")) or Path(path).is_absolute() else f"{self.root}/{path}"
        return absolute.removeprefix(_S3)

    def exists(self) -> bool:
        """Return whether anything was ever stored here."""
        folders = [self.inside(f"{name}/_delta_log") for name in ("runs", "images")]
        return any(info.type == fs.FileType.Directory for info in self.filesystem().get_file_info(folders))

    def size(self, path: str) -> int | None:
        """Return the bytes of a file, None where there is none.

        Parameters
        ----------
        path : str
            Relative to the root, or absolute; so in every method here.
        """
        (info,) = self.filesystem().get_file_info([self.inside(path)])
        return int(info.size) if info.type == fs.FileType.File else None

    def sizes(self, paths: Sequence[str]) -> list[int | None]:
        """Return `size` of each of several files, on S3 asked for side by side."""
        if self.is_local or len(paths) < 2:
            return [self.size(path) for path in paths]
        with ThreadPoolExecutor(min(AT_ONCE, len(paths))) as pool:
            return list(pool.map(self.size, paths))

    def read_bytes(self, path: str) -> bytes:
        """Return a file's content."""
        with self.filesystem().open_input_file(self.inside(path)) as stream:
            return bytes(stream.read())

    def write_bytes(self, path: str, content: bytes | pa.Buffer) -> None:
        """Write a file so that nobody ever sees a part of it under its name."""
        target, system = self.inside(path), self.filesystem()
        if not self.is_local:  # an object appears when its upload is complete
            _write(system, target, content)
            return
        folder = Path(target).parent
        folder.mkdir(parents=True, exist_ok=True)
        scratch = folder / f".{uuid.uuid4().hex}.tmp"
        try:
            _write(system, str(scratch), content)
            failpoints.reach(f"{path.partition('/')[0]}.half-written", scratch)
            scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""
        if self.is_local:
            Path(self.inside(path)).unlink(missing_ok=True)
            return
        from deltalake.fs import DeltaStorageHandler

        # Arrow's would put an empty object in the place of a folder that is left without files.
        bucket, _, key = self.inside(path).partition("/")
        DeltaStorageHandler(f"{_S3}{bucket}", self.storage_options()).delete_file(key)

    def list_files(self, folder: str) -> dict[str, int]:
        """Return {path relative to ``folder``: bytes} of all files below it; empty where it is not there."""
        top = self.inside(folder)
        found = self.filesystem().get_file_info(fs.FileSelector(top, recursive=True, allow_not_found=True))
        return {f.path.removeprefix(f"{top}/"): int(f.size) for f in found if f.type == fs.FileType.File}


def _write(system: fs.FileSystem, target: str, content: bytes | pa.Buffer) -> None:
    # No guess of a compression from the name.
    with system.open_output_stream(target, compression=None) as stream:
        stream.write(content)


def _absolute(text: str) -> Path:
    path = Path(url2pathname(text.removeprefix("file://")) if text.startswith("file://") else text)
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        message = f"store {text!r}: {error}; write the folder out, or ./~name for one whose name starts with ~"
        raise UsageError(message) from error


def _checked(path: str, text: str) -> str:
    # delta-rs decodes %41 in paths, also where it was encoded; it turns a backslash into a slash, and refuses control
    # characters.
    if unquote(path) != path or "\\" in path or not path.isprintable():
        message = (
            f"store {text!r}: a store's path may not hold a backslash, a control character or '%' before two hex "
            "digits, which the table format reads as another path; rename the folder or choose another"
        )
        raise UsageError(message)
    partitions = {column for table in TABLES.values() for column in table.partition_by}
    taken = sorted(partitions & {part.partition("=")[0] for part in path.split("/") if "=" in part})
    if taken:
        message = (
            f"store {text!r}: a folder named {taken[0]}=... above the store would be read as the column {taken[0]} of "
            "every row; rename the folder or choose another"
        )
        raise UsageError(message)
    return path
