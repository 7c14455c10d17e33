"""One folder with everything that can be wrong in it: each wrong thing a row in `rejects`, everything else goes on."""

from __future__ import annotations

import csv
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from featurestore.store import Store

RNG = np.random.default_rng(0)

# (image, who, Edema, Cough); what the CSV says, in its order.
ROWS = [
    ("good.png", "p1", "1", "0"),
    ("blank.png", "p2", "", "NaN"),
    ("uncertain.jpg", "p3", "-1.0", "1.0"),
    ("text_label.png", "p4", "maybe", "1"),
    ("twice.png", "p5", "0", "0"),
    ("./twice.png", "p5", "0", "0"),
    ("contradicting.png", "p6", "0", "1"),
    ("contradicting.png", "p6", "1", "1"),
    ("two_patients.png", "p7", "1", "1"),
    ("two_patients.png", "p8", "1", "1"),
    ("cut.png", "p9", "1", "1"),
    ("cut.jpg", "p9", "1", "1"),
    ("empty.png", "p9", "1", "1"),
    ("words.png", "p9", "1", "1"),
    ("dot.png", "p9", "1", "1"),
    ("huge.png", "p9", "1", "1"),
    ("colour.png", "p9", "1", "1"),
    ("../outside.png", "p9", "1", "1"),
    ("dangling.png", "p9", "1", "1"),
    ("leading_out.png", "p9", "1", "1"),
    ("missing.png", "p9", "1", "1"),
    ("pixelless.dcm", "p9", "1", "1"),
    ("", "p9", "1", "1"),
    ("short.png", "p9"),
]
# key: how often, stage, words of the reason
REJECTS = {
    "text_label.png": (1, "label", "'Edema': 'maybe' is none of 1, 0, -1"),
    "contradicting.png": (2, "duplicate", "contradicts another row"),
    "two_patients.png": (2, "duplicate", "contradicts another row"),
    "cut.png": (1, "decode", "cannot decode the PNG"),
    "cut.jpg": (1, "decode", "cannot decode the JPEG"),
    "empty.png": (1, "decode", "0 bytes"),
    "words.png": (1, "decode", "no image format known here starts with b'only tex'"),
    "dot.png": (1, "size", "1 x 1 pixels; at least 16"),
    "huge.png": (1, "size", "more than 100 megapixels, not decoded"),
    "colour.png": (1, "colour", "a colour picture, not a grey radiograph"),
    "../outside.png": (1, "path", "climbs out of its folder"),
    "dangling.png": (1, "path", "a link whose target does not exist"),
    "leading_out.png": (1, "path", "a link that leads out of its folder"),
    "missing.png": (1, "path", "no such file"),
    "pixelless.dcm": (1, "decode", "pixel"),
    "": (1, "path", "the path is blank"),
    "line 25": (1, "row", "2 fields, the header has 4"),
}
GOOD = {"good.png", "blank.png", "uncertain.jpg", "text_label.png", "twice.png"}
FLAGS = ("--image-column", "image", "--patient-column", "who", "--labels", "Edema,Cough", "--dataset", "mixed")
NETWORKS = ("--dataset", "mixed", "--backbones", "densenet121", "--weights", "random:0", "--size", "32", "--no-ray")


@dataclass(frozen=True)
class Mixed:
    """The folder's CSV, the store it went into, and what ingest said, as JSON and to a person."""

    csv: Path
    store: Path
    as_json: Any
    as_text: Any


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, cxr: Callable[..., Any]) -> Mixed:
    """Write the folder and ingest it twice."""
    root = tmp_path_factory.mktemp("mixed")
    (root / "data").mkdir()
    _write_images(root / "data")
    with (root / "data" / "cases.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("image", "who", "Edema", "Cough"), *ROWS])
    ingest = ("ingest", "csv", root / "data" / "cases.csv", *FLAGS, "--store", root / "store")
    return Mixed(root / "data" / "cases.csv", root / "store", cxr(*ingest, "--json"), cxr(*ingest))


def _write_images(folder: Path) -> None:
    for name in ("good.png", "blank.png", "uncertain.jpg", "text_label.png", "twice.png", "contradicting.png"):
        _grey(64).save(folder / name)
    for name in ("two_patients.png", "short.png", "cut.png", "cut.jpg", "../outside.png"):
        _grey(64).save(folder / name)
    for name in ("cut.png", "cut.jpg"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
    (folder / "empty.png").touch()
    (folder / "words.png").write_text("only text")
    Image.new("L", (1, 1)).save(folder / "dot.png")
    (folder / "huge.png").write_bytes(_black_png(20_000))
    Image.fromarray(RNG.integers(0, 255, (64, 64, 3), np.uint8)).save(folder / "colour.png")
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    (folder / "leading_out.png").symlink_to(folder.parent / "outside.png")
    _write_dicom_without_pixels(folder / "pixelless.dcm")


def _grey(side: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 255, (side, side), np.uint8))


def _black_png(side: int) -> bytes:
    """Return a whole and valid 1-bit PNG without ever holding its pixels."""
    packer = zlib.compressobj(1)
    pixels = b"".join(packer.compress(bytes(1 + side // 8)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _write_dicom_without_pixels(path: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    report = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    report.SOPClassUID, report.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    report.PatientID = "p9"
    pydicom.dcmwrite(path, report, enforce_file_format=True)


def _rejects(store: Path) -> list[dict[str, Any]]:
    return Store(store).query("SELECT * FROM rejects ORDER BY uri, reason").to_pylist()


def test_exit_0_and_the_last_line_counts_them(mixed: Mixed) -> None:
    count = sum(times for times, _, _ in REJECTS.values())
    assert mixed.as_json.code == mixed.as_text.code == 0
    assert mixed.as_json.json["rejected"] == count
    last = mixed.as_text.out.splitlines()[-1]
    assert last.startswith("mixed: 5 images, 9 labels, 0 regions of interest, ")
    assert f"{count} rejected" in last
    assert "SELECT uri, stage, reason FROM rejects WHERE dataset = 'mixed'" in mixed.as_text.err


def test_ingesting_twice_found_the_same_and_stored_it_once(mixed: Mixed) -> None:
    assert len(_rejects(mixed.store)) == mixed.as_json.json["rejected"]
    assert mixed.as_text.out.startswith(f"mixed: {mixed.as_json.json['images']} images, ")


@pytest.mark.parametrize("key", REJECTS)
def test_each_is_a_row_with_uri_stage_and_reason(mixed: Mixed, key: str) -> None:
    times, stage, words = REJECTS[key]
    rows = [row for row in _rejects(mixed.store) if row["source_key"] == key]
    assert len(rows) == times
    for row in rows:
        assert row["stage"] == stage
        assert words in row["reason"]
        # The file itself where there is one to look at, else the row of the table that names it.
        named = row["uri"].startswith((f"{mixed.csv}#", str(mixed.csv.parent / (key or "?"))))
        assert named, row["uri"]
        assert row["dataset"] == "mixed"
        assert row["run_id"].startswith("ingest-")


def test_nothing_else_was_rejected(mixed: Mixed) -> None:
    assert {row["source_key"] for row in _rejects(mixed.store)} == REJECTS.keys()


def test_only_what_may_come_back_is_marked_so(mixed: Mixed) -> None:
    assert {row["source_key"] for row in _rejects(mixed.store) if row["retryable"]} == {"dangling.png", "missing.png"}


def test_the_good_ones_are_in_with_their_labels_as_given(mixed: Mixed) -> None:
    rows = Store(mixed.store).query(
        "SELECT source_key, label, value, patient_id FROM labels JOIN images USING (image_id)"
    )
    found = {(row["source_key"], row["label"]): row["value"] for row in rows.to_pylist()}
    assert found == {
        ("good.png", "Edema"): 1,
        ("good.png", "Cough"): 0,
        ("blank.png", "Edema"): None,
        ("blank.png", "Cough"): None,
        ("uncertain.jpg", "Edema"): -1,
        ("uncertain.jpg", "Cough"): 1,
        ("text_label.png", "Cough"): 1,  # its other label is rejected, not turned into "unmentioned"
        ("twice.png", "Edema"): 0,
        ("twice.png", "Cough"): 0,
    }
    assert {row["patient_id"] for row in rows.to_pylist()} == {"p1", "p2", "p3", "p4", "p5"}


def test_extraction_runs_on_the_good_ones(mixed: Mixed, cxr: Callable[..., Any], tmp_path: Path) -> None:
    shutil.copytree(mixed.store, tmp_path / "store")
    said = cxr("extract", *NETWORKS, "--store", tmp_path / "store", "--json")
    assert said.code == 0
    counts = {key: said.json[key] for key in ("written", "skipped", "rejected", "lost")}
    assert counts == {"written": len(GOOD), "skipped": 0, "rejected": 0, "lost": 0}
    _, X = Store(tmp_path / "store").matrix("densenet121")
    assert X.shape == (len(GOOD), 1024)
    assert np.isfinite(X).all()


def test_a_folder_of_only_bad_dicom_is_said_to_be_that(cxr: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    _write_dicom_without_pixels(tmp_path / "scans" / "a.dcm")
    (tmp_path / "scans" / "b.dcm").write_text("not a DICOM file")
    said = cxr("ingest", "dicom", tmp_path / "scans", "--store", tmp_path / "store", "--json")
    assert (said.code, said.json["images"], said.json["rejected"]) == (0, 0, 2)
    reasons = {Path(row["uri"]).name: (row["stage"], row["reason"]) for row in _rejects(tmp_path / "store")}
    assert reasons["a.dcm"][0] == reasons["b.dcm"][0] == "decode"
    assert "pixel" in reasons["a.dcm"][1]


def test_nih_rows_that_are_wrong_do_not_stop_the_rest(cxr: Callable[..., Any], tmp_path: Path) -> None:
    data = tmp_path / "nih"
    (data / "images").mkdir(parents=True)
    _grey(64).save(data / "images" / "1_000.png")
    (data / "images" / "2_000.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
    rows = ["1_000.png,Edema|Wheeze,0,1,58,M,PA", "2_000.png,Edema,0,2,58,M,PA", "3_000.png,Edema,0,3,58,M,PA"]
    (data / "Data_Entry_2017.csv").write_text("\n".join([header, *rows]))
    said = cxr("ingest", "nih", data, "--store", tmp_path / "store", "--json")
    assert (said.code, said.json["images"], said.json["rejected"]) == (0, 1, 3)
    found = {(row["source_key"], row["stage"]) for row in _rejects(tmp_path / "store")}
    assert found == {("1_000.png", "label"), ("2_000.png", "decode"), ("3_000.png", "path")}
