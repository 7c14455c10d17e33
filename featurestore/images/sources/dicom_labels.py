"""Labels of DICOM files from a CSV beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from featurestore.images.records import Reject
from featurestore.images.sources.labels import read_labels
from featurestore.images.sources.paths import existing_file, normal_key
from featurestore.images.sources.rows import Row, read_header, read_rows, require_columns, separator_for

_KEY_COLUMNS = ("sopinstanceuid", "sop_instance_uid", "path", "file", "filename", "file_name", "image", "image_id")


@dataclass(frozen=True)
class LabelRow:
    """The labels of one row; ``problems`` names those that could not be read."""

    line: int
    key: str
    labels: dict[str, int | None]
    problems: tuple[str, ...]


@dataclass
class Labels:
    """All usable rows by key, and the rejects."""

    table: Path
    rows: dict[str, LabelRow] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)

    def find(self, key: str, uid: str) -> LabelRow | None:
        """Return the row of a file by SOPInstanceUID, relative path, file name or stem, in this order."""
        path = PurePosixPath(key)
        names = (uid, key, str(path.with_suffix("")), path.name, path.stem)
        return next((self.rows[name] for name in names if name in self.rows), None)

    def unused(self, used: set[str]) -> Iterator[Reject]:
        """Yield a reject (stage ``label``) for each row that names no file of the folder."""
        for key, row in self.rows.items():
            if key not in used:
                reason = f"line {row.line}: no DICOM file has SOPInstanceUID, path or name {key!r}"
                yield Reject(f"{self.table}#{row.line}", key, "label", reason, retryable=True)


class LabelTable:
    """A CSV whose key column holds SOPInstanceUIDs, file names or relative paths.

    The key column is the one called ``SOPInstanceUID``, ``path``, ``file``, ``filename``, ``image`` or ``image_id``
    (in any case), else the first.

    Parameters
    ----------
    path : Path
    labels : tuple of str
        Label columns; default: every column but the key's.

    Raises
    ------
    featurestore.errors.UsageError
        For a missing file or column.
    """

    def __init__(self, path: Path, labels: tuple[str, ...] = ()) -> None:
        self._table = existing_file(path, "a CSV file with a key column and label columns")
        self._separator = separator_for(path)
        header = read_header(self._table, self._separator)
        self._key = next((name for name in header if name.lower() in _KEY_COLUMNS), header[0])
        self._labels = labels or tuple(name for name in header if name != self._key)
        require_columns(self._table, header, (self._key, *self._labels))

    def read(self) -> Labels:
        """Read all rows; those of one key that contradict each other are rejected (stage ``duplicate``)."""
        found = Labels(self._table)
        groups: dict[str, list[LabelRow]] = {}
        for row in read_rows(self._table, self._separator):
            if isinstance(row, Row):
                parsed = self._parse(row)
                groups.setdefault(parsed.key, []).append(parsed)
            else:
                found.rejects.append(row)
        for key, rows in groups.items():
            if all((row.labels, row.problems) == (rows[0].labels, rows[0].problems) for row in rows):
                found.rows[key] = rows[0]
            else:
                found.rejects += [self._contradiction(row) for row in rows]
        return found

    def _parse(self, row: Row) -> LabelRow:
        labels, problems = read_labels(row.cells, self._labels)
        return LabelRow(row.line, normal_key(row.cells[self._key]), labels, problems)

    def _contradiction(self, row: LabelRow) -> Reject:
        reason = f"line {row.line} contradicts another row for {row.key!r}; its labels are not used, keep one row"
        return Reject(f"{self._table}#{row.line}", row.key, "duplicate", reason)
