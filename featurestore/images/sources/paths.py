"""A table's paths, confined to the folder they are relative to."""

from __future__ import annotations

import posixpath
from pathlib import Path

from featurestore.errors import ImageRejected, UsageError
from featurestore.images.faults import words_of


def normal_key(relative: str) -> str:
    """Return one spelling of a relative path, so that ``./a.png`` and ``a.png`` are one source key."""
    return posixpath.normpath(relative.strip()) if relative.strip() else ""


def resolve_inside(folder: Path, relative: str) -> Path:
    """Return the absolute path of an existing file that lies inside a folder.

    Parameters
    ----------
    folder : Path
        Already resolved (`Path.resolve`); it may itself have been reached through a link.
    relative : str
        As the table names it, with ``/``.

    Returns
    -------
    Path
        Resolved: no links, no ``..``.

    Raises
    ------
    featurestore.errors.ImageRejected
        Stage ``path``: blank, absolute, climbing or linked out of the folder; retryable where the file is missing.
    """
    if not relative:
        raise ImageRejected("path", "the path is blank")
    if relative.startswith("/"):
        raise ImageRejected("path", f"{relative!r} is absolute; expected a path relative to the table's folder")
    if normal_key(relative).split("/")[0] == "..":
        raise ImageRejected("path", f"{relative!r} climbs out of its folder")
    try:
        found = (folder / relative).resolve(strict=True)
    except FileNotFoundError as error:
        is_link = (folder / relative).is_symlink()
        what = f"{relative!r} is a link whose target does not exist" if is_link else f"no such file: {relative!r}"
        raise ImageRejected("path", what, retryable=True) from error
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name too long, a null byte
        raise ImageRejected("path", f"{relative!r} cannot be opened: {words_of(error)}") from error
    if not found.is_relative_to(folder):
        raise ImageRejected("path", f"{relative!r} is a link that leads out of its folder")
    if not found.is_file():
        raise ImageRejected("path", f"{relative!r} is not a regular file (a folder, pipe or device)")
    return found


def existing_file(path: Path, what: str) -> Path:
    """Return the path, absolute, of a file the user named.

    Raises
    ------
    featurestore.errors.UsageError
        Where there is no such file; ``what`` says in words what belongs there.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise UsageError(f"{found}: {path}; expected {what}")
    return path.absolute()


def existing_folder(path: Path, what: str) -> Path:
    """Return the path, resolved, of a folder the user named.

    Raises
    ------
    featurestore.errors.UsageError
        Where there is no such folder; ``what`` says in words what belongs there.
    """
    if not path.is_dir():
        found = "a file" if path.is_file() else "no such folder"
        raise UsageError(f"{found}: {path}; expected {what}")
    return path.resolve()
