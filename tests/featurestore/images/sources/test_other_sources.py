"""MedMNIST, a folder of DICOM, and phantoms through the generator's real writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from featurestore.errors import ImageRejected, UsageError
from featurestore.images.decode import read_image
from featurestore.images.phantoms import generate_patient, write_phantoms
from featurestore.images.records import ImageRecord, Reject
from featurestore.images.sources.dicom_folder import DicomSource
from featurestore.images.sources.medmnist import MedmnistSource
from featurestore.images.sources.registry import make_source
from featurestore.images.sources.roi_geometry import to_mask


def split(source: Any) -> tuple[list[ImageRecord], list[Reject]]:
    items = list(source.records())
    return [i for i in items if isinstance(i, ImageRecord)], [i for i in items if isinstance(i, Reject)]


def npz(path: Path, labels: np.ndarray, **more: np.ndarray) -> Path:
    np.savez(path, train_images=np.zeros((len(labels), 28, 28), np.uint8), train_labels=labels, **more)
    return path


@pytest.mark.parametrize(
    ("stem", "labels", "expected"),
    [
        ("pneumoniamnist", [[1], [0]], [{"pneumonia": 1}, {"pneumonia": 0}]),
        ("breastmnist", [[1], [0]], [{"label": 1}, {"label": 0}]),
        ("flat", [1, 0], [{"label": 1}, {"label": 0}]),
        ("three", [[2], [0]], [{"class_0": 0, "class_1": 0, "class_2": 1}, {"class_0": 1, "class_1": 0, "class_2": 0}]),
        ("two", [[1, -1], [0, 0]], [{"label_0": 1, "label_1": -1}, {"label_0": 0, "label_1": 0}]),
    ],
)
def test_medmnist_labels(tmp_path: Path, stem: str, labels: list[Any], expected: list[dict[str, int]]) -> None:
    path = npz(tmp_path / f"{stem}.npz", np.array(labels))
    records, rejects = split(MedmnistSource(path))
    assert ([dict(r.labels) for r in records], rejects) == (expected, [])
    assert [(r.source_key, r.uri, r.official_part) for r in records] == [
        ("train/0", f"{path}#train/0", "train"),
        ("train/1", f"{path}#train/1", "train"),
    ]


def test_chestmnist_columns_are_the_nih_findings(tmp_path: Path) -> None:
    row = np.zeros((1, 14), np.uint8)
    row[0, 13] = 1
    records, _ = split(MedmnistSource(npz(tmp_path / "chestmnist.npz", row)))
    assert next(iter(records[0].labels)) == "Atelectasis"
    assert records[0].labels["Hernia"] == 1


def test_medmnist_values_that_are_no_labels(tmp_path: Path) -> None:
    records, rejects = split(MedmnistSource(npz(tmp_path / "a.npz", np.array([[0.5, 1], [np.nan, 0]]))))
    assert [dict(r.labels) for r in records] == [{"label_1": 1}, {"label_0": None, "label_1": 0}]
    assert [(r.stage, r.source_key, r.reason[:28]) for r in rejects] == [
        ("label", "train/0", "label 'label_0': 0.5 is none")
    ]


def test_medmnist_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(UsageError, match=r"not a readable \.npz: .*; expected MedMNIST's \{train,val,test\}"):
        MedmnistSource(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3), train_labels=np.zeros((3, 1)))
    with pytest.raises(UsageError, match="holds train_labels, x; expected"):
        MedmnistSource(tmp_path / "other.npz")
    np.savez(tmp_path / "uneven.npz", train_images=np.zeros((3, 28, 28)), train_labels=np.zeros((2, 1)))
    with pytest.raises(UsageError, match=r"train_labels is float64 \(2, 1\) beside train_images \(3, 28, 28\)"):
        MedmnistSource(tmp_path / "uneven.npz")
    np.savez(tmp_path / "pickled.npz", train_images=np.zeros((1, 28, 28)), train_labels=np.array([{}], dtype=object))
    with pytest.raises(UsageError, match="allow_pickle=False"):
        MedmnistSource(tmp_path / "pickled.npz")
    with pytest.raises(UsageError, match="has the value 70000; expected class numbers below 100"):
        MedmnistSource(npz(tmp_path / "many.npz", np.array([[70000]])))
    with pytest.raises(UsageError, match=r"no such file: .*none\.npz; expected a MedMNIST \.npz file"):
        MedmnistSource(tmp_path / "none.npz")


def test_pneumoniamnist(shared_data: Path) -> None:
    source = MedmnistSource(shared_data / "pneumoniamnist.npz")
    records, rejects = split(source)
    assert source.count() == len(records) == 5856
    assert rejects == []
    parts = [r.official_part for r in records]
    assert [parts.count(part) for part in ("train", "val", "test")] == [4708, 524, 624]
    positive = [r for r in records if r.official_part == "test" and r.labels["pneumonia"] == 1]
    assert len(positive) == 390  # 62.5 % of the test part


def write_dicom(path: Path, uid: str, **elements: Any) -> None:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def test_dicom_folder(tmp_path: Path) -> None:
    header = {"PatientID": "p1", "StudyInstanceUID": "1.9", "PatientSex": "F", "PatientAge": "006M"}
    write_dicom(tmp_path / "b/2.dcm", "1.2", ViewPosition="LL", **header)
    write_dicom(tmp_path / "a/noname", "1.3", PatientSex="O")
    write_dicom(tmp_path / "DICOMDIR", "1.4")
    (tmp_path / "readme.txt").write_text("not a DICOM")
    (tmp_path / "c.dcm").write_text("text under a false name")
    (tmp_path / "d.dcm").symlink_to(tmp_path / "gone")
    source = DicomSource(tmp_path)
    records, rejects = split(source)
    assert [r.source_key for r in records] == ["a/noname", "b/2.dcm"]
    second = records[1]
    assert (second.patient_id, second.study_id, second.view, second.sex, second.age) == (
        "p1",
        "1.9",
        "LATERAL",
        "F",
        0.5,
    )
    assert (records[0].patient_id, records[0].sex, records[0].labels) == (None, None, {})
    assert [(r.source_key, r.stage) for r in rejects] == [("c.dcm", "decode"), ("d.dcm", "path")]
    assert "cannot read the DICOM header" in rejects[0].reason
    assert source.count() == 4
    with pytest.raises(ImageRejected, match="a DICOM without pixel data"):
        read_image(second.uri)


def test_dicom_labels_by_uid_path_or_name(tmp_path: Path) -> None:
    folder = tmp_path / "dicoms"
    for number in range(1, 6):
        write_dicom(folder / f"sub/{number}.dcm", f"1.{number}", PatientID=f"p{number}")
    labels = tmp_path / "labels.csv"
    labels.write_text("Image,A,B\n1.1,1,0\nsub/2.dcm,0,odd\n3.dcm,-1,\n4,1,1\n4,0,1\n9.dcm,1,1\n")
    records, rejects = split(DicomSource(folder, labels))
    assert [dict(r.labels) for r in records] == [{"A": 1, "B": 0}, {"A": 0}, {"A": -1, "B": None}, {}, {}]
    assert sorted((r.stage, r.source_key) for r in rejects) == [
        ("duplicate", "4"),
        ("duplicate", "4"),
        ("label", "9.dcm"),
        ("label", "sub/2.dcm"),
    ]
    assert {r.source_key: r.patient_id for r in rejects} == {"4": None, "9.dcm": None, "sub/2.dcm": "p2"}
    only_a, _ = split(make_source("dicom", folder, labels_csv=labels, labels=("A",)))
    assert dict(only_a[1].labels) == {"A": 0}
    with pytest.raises(UsageError, match="no column 'C'; columns found: Image, A, B"):
        DicomSource(folder, labels, ("C",))


def test_the_real_dicom_pair(shared_data: Path) -> None:
    records, rejects = split(make_source("dicom", shared_data / "dicom"))
    assert [(r.source_key, r.view, r.sex, r.age) for r in records] == [
        ("monochrome1.dcm", "PA", "M", 62.0),
        ("monochrome2.dcm", "PA", "M", 62.0),
    ]
    assert rejects == []


@pytest.mark.parametrize("fmt", ["png", "dicom"])
def test_phantoms_come_back_as_generated(tmp_path: Path, fmt: Any) -> None:
    write_phantoms(tmp_path / "p", patients=6, seed=4, hospital="b", fmt=fmt, size=64)
    source = make_source("phantom", tmp_path / "p")
    records, rejects = split(source)
    generated = [image for index in range(6) for image in generate_patient(4, "b", index, 64)]
    assert rejects == []
    assert source.count() == len(records) == len(generated)
    for record, image in zip(records, generated, strict=True):
        assert (record.patient_id, record.study_id, record.view) == (image.patient_id, image.study_id, image.view)
        assert (record.sex, record.age, dict(record.labels)) == (image.sex, image.age, image.labels)
        assert np.array_equal(read_image(record.uri).pixels, image.to_uint8())  # also as 12-bit MONOCHROME1
        assert {roi.label for roi in record.rois} == set(image.masks)
        assert all(np.array_equal(to_mask(roi), image.masks[roi.label]) for roi in record.rois)
