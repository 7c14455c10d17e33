"""Who may write: any number of writers together, or one that needs to be alone (docs/adr/0007).

A writer announces itself, then looks whether somebody is alone; who wants to be alone announces that, then looks for
writers. Listings are consistent on disks and on S3: of two that come at once at least one sees the other, and yields.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Lock, Thread, get_ident

from featurestore.errors import StoppedError
from featurestore.store.lease_files import FOLDER, Kind, LeaseFile
from featurestore.store.location import Location

BEAT_SECONDS = 60.0
WAIT_SECONDS = 60.0
"""So long a writer waits for somebody who is alone: forgetting takes seconds."""
_POLL_SECONDS = 0.5
_LOG = logging.getLogger(__name__)


class Lease:
    """A lease this process holds.

    Parameters
    ----------
    location : Location
    kind : {"shared", "exclusive"}
    file : LeaseFile
    """

    def __init__(self, location: Location, kind: Kind, file: LeaseFile) -> None:
        self._location, self._kind, self._file = location, kind, file
        self._thread, self._over = get_ident(), Event()
        self.users = 1
        self._heart = Thread(target=self._beat, name="lease", daemon=True)
        self._heart.start()

    def covers(self, kind: Kind) -> bool:
        """Return whether work of this kind on this thread may go on under this lease."""
        if self._kind == "exclusive":
            return self._thread == get_ident()
        return kind == "shared"

    def check(self) -> None:
        """Raise StoppedError if others took this process for dead: what it is about to write may be forgotten."""
        if not self._file.exists():
            message = (
                f"the lease on {self._location.root} is gone: this process gave no sign of life for so long (a "
                "suspended machine, a disk that hung) that others went on without it; run the same command again"
            )
            raise StoppedError(message)

    def give_back(self) -> None:
        """End the lease."""
        self._over.set()
        self._heart.join()  # a beat that is under way would bring the lease back
        self._file.remove()
        _leave_no_empty_store(self._location)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            # A beat that fails is a missing sign of life: the next one may come through, and `check` tells the rest.
            with suppress(OSError):
                self._file.beat()


_held: dict[tuple[int, str], Lease] = {}
_lock = Lock()


@contextmanager
def writing(location: Location, what: str = "a commit") -> Iterator[Lease]:
    """Announce a writer for as long as the block lasts; inside another such block this costs nothing.

    Parameters
    ----------
    location : Location
    what : str
        For people who have to wait; nothing that names a patient.

    Raises
    ------
    StoppedError
        If somebody stays alone for longer than `WAIT_SECONDS`.
    """
    lease = _join(location, "shared") or _register(location, "shared", _wait_for_turn(location, what))
    with _until_left(location, lease):
        yield lease


@contextmanager
def alone(location: Location, what: str) -> Iterator[Lease]:
    """Keep all other writers out for as long as the block lasts; only this thread may write then.

    Inside another such block this costs nothing.

    Raises
    ------
    StoppedError
        If there is any writer now; says who, and since when.
    """
    lease = _join(location, "exclusive") or _register(location, "exclusive", _claim(location, what))
    with _until_left(location, lease):
        yield lease


@contextmanager
def _until_left(location: Location, lease: Lease) -> Iterator[None]:
    """Leave the lease after the block; a lease that cannot be removed takes the place of no error and of no result."""
    try:
        yield
    except BaseException as error:
        if left := _leave(location, lease):
            error.add_note(left)
        raise
    if left := _leave(location, lease):
        _LOG.warning("%s", left)


def _claim(location: Location, what: str) -> LeaseFile:
    file = LeaseFile(location, "exclusive", what)
    if others := file.others():
        file.remove()
        message = (
            f"{what} needs the store at {location.root} for itself, but there is {'; '.join(map(str, others))}; run it "
            "again when that is done"
        )
        raise StoppedError(message)
    return file


def _join(location: Location, kind: Kind) -> Lease | None:
    with _lock:
        lease = _held.get(_key(location))
        if lease is None or not lease.covers(kind):
            return None
        lease.users += 1
        return lease


def _register(location: Location, kind: Kind, file: LeaseFile) -> Lease:
    with _lock:
        lease = _held.get(_key(location))
        if lease is None:
            return _held.setdefault(_key(location), Lease(location, kind, file))
        lease.users += 1  # another thread of this process came first
    file.remove()
    return lease


def _leave(location: Location, lease: Lease) -> str | None:
    """Return what to tell people where the lease could not be removed: it then stands until it is taken for dead."""
    with _lock:
        lease.users -= 1
        if lease.users:
            return None
        del _held[_key(location)]
    try:
        lease.give_back()
    except Exception as error:  # noqa: BLE001 - it is told, beside what the block itself ended with
        return f"Its lease on {location.root} could not be removed and keeps others waiting until it is stale: {error}"
    return None


def _wait_for_turn(location: Location, what: str) -> LeaseFile:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        file = _announce(location, what)
        others = file.others("exclusive")
        if not others:
            return file
        file.remove()
        if time.monotonic() > deadline:
            message = (
                f"the store at {location.root} is closed to writers by {'; '.join(map(str, others))}; run the same "
                "command again when that is done"
            )
            raise StoppedError(message)
        time.sleep(_POLL_SECONDS)


def _announce(location: Location, what: str) -> LeaseFile:
    try:
        return LeaseFile(location, "shared", what)
    except FileNotFoundError:  # somebody tidied an empty folder away between its making and its use
        return LeaseFile(location, "shared", what)


def _key(location: Location) -> tuple[int, str]:
    # A forked child inherits the dictionary, but neither the heart nor the right.
    return os.getpid(), location.root


def _leave_no_empty_store(location: Location) -> None:
    """Remove the folders a lease made where nothing was stored after all."""
    if location.is_local and not location.exists():
        for folder in (Path(location.root) / FOLDER, Path(location.root)):
            with suppress(OSError):  # not empty: somebody else is about to store something
                folder.rmdir()
