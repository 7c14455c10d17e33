"""Regions: each format by a small file made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from featurestore.errors import UsageError
from featurestore.images.records import ImageRecord, Reject, Roi
from featurestore.images.sources.roi_geometry import decode_counts, encode_mask, fault_of, to_mask
from featurestore.images.sources.rois import WithRois, read_rois


class Listed:
    """A source of the keys it is given."""

    name = "listed"

    def __init__(self, *keys: str, patients: dict[str, str] | None = None) -> None:
        self.keys, self.patients = keys, patients or {}

    def count(self) -> int:
        return len(self.keys)

    def records(self) -> Any:
        return (ImageRecord(key, f"/data/{key}", self.patients.get(key)) for key in self.keys)


def roi(kind: str, geometry: Any, width: int = 10, height: int = 8) -> Roi:
    return Roi("L", kind, json.dumps(geometry), width, height, "test")


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def compress(counts: list[int]) -> str:
    """COCO's compressed run lengths, written from pycocotools' `rleToString`."""
    text = ""
    for i, count in enumerate(counts):
        x = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            c = x & 0x1F
            x >>= 5
            more = x != -1 if c & 0x10 else x != 0
            text += chr((c | 0x20 if more else c) + 48)
    return text


def test_box_covers_the_pixels_whose_centre_it_holds() -> None:
    mask = to_mask(roi("box", [2.4, 1.6, 3.2, 2.0]))
    expected = np.array([[2.4 <= x + 0.5 < 5.6 and 1.6 <= y + 0.5 < 3.6 for x in range(10)] for y in range(8)])
    assert np.array_equal(mask, expected)
    assert mask.shape == (8, 10)


def test_a_tiny_box_covers_one_pixel() -> None:
    assert to_mask(roi("box", [9.8, 7.8, 0.1, 0.1])).sum() == 1


def test_polygons_are_filled_with_their_outline_and_joined() -> None:
    mask = to_mask(roi("polygon", [[1, 1, 4, 1, 4, 3, 1, 3], [7, 5, 9, 5, 9, 7, 7, 7]]))
    expected = np.zeros((8, 10), bool)
    expected[1:4, 1:5] = expected[5:8, 7:10] = True
    assert np.array_equal(mask, expected)


def test_run_lengths_go_down_the_columns() -> None:
    mask = to_mask(roi("rle", {"size": [3, 2], "counts": [1, 3, 2]}, 2, 3))
    assert mask.tolist() == [[False, True], [True, False], [True, False]]


def test_compressed_counts_known_by_hand() -> None:
    # 1, 3, 2: one character each; 40 = 8 + 32: "X1"; the fourth run is stored as its difference to the second: 5 - 3
    assert decode_counts("132") == [1, 3, 2]
    assert decode_counts("X1") == [40]
    assert decode_counts("1322") == [1, 3, 2, 5]
    assert decode_counts("132M") == [1, 3, 2, 0]  # M = 0b11101 = -3


@given(hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 70))))
def test_run_lengths_round_trip_in_both_spellings(mask: np.ndarray) -> None:
    height, width = mask.shape
    rle = encode_mask(mask)
    assert np.array_equal(to_mask(roi("rle", rle, width, height)), mask)
    compressed = {"size": rle["size"], "counts": compress(rle["counts"])}
    assert np.array_equal(to_mask(roi("rle", compressed, width, height)), mask)


@pytest.mark.parametrize(
    ("kind", "geometry", "words"),
    [
        ("box", [8, 1, 5, 2], "reaches 3 pixels outside its 10 x 8 frame"),
        ("box", [-2.5, 1, 5, 2], "reaches 2.5 pixels outside"),
        ("box", [1, 1, 0, 2], "has no area"),
        ("box", [1, 1, 2], "cannot be read"),
        ("box", [1, 1, float("nan"), 2], "not a finite number"),
        ("polygon", [[1, 1, 4, 1]], "needs three corners"),
        ("polygon", [[1, 1, 4, 1, 3, 1]], "has no area"),
        ("polygon", [[1, 1, 40, 1, 3, 6]], "reaches 30 pixels outside"),
        ("polygon", [], "needs three corners"),
        ("rle", {"size": [8, 10], "counts": [80]}, "has no area"),
        ("rle", {"size": [8, 10], "counts": [40, 41]}, "run lengths cover 81 pixels of 80"),
        ("rle", {"size": [8, 10], "counts": [90, -20, 10]}, "run lengths cover"),
        ("rle", {"size": [10, 8], "counts": [40, 40]}, "run lengths of size"),
        ("rle", {"size": [8, 10], "counts": "~"}, "is not part of COCO run lengths"),
        ("rle", {"size": [8, 10], "counts": "X"}, "end inside a number"),
    ],
)
def test_faults_are_named(kind: str, geometry: Any, words: str) -> None:
    assert words in (fault_of(roi(kind, geometry)) or "")


def test_frames_that_are_none_or_would_fill_the_memory() -> None:
    assert "the frame is 0 x 8" in (fault_of(roi("box", [0, 0, 1, 1], 0)) or "")
    huge = fault_of(roi("rle", {"size": [10**6, 10**6], "counts": [0, 10**12]}, 10**6, 10**6))
    assert "a frame of 1000000 x 1000000" in (huge or "")


def coco(**changes: Any) -> dict[str, Any]:
    annotations = [
        {"image_id": 1, "category_id": 5, "segmentation": [[1, 1, 4, 1, 4, 3]], "bbox": [1, 1, 3, 2]},
        {"image_id": 1, "category_id": 5, "segmentation": {"size": [8, 10], "counts": [10, 70]}},
        {"image_id": 2, "category_id": 5, "segmentation": [], "bbox": [1, 1, 3, 2]},
    ]
    images = [{"id": n, "file_name": f"x/{n}.png", "width": 10, "height": 8} for n in (1, 2)]
    return {"images": images, "annotations": annotations, "categories": [{"id": 5, "name": "Edema"}]} | changes


def test_coco(tmp_path: Path) -> None:
    found = read_rois(write(tmp_path / "r.json", coco()))
    assert found.rejects == []
    assert [(r.label, r.kind, r.source) for r in found.by_image["x/1.png"]] == [
        ("Edema", "polygon", "r.json"),
        ("Edema", "rle", "r.json"),
    ]
    assert [(r.kind, r.geometry) for r in found.by_image["x/2.png"]] == [("box", "[1, 1, 3, 2]")]


def test_coco_annotations_that_cannot_be_used(tmp_path: Path) -> None:
    bad = [
        {"image_id": 9, "category_id": 5, "bbox": [1, 1, 2, 2]},
        {"image_id": 1, "category_id": 8, "bbox": [1, 1, 2, 2]},
        {"image_id": 1, "category_id": 5},
        {"image_id": 1, "category_id": 5, "bbox": [50, 1, 2, 2]},
    ]
    found = read_rois(write(tmp_path / "r.json", coco(annotations=bad)))
    assert not found.by_image
    assert {r.stage for r in found.rejects} == {"roi"}
    reasons = [r.reason for r in found.rejects]
    assert [reason[:26] for reason in reasons[:2]] == ["annotation 0 is incomplete", "annotation 1 is incomplete"]
    assert "bbox" in reasons[2]
    assert "outside its 10 x 8 frame" in reasons[3]


def test_chexlocalize_polygons_and_run_lengths(tmp_path: Path) -> None:
    image = "patient64541_study1_view1_frontal"
    polygons = {image: {"img_size": [8, 10], "Edema": [[[1, 1], [4, 1], [4, 3]]], "Lung Lesion": []}}
    empty = {"size": [8, 10], "counts": compress([80])}
    lengths = {image: {"Edema": {"size": [8, 10], "counts": compress([10, 5, 65])}, "Lung Lesion": empty}}
    first = read_rois(write(tmp_path / "p.json", polygons))
    second = read_rois(write(tmp_path / "r.json", lengths))
    assert (first.rejects, second.rejects) == ([], [])  # an empty mask says that the finding is absent
    (region,), (runs,) = first.by_image[image], second.by_image[image]
    assert (region.kind, region.geometry, region.width, region.height) == (
        "polygon", "[[1.0, 1.0, 4.0, 1.0, 4.0, 3.0]]", 10, 8,
    )  # fmt: skip
    assert (runs.kind, runs.label, to_mask(runs).sum()) == ("rle", "Edema", 5)


def test_masks_in_both_layouts(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[3:9, 4:11] = 1
    (tmp_path / "Edema").mkdir()
    for name in ("Edema/a.png", "b__Lung Lesion.png", "Edema/c__1.png", "Edema/empty.png", "unnamed.png"):
        Image.fromarray(mask * (name != "Edema/empty.png")).save(tmp_path / name)
    (tmp_path / "Edema" / "broken.png").write_text("no image")
    found = read_rois(tmp_path)
    assert {image: [r.label for r in rois] for image, rois in found.by_image.items()} == {
        "a": ["Edema"],
        "b": ["Lung Lesion"],
        "c__1": ["Edema"],
    }
    assert np.array_equal(to_mask(found.by_image["a"][0]), mask == 1)
    assert {r.source_key: r.reason for r in found.rejects} == {
        "empty": "the rle of 'Edema' has no area",
        "unnamed": "mask unnamed.png: unnamed.png names no label; expected LABEL/IMAGE.png or IMAGE__LABEL.png",
        "broken": "mask Edema/broken.png: no image format known here starts with b'no image'",
    }


def test_regions_find_their_images_and_the_left_over_are_rejected(tmp_path: Path) -> None:
    document = coco(
        images=[
            {"id": n, "file_name": name, "width": 10, "height": 8}
            for n, name in enumerate(["x/1.png", "view1.jpg", "nowhere.png", "p1_s1_view1", "stem"])
        ],
        annotations=[{"image_id": n, "category_id": 5, "bbox": [1, 1, 3, 2]} for n in range(5)],
    )
    keys = ("x/1.png", "c/p1/s1/view1.jpg", "c/p2/s1/view1.jpg", "y/stem.dcm", "other.png")
    source = WithRois(Listed(*keys), read_rois(write(tmp_path / "r.json", document)))
    items = list(source.records())
    with_rois = {i.source_key: len(i.rois) for i in items if isinstance(i, ImageRecord)}
    assert with_rois == dict(zip(keys, (1, 1, 0, 1, 0), strict=True))
    assert {i.source_key: i.reason.split(":")[0] for i in items if isinstance(i, Reject)} == {
        "view1.jpg": "fits 2 images",  # never guessed
        "nowhere.png": "no such image",
    }
    assert source.count() == 5


def test_a_region_that_cannot_be_used_says_whose_it_is_where_its_name_tells(tmp_path: Path) -> None:
    names = ["1.png", "both.png", "several.png", "nowhere.png"]
    document = coco(
        images=[{"id": n, "file_name": name, "width": 10, "height": 8} for n, name in enumerate(names)],
        annotations=[{"image_id": n, "category_id": 5, "bbox": [1, 1, 0, 0]} for n in range(len(names))],
    )
    patients = {"x/1.png": "p1", "a/both.png": "p2", "b/both.png": "p2", "a/several.png": "p3", "b/several.png": "p4"}
    source = WithRois(Listed(*patients, patients=patients), read_rois(write(tmp_path / "r.json", document)))
    items = list(source.records())
    assert [item.rois for item in items if isinstance(item, ImageRecord)] == [()] * len(patients)
    assert [(i.source_key, i.patient_id) for i in items if isinstance(i, Reject)] == [
        ("x/1.png", "p1"),
        ("both.png", "p2"),
        ("several.png", None),
        ("nowhere.png", None),
    ]


def test_chexlocalize_names_find_chexpert_paths(tmp_path: Path) -> None:
    regions = {"patient1_study2_view1_frontal": {"img_size": [8, 10], "Edema": [[[1, 1], [4, 1], [4, 3]]]}}
    key = "CheXpert-v1.0/valid/patient1/study2/view1_frontal.jpg"
    (record,) = WithRois(Listed(key), read_rois(write(tmp_path / "p.json", regions))).records()
    assert isinstance(record, ImageRecord)
    assert [r.label for r in record.rois] == ["Edema"]


def test_files_that_hold_no_regions(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file: .*x\.json; expected COCO or CheXlocalize JSON, or a folder"):
        read_rois(tmp_path / "x.json")
    with pytest.raises(UsageError, match=r"holds no \.png; expected"):
        read_rois(tmp_path)
    (tmp_path / "t.json").write_text("{nonsense")
    with pytest.raises(UsageError, match="cannot be read as JSON"):
        read_rois(tmp_path / "t.json")
    with pytest.raises(UsageError, match="neither COCO nor CheXlocalize"):
        read_rois(write(tmp_path / "l.json", [1, 2]))
    with pytest.raises(UsageError, match="is not COCO: images need id"):
        read_rois(write(tmp_path / "c.json", {"annotations": []}))
