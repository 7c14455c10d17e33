"""ChestX-ray14 in its original layout (Wang et al., CVPR 2017)."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from featurestore.images.records import ImageRecord, Reject, Roi
from featurestore.images.sources.duplicates import Parsed, stream
from featurestore.images.sources.labels import NIH_LABELS
from featurestore.images.sources.paths import existing_file, existing_folder, normal_key, resolve_inside
from featurestore.images.sources.roi_geometry import fault_of
from featurestore.images.sources.rows import Row, count_rows, open_csv, read_header, read_rows, require_columns
from featurestore.images.sources.values import parse_age, parse_sex, parse_view, text_or_none

TABLE = "Data_Entry_2017.csv"
BOXES = "BBox_List_2017.csv"
FRAME = 1024
"""Side in pixels of the frame the boxes are in, whatever size the images are stored at."""
_COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position")
_BOX_NAMES = {"Infiltrate": "Infiltration"}


class NihSource:
    """A folder with ``images/``, ``Data_Entry_2017.csv`` and perhaps ``BBox_List_2017.csv``.

    A row without its file is rejected (stage ``path``, retryable), row by row; an image without a row and a box
    without an image are passed over, as parts of the data set are commonly shared without cutting its tables.

    Parameters
    ----------
    path : Path
        The folder.

    Raises
    ------
    featurestore.errors.UsageError
        Where the folder, the table or a column is missing.
    """

    name = "nih"

    def __init__(self, path: Path) -> None:
        folder = existing_folder(path, f"a folder with images/ and {TABLE}")
        self._images = existing_folder(folder / "images", f"the folder of images beside {TABLE}")
        self._table = existing_file(folder / TABLE, "ChestX-ray14's table of findings")
        self._boxes = folder / BOXES
        require_columns(self._table, read_header(self._table), _COLUMNS)

    def count(self) -> int:
        """Return about how many rows there are."""
        return count_rows(self._table)

    def records(self) -> Iterator[ImageRecord | Reject]:
        """Yield one record a row, with its boxes; see `featurestore.images.records.Source`."""
        boxes, rejects = _read_boxes(self._boxes) if self._boxes.is_file() else ({}, [])
        yield from rejects
        yield from stream(partial(self._parse, boxes), self._table, partial(resolve_inside, self._images))

    def _parse(self, boxes: dict[str, tuple[Roi, ...]]) -> Iterator[Parsed | Reject]:
        for row in read_rows(self._table):
            yield _parse_row(row, boxes) if isinstance(row, Row) else row


def _parse_row(row: Row, boxes: dict[str, tuple[Roi, ...]]) -> Parsed:
    cells = row.cells
    key = normal_key(cells["Image Index"])
    labels, problems = _findings(cells["Finding Labels"])
    record = ImageRecord(
        key,
        "",
        patient_id=text_or_none(cells["Patient ID"]),
        view=parse_view(cells["View Position"]),
        sex=parse_sex(cells["Patient Gender"]),
        age=parse_age(cells["Patient Age"]),
        labels=labels,
        rois=boxes.get(key, ()),
    )
    return Parsed(row.line, record, problems)


def _findings(cell: str) -> tuple[dict[str, int | None], tuple[str, ...]]:
    """Return 1 for each finding named, 0 for the others; all None where the cell is blank or NaN."""
    named = {finding.strip() for finding in cell.split("|")} - {""}
    if not named or {name.lower() for name in named} == {"nan"}:
        return dict.fromkeys(NIH_LABELS), ()
    unknown = sorted(named - set(NIH_LABELS))
    problems = tuple(f"{name[:40]!r} is none of ChestX-ray14's findings" for name in unknown)
    return {name: int(name in named) for name in NIH_LABELS}, problems


def _read_boxes(path: Path) -> tuple[dict[str, tuple[Roi, ...]], list[Reject]]:
    """Read ``Image Index, Finding Label, x, y, w, h``; the header names more columns than rows have."""
    boxes: dict[str, tuple[Roi, ...]] = defaultdict(tuple)
    rejects: list[Reject] = []
    with open_csv(path) as reader:
        next(reader, None)
        for fields in filter(None, reader):
            where = f"{path}#{reader.line_num}"
            try:
                roi = _box(fields)
            except ValueError as error:
                rejects.append(Reject(where, normal_key(fields[0]), "roi", f"line {reader.line_num}: {error}"))
            else:
                boxes[normal_key(fields[0])] += (roi,)
    return dict(boxes), rejects


def _box(fields: list[str]) -> Roi:
    if len(fields) < 6:
        raise ValueError(f"{len(fields)} fields; expected image, finding, x, y, w, h")
    label = fields[1].strip()
    geometry = json.dumps([float(number) for number in fields[2:6]])
    roi = Roi(_BOX_NAMES.get(label, label), "box", geometry, FRAME, FRAME, BOXES)
    if fault := fault_of(roi):
        raise ValueError(fault)
    return roi
