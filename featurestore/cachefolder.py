"""Where derived files that any run can make again are kept on this machine (networks; vectors of stores on S3)."""

from __future__ import annotations

import os
from pathlib import Path

from featurestore.errors import HarmError


def cache_folder(name: str) -> Path:
    """Return a folder of this user's cache, made where it is missing, readable by this user only.

    It lies under ``$CXR_CACHE``, ``$XDG_CACHE_HOME/cxrstore`` or ``~/.cache/cxrstore``, the first that is set.

    Parameters
    ----------
    name : str

    Raises
    ------
    HarmError
        If somebody else owns it: what lies in it is run as a program.
    """
    fallback = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cxrstore"
    root = Path(os.environ.get("CXR_CACHE") or fallback).expanduser()
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for made in (root, folder):
        if made.stat().st_uid != os.getuid():
            message = f"{made} belongs to somebody else; set CXR_CACHE to a folder of your own"
            raise HarmError(message)
        made.chmod(0o700)
    return folder
