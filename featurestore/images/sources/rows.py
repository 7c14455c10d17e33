"""Rows of a CSV file, streamed, with the broken ones named by their line."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.errors import UsageError
from featurestore.images.records import Reject

if TYPE_CHECKING:
    import _csv

_SPELLED_SEPARATORS = {"\\t": "\t", "tab": "\t"}


@dataclass(frozen=True)
class Row:
    """One row: the line it ends on (from 1, the header being the first) and its cells by column."""

    line: int
    cells: dict[str, str]


def separator_for(path: Path, given: str | None = None) -> str:
    r"""Return the field separator: the one given (``\t`` and ``tab`` may be spelled), else by the file's name.

    Raises
    ------
    featurestore.errors.UsageError
        Where it is not one character.
    """
    if given is None:
        return "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
    separator = _SPELLED_SEPARATORS.get(given.lower(), given)
    if len(separator) != 1 or separator in '"\r\n':
        raise UsageError(f"separator {given!r}; expected one character such as ',' or ';' or 'tab'")
    return separator


def read_header(path: Path, separator: str = ",") -> list[str]:
    """Return the column names.

    Raises
    ------
    featurestore.errors.UsageError
        Where the file cannot be read as text, or is empty.
    """
    with open_csv(path, separator) as reader:
        header = next(reader, None)
    if not header:
        raise UsageError(f"{path} is empty; expected a header row")
    return [name.strip() for name in header]


def require_columns(path: Path, found: Iterable[str], wanted: Iterable[str]) -> None:
    """Check that columns are there, once each.

    Raises
    ------
    featurestore.errors.UsageError
        Naming the missing (or doubled) columns and the ones found.
    """
    header = list(found)
    wrong = [name for name in wanted if header.count(name) != 1]
    if wrong:
        listed = ", ".join(name or "(unnamed)" for name in header[:60])
        how = "no column" if wrong[0] not in header else "more than one column"
        raise UsageError(f"{path} has {how} {', '.join(map(repr, wrong))}; columns found: {listed}")


def read_rows(path: Path, separator: str = ",") -> Iterator[Row | Reject]:
    """Yield every row that has as many fields as the header; a broken one becomes a `Reject` (stage ``row``).

    Blank lines are passed over, and so are blank fields beyond the header (a trailing separator).

    Raises
    ------
    featurestore.errors.UsageError
        Where the file cannot be read as text.
    """
    header = read_header(path, separator)
    with open_csv(path, separator) as reader:
        next(reader)
        for fields in reader:
            if any(field.strip() for field in fields):
                yield _row(path, reader.line_num, header, fields)


def _row(path: Path, line: int, header: list[str], fields: list[str]) -> Row | Reject:
    while len(fields) > len(header) and not fields[-1].strip():
        fields.pop()
    if len(fields) != len(header):
        reason = f"line {line}: {len(fields)} fields, the header has {len(header)}"
        return Reject(f"{path}#{line}", f"line {line}", "row", reason)
    return Row(line, dict(zip(header, fields, strict=True)))


def count_rows(path: Path) -> int:
    """Return about how many rows follow the header, by counting line ends (a quoted line break counts too)."""
    n_ends, last = 0, b"\n"
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            n_ends, last = n_ends + chunk.count(b"\n"), chunk[-1:]
    return max(n_ends + (last != b"\n") - 1, 0)


@contextmanager
def open_csv(path: Path, separator: str = ",") -> Iterator[_csv.Reader]:
    """Open a CSV file for reading.

    Raises
    ------
    featurestore.errors.UsageError
        For whatever makes the file unreadable as a whole, also while it is being read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            yield csv.reader(stream, delimiter=separator)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text ({error.reason}, byte {error.object[error.start]:#04x})") from error
    except csv.Error as error:
        raise UsageError(f"{path} cannot be read as CSV: {error}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; expected a CSV file") from error
