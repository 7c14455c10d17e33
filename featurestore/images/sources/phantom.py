"""A folder the phantom generator wrote: `phantom.csv` and, with planted findings, `rois.json`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from featurestore.images.records import ImageRecord, Reject
from featurestore.images.sources.duplicates import Parsed, stream
from featurestore.images.sources.labels import CHEXPERT_LABELS, read_labels
from featurestore.images.sources.paths import existing_file, existing_folder, normal_key, resolve_inside
from featurestore.images.sources.rows import Row, count_rows, read_header, read_rows, require_columns
from featurestore.images.sources.values import parse_age, parse_sex, parse_view, text_or_none

TABLE = "phantom.csv"
ROIS = "rois.json"
_COLUMNS = ("path", "patient", "study", "view", "sex", "age")


class PhantomSource:
    """The table of a phantom folder; its regions come through `featurestore.images.sources.rois.WithRois`.

    Parameters
    ----------
    path : Path
        The folder.

    Raises
    ------
    featurestore.errors.UsageError
        Where the folder, the table or a column is missing.
    """

    name = "phantom"

    def __init__(self, path: Path) -> None:
        self._folder = existing_folder(path, f"a folder of phantoms with {TABLE}")
        self._table = existing_file(self._folder / TABLE, "the table the phantom generator writes")
        require_columns(self._table, read_header(self._table), (*_COLUMNS, *CHEXPERT_LABELS))

    def count(self) -> int:
        """Return about how many rows there are."""
        return count_rows(self._table)

    def records(self) -> Iterator[ImageRecord | Reject]:
        """Yield one record a row; see `featurestore.images.records.Source`."""
        return stream(self._parse, self._table, partial(resolve_inside, self._folder))

    def _parse(self) -> Iterator[Parsed | Reject]:
        for row in read_rows(self._table):
            yield _parse_row(row) if isinstance(row, Row) else row


def _parse_row(row: Row) -> Parsed:
    cells = row.cells
    labels, problems = read_labels(cells, CHEXPERT_LABELS)
    record = ImageRecord(
        normal_key(cells["path"]),
        "",
        patient_id=text_or_none(cells["patient"]),
        study_id=text_or_none(cells["study"]),
        view=parse_view(cells["view"]),
        sex=parse_sex(cells["sex"]),
        age=parse_age(cells["age"]),
        labels=labels,
    )
    return Parsed(row.line, record, problems)
