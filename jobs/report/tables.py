"""A table of the report: what is read in the page, and the CSV behind it."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Cell:
    """One cell.

    Parameters
    ----------
    text : str
        As it is read; `markupsafe.Markup` is kept, plain text is escaped by the template.
    sub : str
        A second, smaller line.
    title : str
        Said on hovering.
    css : str
        Classes, such as ``h3`` for a tint.
    bar : float or None
        Length of a bar behind the text, 0..1.
    """

    text: str
    sub: str = ""
    title: str = ""
    css: str = ""
    bar: float | None = None


@dataclass(frozen=True)
class Column:
    """One column: its heading, a smaller second line, and whether it holds numbers (set flush right)."""

    name: str
    sub: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """One table.

    Parameters
    ----------
    name : str
        Unique in the page: the id, and the file name of the CSV.
    caption : str
    columns : sequence of Column
    rows : sequence of sequence of Cell
        The first cell of each is the row's heading.
    records : sequence of mapping
        The same facts unrounded, one mapping a row, for the CSV.
    note : str
        A sentence beneath.
    css : str
        Classes of the table, such as ``heat``.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    records: Sequence[Mapping[str, object]]
    note: str = ""
    css: str = ""
    marked: frozenset[int] = field(default=frozenset())

    @property
    def csv_uri(self) -> str:
        """The records as a ``data:`` address, which a browser saves without a request or a script."""
        text = to_csv(self.records)
        return "data:text/csv;charset=utf-8;base64," + base64.b64encode(text.encode()).decode()


def to_csv(records: Iterable[Mapping[str, object]]) -> str:
    """Return records as CSV text; the heading is the union of their keys in order, None and NaN are empty."""
    rows = list(records)
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_plain(name) for name in names])
    writer.writerows([_plain(row.get(name)) for name in names] for row in rows)
    return out.getvalue()


def _plain(value: object) -> object:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    # A label is somebody else's text: a spreadsheet must not run it as a formula.
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return value
