"""A folder of phantoms: images, `phantom.csv`, `rois.json` and `phantom.json`, whole or repeatable."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from featurestore.errors import UsageError
from featurestore.images.phantom_files import dicom_bytes, png_bytes
from featurestore.images.phantom_labels import LABELS
from featurestore.images.phantom_patient import PhantomImage, check_arguments, generate_patient
from featurestore.images.phantom_plan import Hospital
from featurestore.images.sources.roi_geometry import encode_mask

Format = Literal["png", "dicom"]
Progress = Callable[[int, int], None]

GENERATOR_VERSION = 1
"""Raised whenever the same parameters give other images."""

_COLUMNS = ("path", "patient", "study", "view", "sex", "age", *LABELS)
_SUFFIX = {"png": ".png", "dicom": ".dcm"}


@dataclass(frozen=True)
class _Parameters:
    patients: int
    seed: int
    hospital: Hospital
    format: Format
    size: int
    generator: int = GENERATOR_VERSION


def write_phantoms(
    folder: Path,
    *,
    patients: int,
    seed: int,
    hospital: Hospital,
    fmt: Format,
    size: int = 256,
    progress: Progress | None = None,
) -> int:
    """Write a hospital's phantoms into a folder; interrupted or repeated, the same call ends in the same bytes.

    Parameters
    ----------
    folder : Path
        Absent, empty, or holding phantoms of the same parameters. It gets ``images/<patient>/<study>_<n>.png`` (8 bit)
        or ``.dcm`` (12 bit, every fourth MONOCHROME1), ``phantom.csv``, ``rois.json`` (COCO, uncompressed run lengths)
        and ``phantom.json`` (the parameters, and each file's SHA-256 once all are written).
    patients : int
        1 or more. Patient i is the same whatever this number.
    seed : int
    hospital : {"a", "b"}
    fmt : {"png", "dicom"}
    size : int
        Pixels per side, 32 to 2048.
    progress : callable of (patients done, patients in all), optional

    Returns
    -------
    int
        The number of images in the folder.

    Raises
    ------
    featurestore.errors.UsageError
        Where an argument is outside its range, or the folder holds anything else.
    """
    check_arguments(seed=seed, hospital=hospital, index=0, size=size)
    if patients < 1:
        raise UsageError(f"{patients} phantom patients were asked for; give 1 or more")
    if fmt not in get_args(Format):
        raise UsageError(f"no phantom format {fmt!r}; choose png or dicom")
    parameters = _Parameters(patients, seed, hospital, fmt, size)
    known = _claim(folder, parameters)
    if known and all(_sha256(folder / path) == digest for path, digest in known.items()):
        return sum(path.startswith("images/") for path in known)
    return _write_all(folder, parameters, progress)


def _claim(folder: Path, parameters: _Parameters) -> dict[str, str]:
    """Return the digests of a finished folder, or an empty mapping after marking the folder as ours."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder to write phantoms into")
    record = folder / "phantom.json"
    if not record.exists():
        strangers = [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.exists() else []
        if strangers:
            raise UsageError(f"{folder} holds {sorted(strangers)[0]} but no phantom.json; name an empty or new folder")
        _put(record, _json({"parameters": asdict(parameters), "files": {}}))
        return {}
    found = _read_record(record)
    if found["parameters"] != asdict(parameters):
        raise UsageError(
            f"{folder} holds phantoms of {_words(found['parameters'])}, and {_words(asdict(parameters))} were "
            "asked for; name another folder or delete this one"
        )
    return dict(found["files"])


def _read_record(record: Path) -> dict[str, dict[str, str]]:
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        return {"parameters": dict(found["parameters"]), "files": dict(found["files"])}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{record} is not a phantom record ({error}); delete the folder and write it anew") from error


def _words(parameters: dict[str, object] | dict[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in parameters.items())


def _write_all(folder: Path, parameters: _Parameters, progress: Progress | None) -> int:
    rows, rois, files = io.StringIO(newline=""), _Coco(), {}
    table = csv.writer(rows, lineterminator="\n")
    table.writerow(_COLUMNS)
    count = 0
    for index in range(parameters.patients):
        for image in generate_patient(parameters.seed, parameters.hospital, index, parameters.size):
            path = image.name + _SUFFIX[parameters.format]
            files[path] = _put(folder / path, _encode(image, parameters, count))
            table.writerow(_row(path, image))
            rois.add(path, image)
            count += 1
        if progress is not None:
            progress(index + 1, parameters.patients)
    files["phantom.csv"] = _put(folder / "phantom.csv", rows.getvalue().encode())
    files["rois.json"] = _put(folder / "rois.json", _json(rois.document))
    _put(folder / "phantom.json", _json({"parameters": asdict(parameters), "files": files}))
    return count


def _encode(image: PhantomImage, parameters: _Parameters, count: int) -> bytes:
    if parameters.format == "png":
        return png_bytes(image)
    return dicom_bytes(image, seed=parameters.seed, inverted=count % 4 == 3)


def _row(path: str, image: PhantomImage) -> list[object]:
    values = ("" if value is None else f"{value:.1f}" for value in image.labels.values())
    return [path, image.patient_id, image.study_id, image.view, image.sex, image.age, *values]


class _Coco:
    """The regions as a COCO document, built image by image."""

    def __init__(self) -> None:
        categories = [{"id": number, "name": label} for number, label in enumerate(LABELS, start=1)]
        self.images: list[dict[str, object]] = []
        self.annotations: list[dict[str, object]] = []
        self.document = {"images": self.images, "categories": categories, "annotations": self.annotations}

    def add(self, path: str, image: PhantomImage) -> None:
        height, width = image.pixels.shape
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": path, "width": width, "height": height})
        for label, mask in image.masks.items():
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": number,
                    "category_id": LABELS.index(label) + 1,
                    "iscrowd": 1,  # COCO's word for a segmentation in run lengths
                    "segmentation": encode_mask(mask),
                    "bbox": _box(mask),
                    "area": int(mask.sum()),
                }
            )


def _box(mask: npt.NDArray[np.bool_]) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]


def _put(path: Path, data: bytes) -> str:
    """Write a file whole or not at all, leave it alone where it is right already, and return its SHA-256."""
    digest = hashlib.sha256(data).hexdigest()
    if _sha256(path) != digest:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A fixed name: what an interrupted run left behind, the next one replaces.
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(data)
        part.replace(path)  # atomic
    return digest


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _json(document: object) -> bytes:
    return (json.dumps(document, separators=(",", ":")) + "\n").encode()
