"""Is a file still what was committed? The log says so itself: a file's name holds the SHA-256 of its bytes.

Delta's log has no field for a checksum, but every entry, also in a checkpoint, has the path.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from dataclasses import dataclass

import pyarrow as pa

from featurestore.errors import HarmError
from featurestore.store.location import Location
from featurestore.store.snapshot import DataFile, Snapshot

_NAME = re.compile(r"part-[0-9a-f]{32}-(?P<sha256>[0-9a-f]{64})\.parquet")
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class DamagedFile:
    """One live file that is not what was committed.

    Parameters
    ----------
    path : str
        Relative to the store's root.
    problem : str
        One clause for a person.
    """

    path: str
    problem: str


def checked_name(content: bytes | pa.Buffer) -> str:
    """Return the name of a new file with this content: unique, and with the content's checksum in it."""
    return f"part-{uuid.uuid4().hex}-{hashlib.sha256(content).hexdigest()}.parquet"


def checksum_in(path: str) -> str | None:
    """Return the checksum that a file's name promises; None for a file from before names had one."""
    match = _NAME.fullmatch(path.rpartition("/")[2])
    return match["sha256"] if match else None


def damage(snapshot: Snapshot, file: DataFile) -> DamagedFile | None:
    """Read one live file and compare it with what the log says; None where it is whole."""
    path = f"{snapshot.table}/{file.path}"
    problem = _wrong_size(file, snapshot.location.size(path))
    if problem is None and checksum_in(file.path):
        problem = _wrong_content(file, _sha256(snapshot.location, path))
    return DamagedFile(path, problem) if problem else None


def read_whole(location: Location, table: str, file: DataFile) -> bytes:
    """Return a live file's content if it is what was committed: its rows are about to get a checksum of their own.

    Raises
    ------
    HarmError
        If it is not.
    """
    path = f"{table}/{file.path}"
    try:
        content = location.read_bytes(path)
    except FileNotFoundError as error:
        raise HarmError(_explain(path, "it is gone")) from error
    problem = _wrong_size(file, len(content)) or _wrong_content(file, hashlib.sha256(content).hexdigest())
    if problem:
        raise HarmError(_explain(path, problem))
    return content


def _explain(path: str, problem: str) -> str:
    return (
        f"{path} is damaged ({problem}), so its rows were not written anew; put it back under its name from a backup, "
        "or give up its rows as docs/adr/0002 says, then run the same command again; cxr verify lists all such files"
    )


def _wrong_size(file: DataFile, size: int | None) -> str | None:
    if size is None:
        return "it is gone"
    return f"it has {size} bytes where {file.size} were committed" if size != file.size else None


def _wrong_content(file: DataFile, found: str) -> str | None:
    promised = checksum_in(file.path)
    if promised is None or found == promised:
        return None
    return f"its content changed: SHA-256 {promised[:12]} became {found[:12]}"


def _sha256(location: Location, path: str) -> str:
    digest = hashlib.sha256()
    with location.filesystem().open_input_stream(location.inside(path), compression=None) as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
