"""The files under ``_leases/``: who is writing, since when, and whether they are still there.

A lease is one small file of its own name, so taking one never overwrites another's. Its time is the file's, kept young
by its holder; ages are differences between times of one and the same server, so that no two clocks are compared.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pyarrow import fs

from featurestore.store.location import Location

FOLDER = "_leases"
STALE_SECONDS = 900.0
"""After so long without a sign of life, a holder counts as dead, to others and to itself."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")

Kind = Literal["shared", "exclusive"]


@dataclass(frozen=True)
class Holder:
    """Somebody else who holds a lease.

    Parameters
    ----------
    path : str
        Of the lease, relative to the store's root.
    what, host, machine, since : str
    pid : int
    silent : float
        Seconds since its last sign of life.
    """

    path: str
    what: str
    host: str
    machine: str
    pid: int
    since: str
    silent: float

    @property
    def alive(self) -> bool:
        """Return whether it may still be at work."""
        if self.machine == machine() and os.name == "posix" and not _runs(self.pid):
            return False
        return self.silent < STALE_SECONDS

    def __str__(self) -> str:
        return f"{self.what} (process {self.pid} on {self.host}, since {self.since} UTC)"


class LeaseFile:
    """A lease of our own.

    Parameters
    ----------
    location : Location
    kind : {"shared", "exclusive"}
    what : str
        What it is for, for people; nothing that names a patient.
    """

    def __init__(self, location: Location, kind: Kind, what: str) -> None:
        self._location = location
        self.path = f"{FOLDER}/{kind}-{uuid.uuid4().hex}.json"
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        who = {"what": what, "host": socket.gethostname(), "machine": machine(), "pid": os.getpid(), "since": since}
        self._content = json.dumps(who).encode()
        self._sign = now()
        self._lost = False
        location.write_bytes(self.path, self._content)

    def exists(self) -> bool:
        """Return whether nobody has taken the lease for stale, or can have; once lost, it stays lost."""
        self._lost = self._lost or now() - self._sign >= STALE_SECONDS or self._location.size(self.path) is None
        return not self._lost

    def beat(self) -> None:
        """Give a sign of life; a lease that was lost stays lost."""
        begun = now()
        if not self.exists():
            return
        if self._location.is_local:
            os.utime(self._location.inside(self.path))
        else:
            self._location.write_bytes(self.path, self._content)
        if now() - self._sign >= STALE_SECONDS:
            # It took so long that others may have removed the lease before: what was written now is nobody's.
            self._lost = True
            self.remove()
        self._sign = begun

    def remove(self) -> None:
        """Give the lease back."""
        self._location.remove(self.path)

    def others(self, kind: Kind | None = None) -> list[Holder]:
        """Return all living holders but this one, and remove the leases of the dead."""
        times = _times(self._location)
        now = times.get(self.path, 0.0)
        found = [
            holder
            for path, time in sorted(times.items())
            if path != self.path and (kind is None or path.startswith(f"{FOLDER}/{kind}-"))
            for holder in [_read(self._location, path, max(0.0, now - time))]
            if holder is not None
        ]
        for dead in [holder for holder in found if not holder.alive]:
            self._location.remove(dead.path)
        return [holder for holder in found if holder.alive]


def now() -> float:
    """Return seconds of a clock that nobody sets and that, on Linux, goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def machine() -> str:
    """Return what makes process ids comparable: the host, its start, and the process namespace.

    Many hosts have one name, and the first namespace has one number on every Linux; each start has an id of its own.
    """
    boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
    return f"{socket.gethostname()}/{boot}/{_NAMESPACE.stat().st_ino if _NAMESPACE.exists() else 0}"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, but there
        return True
    return True


def _times(location: Location) -> dict[str, float]:
    selector = fs.FileSelector(location.inside(FOLDER), allow_not_found=True)
    found = location.filesystem().get_file_info(selector)
    files = [info for info in found if info.type == fs.FileType.File and info.base_name.endswith(".json")]
    return {f"{FOLDER}/{info.base_name}": info.mtime_ns / 1e9 for info in files}


def _read(location: Location, path: str, silent: float) -> Holder | None:
    try:
        content = location.read_bytes(path)
    except FileNotFoundError:  # given back since it was listed
        return None
    try:
        return Holder(path, silent=silent, **json.loads(content))
    except (ValueError, TypeError):  # a power cut leaves empty files: somebody, who is dead once silent long enough
        return Holder(path, "somebody whose lease cannot be read", "?", "", 0, "?", silent)
