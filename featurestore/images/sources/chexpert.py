"""CheXpert's CSV (Irvin et al., AAAI 2019): uncertain and blank kept, frontal and lateral."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from featurestore.images.records import ImageRecord, Reject
from featurestore.images.sources.duplicates import Parsed, stream
from featurestore.images.sources.labels import CHEXPERT_LABELS, read_labels
from featurestore.images.sources.paths import existing_file, normal_key, resolve_inside
from featurestore.images.sources.rows import Row, count_rows, read_header, read_rows, require_columns
from featurestore.images.sources.values import parse_age, parse_sex, parse_view

_PREFIX = re.compile(r"CheXpert-v1\.0[^/]*/")
_STUDY = re.compile(r"(?:^|/)(patient[^/]+)/(study[^/]+)/")
_PART = re.compile(r"(?:^|/)(train|valid|val|test)/")
_PARTS = {"train": "train", "valid": "val", "val": "val", "test": "test"}


class ChexpertSource:
    """``train.csv`` or ``valid.csv`` as published.

    A path such as ``CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg`` is looked up beside the CSV with
    its first folder if that folder is there, else without it: the CSV lies inside ``CheXpert-v1.0-small``, which may
    have been renamed.

    Parameters
    ----------
    path : Path
        The CSV file. ``Path`` and the 14 labels have to be columns; ``Sex``, ``Age``, ``Frontal/Lateral`` and
        ``AP/PA`` may be missing, as in the test set's table.

    Raises
    ------
    featurestore.errors.UsageError
        For a missing file or column.
    """

    name = "chexpert"

    def __init__(self, path: Path) -> None:
        self._table = existing_file(path, "CheXpert's train.csv or valid.csv")
        self._folder = self._table.parent.resolve()
        require_columns(self._table, read_header(self._table), ("Path", *CHEXPERT_LABELS))

    def count(self) -> int:
        """Return about how many rows there are."""
        return count_rows(self._table)

    def records(self) -> Iterator[ImageRecord | Reject]:
        """Yield one record a row; see `featurestore.images.records.Source`."""
        return stream(self._parse, self._table, self._locate)

    def _locate(self, key: str) -> Path:
        prefix = _PREFIX.match(key)
        if prefix and not (self._folder / prefix[0]).is_dir():
            return resolve_inside(self._folder, key[prefix.end() :])
        return resolve_inside(self._folder, key)

    def _parse(self) -> Iterator[Parsed | Reject]:
        for row in read_rows(self._table):
            yield _parse_row(row) if isinstance(row, Row) else row


def _parse_row(row: Row) -> Parsed:
    cells = row.cells
    key = normal_key(cells["Path"])
    study, part = _STUDY.search(key), _PART.search(key)
    labels, problems = read_labels(cells, CHEXPERT_LABELS)
    record = ImageRecord(
        key,
        "",
        patient_id=study[1] if study else None,
        study_id=f"{study[1]}/{study[2]}" if study else None,
        view=_view(cells),
        sex=parse_sex(cells.get("Sex")),
        age=parse_age(cells.get("Age")),
        official_part=_PARTS[part[1]] if part else None,
        labels=labels,
    )
    return Parsed(row.line, record, problems)


def _view(cells: dict[str, str]) -> str | None:
    """Return the projection; where the column is missing, the file's name still tells a lateral."""
    plane = cells.get("Frontal/Lateral", "").strip().lower()
    if plane == "lateral" or (not plane and "lateral" in cells["Path"].rpartition("/")[2].lower()):
        return "LATERAL"
    projection = parse_view(cells.get("AP/PA"))
    return projection if projection != "LATERAL" else None
