"""A folder of DICOM files, searched to the bottom, with labels from a CSV where there is one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pydicom

from featurestore.errors import ImageRejected
from featurestore.images.dicom import PYDICOM_ERRORS, quiet_pydicom
from featurestore.images.faults import rejecting
from featurestore.images.records import ImageRecord, Reject
from featurestore.images.sources.dicom_labels import LabelTable
from featurestore.images.sources.paths import existing_folder, resolve_inside
from featurestore.images.sources.values import parse_age, parse_sex, parse_view, text_or_none

_TAGS = [
    "SOPInstanceUID",
    "StudyInstanceUID",
    "PatientID",
    "PatientSex",
    "PatientAge",
    "ViewPosition",
    "SpecificCharacterSet",
]
_SUFFIXES = (".dcm", ".dicom")


class DicomSource:
    """Every DICOM file below a folder: named ``.dcm`` or ``.dicom``, or with ``DICM`` at byte 128.

    Other files are passed over, and so is a ``DICOMDIR``. Patient, study, view, sex and age come from the header;
    names and dates are never read.

    Parameters
    ----------
    path : Path
        The folder.
    labels_csv : Path, optional
        See `featurestore.images.sources.dicom_labels.LabelTable`.
    labels : tuple of str
        The label columns; default: all columns but the key's.

    Raises
    ------
    featurestore.errors.UsageError
        For a missing folder, file or column.
    """

    name = "dicom"

    def __init__(self, path: Path, labels_csv: Path | None = None, labels: tuple[str, ...] = ()) -> None:
        self._folder = existing_folder(path, "a folder of DICOM files")
        self._labels = LabelTable(labels_csv, labels) if labels_csv else None

    def count(self) -> int:
        """Return the number of DICOM files."""
        return sum(1 for _ in self._files())

    def records(self) -> Iterator[ImageRecord | Reject]:
        """Yield one record a file; see `featurestore.images.records.Source`."""
        table = self._labels.read() if self._labels else None
        yield from table.rejects if table else []
        used: set[str] = set()
        for key in self._files():
            try:
                record, uid = _record(self._folder, key)
            except ImageRejected as error:
                yield Reject(str(self._folder / key), key, error.stage, error.reason, error.retryable)
                continue
            row = table.find(key, uid) if table else None
            if row is None:
                yield record
                continue
            used.add(row.key)
            yield replace(record, labels=row.labels)
            for problem in row.problems:
                reason = f"line {row.line}: {problem}"
                yield Reject(record.uri, key, "label", reason, patient_id=record.patient_id)
        yield from table.unused(used) if table else []

    def _files(self) -> Iterator[str]:
        for folder, subfolders, names in os.walk(self._folder):
            subfolders.sort()
            for name in sorted(names):
                if _is_dicom(Path(folder, name)):
                    yield Path(folder, name).relative_to(self._folder).as_posix()


def _is_dicom(path: Path) -> bool:
    if path.name == "DICOMDIR":
        return False
    if path.suffix.lower() in _SUFFIXES:
        return True
    if not path.is_file():  # opening a pipe would wait for its writer
        return False
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:  # not named as a DICOM and not readable: nothing says that it is one
        return False


def _record(folder: Path, key: str) -> tuple[ImageRecord, str]:
    path = resolve_inside(folder, key)
    quiet_pydicom()
    with rejecting("cannot read the DICOM header", PYDICOM_ERRORS):
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        text = {tag: str(header.get(tag) or "") for tag in _TAGS}
    record = ImageRecord(
        key,
        str(path),
        patient_id=text_or_none(text["PatientID"]),
        study_id=text_or_none(text["StudyInstanceUID"]),
        view=parse_view(text["ViewPosition"]),
        sex=parse_sex(text["PatientSex"]),
        age=parse_age(text["PatientAge"]),
    )
    return record, text["SOPInstanceUID"]
