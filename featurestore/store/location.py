"""Where a store lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote
from urllib.request import url2pathname

from featurestore.errors import UsageError


@dataclass(frozen=True)
class Location:
    """The root folder of a store; every table is the folder of its name below it.

    Parameters
    ----------
    root : str
        Absolute path without a trailing slash.
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
        if "://" in text and not text.startswith("file://"):
            message = f"store {text!r}: only local folders are served so far; give a path such as ./store"
            raise UsageError(message)
        path = _absolute(text)
        _check_characters(path)
        if path.exists() and not path.is_dir():
            message = f"store {text!r} is a file; a store is a folder: name one that exists, or one to make"
            raise UsageError(message)
        return cls(str(path))

    def table(self, name: str) -> str:
        """Return the folder of a table."""
        return f"{self.root}/{name}"

    def exists(self) -> bool:
        """Return whether anything was ever stored here."""
        return any((Path(self.root) / name / "_delta_log").is_dir() for name in ("runs", "images"))


def _absolute(text: str) -> Path:
    path = Path(url2pathname(text.removeprefix("file://")) if text.startswith("file://") else text)
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        message = f"store {text!r}: {error}; write the folder out, or ./~name for one whose name starts with ~"
        raise UsageError(message) from error


def _check_characters(path: Path) -> None:
    # delta-rs decodes %41 in local paths, turns a backslash into a slash, and refuses control characters.
    text = str(path)
    if unquote(text) != text or "\\" in text or not text.isprintable():
        message = (
            f"store {text!r}: a store's path may not hold a backslash, a control character or '%' before two hex "
            "digits, which the table format reads as another path; rename the folder or choose another"
        )
        raise UsageError(message)
