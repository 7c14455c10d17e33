"""Where a store keeps what can be computed again: below its root, or on this machine where the root is a bucket."""

from __future__ import annotations

import hashlib
from pathlib import Path

from featurestore.cachefolder import cache_folder
from featurestore.errors import UsageError
from featurestore.store.location import Location

CACHES = "_cache"
"""The folder below a store's root; forgetting empties it."""


def local_cache(location: Location) -> Path:
    """Return a folder of this machine for the store's disposable files, made where missing, for this user only.

    Raises
    ------
    UsageError
        If it cannot be made, or belongs to somebody else.
    """
    if not location.is_local:
        return cache_folder(_name(location))
    folder = Path(location.root) / CACHES
    try:
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        message = (
            f"{folder} cannot be made a folder of yours alone ({error.strerror}); cxr sql answers without one: "
            "ORDER BY array_cosine_similarity(...)"
        )
        raise UsageError(message) from error
    return folder


def empty_caches(location: Location) -> None:
    """Remove every disposable file of the store that this machine can reach."""
    for path in location.list_files(CACHES):
        location.remove(f"{CACHES}/{path}")
    if not location.is_local:
        for file in [path for path in cache_folder(_name(location)).rglob("*") if not path.is_dir()]:
            file.unlink(missing_ok=True)


def _name(location: Location) -> str:
    return f"store-{hashlib.sha256(location.root.encode()).hexdigest()[:32]}"
