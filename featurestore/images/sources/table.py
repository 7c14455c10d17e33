"""Any CSV whose columns the user names."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from featurestore.errors import UsageError
from featurestore.images.records import ImageRecord, Reject
from featurestore.images.sources.duplicates import Parsed, stream
from featurestore.images.sources.labels import read_labels
from featurestore.images.sources.paths import existing_file, normal_key, resolve_inside
from featurestore.images.sources.rows import Row, count_rows, read_header, read_rows, require_columns, separator_for
from featurestore.images.sources.values import text_or_none


class TableSource:
    """A CSV with one row an image; image paths are relative to the folder the CSV lies in.

    Parameters
    ----------
    path : Path
        The CSV file.
    image_column : str or None
        Column of the image paths; has to be given.
    patient_column : str, optional
        Without it each image is its own patient.
    labels : tuple of str
        Columns whose cells are 1, 0, -1, blank or NaN.
    separator : str, optional
        Default: a comma, or a tab where the name ends in ``.tsv``.

    Raises
    ------
    featurestore.errors.UsageError
        For a missing file or column, naming the columns found.
    """

    name = "csv"

    def __init__(
        self,
        path: Path,
        image_column: str | None,
        patient_column: str | None = None,
        labels: tuple[str, ...] = (),
        separator: str | None = None,
    ) -> None:
        self._table = existing_file(path, "a CSV file with one row an image")
        self._separator = separator_for(path, separator)
        header = read_header(self._table, self._separator)
        if image_column is None:
            raise UsageError(
                f"name the column of the image paths by --image-column; columns found: {', '.join(header)}"
            )
        used = [image_column, *labels, *([patient_column] if patient_column else [])]
        require_columns(self._table, header, used)
        self._image_column, self._patient_column, self._labels = image_column, patient_column, labels

    def count(self) -> int:
        """Return about how many rows there are."""
        return count_rows(self._table)

    def records(self) -> Iterator[ImageRecord | Reject]:
        """Yield one record a row; see `featurestore.images.records.Source`."""
        return stream(self._parse, self._table, partial(resolve_inside, self._table.parent.resolve()))

    def _parse(self) -> Iterator[Parsed | Reject]:
        for row in read_rows(self._table, self._separator):
            yield self._parse_row(row) if isinstance(row, Row) else row

    def _parse_row(self, row: Row) -> Parsed:
        labels, problems = read_labels(row.cells, self._labels)
        patient = text_or_none(row.cells[self._patient_column]) if self._patient_column else None
        key = normal_key(row.cells[self._image_column])
        return Parsed(row.line, ImageRecord(key, "", patient_id=patient, labels=labels), problems)
