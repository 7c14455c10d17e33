"""CSV sources: the input rules, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.errors import UsageError
from featurestore.images.records import ImageRecord, Reject
from featurestore.images.sources.chexpert import ChexpertSource
from featurestore.images.sources.labels import CHEXPERT_LABELS, NIH_LABELS
from featurestore.images.sources.nih import NihSource
from featurestore.images.sources.registry import make_source
from featurestore.images.sources.table import TableSource
from featurestore.images.sources.values import parse_age, parse_label, parse_view


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def table(folder: Path, text: str, labels: tuple[str, ...] = ("A", "B"), **options: str) -> TableSource:
    path = folder / "t.csv"
    path.write_text(text, encoding="utf-8")
    return TableSource(path, "file", options.get("patient"), labels, options.get("separator"))


def split(source: TableSource | NihSource | ChexpertSource) -> tuple[list[ImageRecord], list[Reject]]:
    items = list(source.records())
    return [i for i in items if isinstance(i, ImageRecord)], [i for i in items if isinstance(i, Reject)]


def test_values_patients_and_keys(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "sub/b.png")
    text = "\ufefffile,who,A,B\n./a.png, p1 ,1,-1.0\n\nsub/b.png,,nan,\n"
    records, rejects = split(table(tmp_path, text, patient="who"))
    assert rejects == []
    assert [(r.source_key, r.patient_id, dict(r.labels)) for r in records] == [
        ("a.png", "p1", {"A": 1, "B": -1}),
        ("sub/b.png", None, {"A": None, "B": None}),
    ]
    assert records[1].uri == str((tmp_path / "sub/b.png").resolve())


def test_rejects_say_whose_they_are(tmp_path: Path) -> None:
    touch(tmp_path / "a.png")
    text = "file,who,A\na.png,p1,maybe\nmissing.png,p2,1\nb.png,p3,1\nb.png,p4,1\nshort\nc.png,,1\n"
    _, rejects = split(table(tmp_path, text, ("A",), patient="who"))
    assert [(r.stage, r.source_key, r.patient_id) for r in rejects] == [
        ("label", "a.png", "p1"),
        ("path", "missing.png", "p2"),
        ("duplicate", "b.png", "p3"),
        ("duplicate", "b.png", "p4"),
        ("row", "line 6", None),
        ("path", "c.png", None),
    ]


def test_text_outside_the_values_rejects_the_label_not_the_image(tmp_path: Path) -> None:
    touch(tmp_path / "a.png")
    records, rejects = split(table(tmp_path, "file,A,B\na.png,maybe,1\n"))
    assert dict(records[0].labels) == {"B": 1}  # left out, not None: None would say "not mentioned"
    assert [(r.stage, r.source_key, r.uri) for r in rejects] == [("label", "a.png", records[0].uri)]
    assert rejects[0].reason == "line 2: label 'A': 'maybe' is none of 1, 0, -1 (uncertain), blank or NaN"


def test_rows_that_agree_are_one_and_rows_that_contradict_are_none(tmp_path: Path) -> None:
    touch(*(tmp_path / f"{name}.png" for name in "abc"))
    text = "file,A,B\na.png,1,0\nb.png,1,0\n./a.png,1.0,0.0\nb.png,0,0\nc.png,0,1\nb.png,1,0\n"
    records, rejects = split(table(tmp_path, text))
    assert [r.source_key for r in records] == ["a.png", "c.png"]
    assert [(r.stage, r.source_key) for r in rejects] == [("duplicate", "b.png")] * 3
    assert [r.reason.split(" contradicts")[0] for r in rejects] == ["line 3", "line 5", "line 7"]


@given(rows=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["0", "1", "0.0", ""])), max_size=12))
def test_duplicates_against_a_dictionary(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    folder = tmp_path_factory.getbasetemp() / "duplicates"
    touch(*(folder / name for name in "abc"))
    records, rejects = split(table(folder, "file,A\n" + "".join(f"{f},{v}\n" for f, v in rows), ("A",)))
    values: dict[str, list[float | None]] = {}
    for name, value in rows:
        values.setdefault(name, []).append(float(value) if value else None)
    kept = [name for name in values if len(set(values[name])) == 1]
    assert sorted(r.source_key for r in records) == sorted(kept)
    assert len(rejects) == sum(len(found) for name, found in values.items() if name not in kept)


def test_paths_that_leave_the_folder_or_lead_nowhere(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    touch(tmp_path / "secret.png", folder / "ok.png")
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "gone.png").symlink_to(folder / "nothing.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    names = ["../secret.png", "x/../../other.png", str(tmp_path / "secret.png"), "out.png", "gone.png", "loop.png"]
    names += ["none.png", ".", "n" * 300, "ok.png"]
    records, rejects = split(table(folder, "file\n" + "\n".join(names), ()))
    assert [r.source_key for r in records] == ["ok.png"]
    assert {r.stage for r in rejects} == {"path"}
    words = ["climbs out", "climbs out", "is absolute", "leads out", "link whose target", "cannot be opened"]
    words += ["no such file", "not a regular file", "cannot be opened"]
    assert len(rejects) == len(words)
    assert all(word in reject.reason for word, reject in zip(words, rejects, strict=True))
    assert [r.retryable for r in rejects] == [False] * 4 + [True, False, True, False, False]
    assert rejects[0].uri == f"{folder / 't.csv'}#2"


def test_a_folder_reached_through_a_link_is_fine(tmp_path: Path) -> None:
    touch(tmp_path / "real/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    records, rejects = split(table(tmp_path / "link", "file\na.png\n", ()))
    assert (len(records), rejects) == (1, [])


def test_broken_rows_are_named_by_line(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "b.png")
    records, rejects = split(table(tmp_path, "file,A,B\na.png,1\nb.png,1,0,\nb.png,1,0,9\n"))
    assert [r.source_key for r in records] == ["b.png"]  # a trailing separator is no field
    assert [(r.stage, r.reason) for r in rejects] == [
        ("row", "line 2: 2 fields, the header has 3"),
        ("row", "line 4: 4 fields, the header has 3"),
    ]


def test_other_separators(tmp_path: Path) -> None:
    touch(tmp_path / "a.png")
    for separator, spelled in ((";", ";"), ("\t", "\\t"), ("\t", "tab")):
        source = table(tmp_path, f"file{separator}A\na.png{separator}1\n", ("A",), separator=spelled)
        assert split(source)[0][0].labels == {"A": 1}
    (tmp_path / "t.tsv").write_text("file\tA\na.png\t1\n")
    assert split(TableSource(tmp_path / "t.tsv", "file", labels=("A",)))[0][0].labels == {"A": 1}


@pytest.mark.parametrize(
    ("text", "labels", "words"),
    [
        ("file,A\n", ("A", "C"), "has no column 'C'; columns found: file, A"),
        ("f,A\n", (), "has no column 'file'; columns found: f, A"),
        ("file,A,A\n", ("A",), "has more than one column 'A'"),
        ("", (), "is empty; expected a header row"),
    ],
)
def test_wrong_columns_list_what_was_found(tmp_path: Path, text: str, labels: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        table(tmp_path, text, labels)


def test_files_that_cannot_be_a_table(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file: .*none\.csv; expected a CSV file"):
        TableSource(tmp_path / "none.csv", "file")
    with pytest.raises(UsageError, match=r"a folder: .*; expected a CSV file"):
        TableSource(tmp_path, "file")
    (tmp_path / "latin.csv").write_bytes(b"file\nM\xfcller.png\n")
    with pytest.raises(UsageError, match=r"is not UTF-8 text \(.*, byte 0xfc\)"):
        list(TableSource(tmp_path / "latin.csv", "file").records())
    with pytest.raises(UsageError, match="separator 'ab'; expected one character"):
        table(tmp_path, "file\n", (), separator="ab")
    (tmp_path / "t.csv").write_text("file,A\n")
    with pytest.raises(UsageError, match="--image-column; columns found: file, A"):
        TableSource(tmp_path / "t.csv", None)


def test_count_is_the_number_of_rows(tmp_path: Path) -> None:
    assert table(tmp_path, "file\na\nb\n", ()).count() == 2
    assert table(tmp_path, "file\na\nb", ()).count() == 2
    assert table(tmp_path, "file\n", ()).count() == 0


@given(st.text("+-.01 naN2e_", max_size=6))
def test_a_text_is_read_as_its_number_or_refused(text: str) -> None:
    try:
        value = parse_label(text)
    except ValueError:
        return
    blank = text.strip().lower() in ("", "nan")
    assert value is None if blank else value == float(text)


@pytest.mark.parametrize(
    ("value", "texts"),
    [(1, ["1", "1.0", " 1. ", "+1"]), (0, ["0", "0.00", "-0"]), (-1, ["-1", "-1.0"]), (None, ["", "NaN"])],
)
def test_every_spelling_of_the_four_values(value: int | None, texts: list[str]) -> None:
    assert [parse_label(text) for text in texts] == [value] * len(texts)


@pytest.mark.parametrize("text", ["2", "0.5", "yes", "inf", "1e0", "0_1", "--1", "-", ".", "1,0"])
def test_near_values_are_no_labels(text: str) -> None:
    with pytest.raises(ValueError, match="is none of 1, 0, -1"):
        parse_label(text)


def test_ages_and_views() -> None:
    assert [parse_age(t) for t in ("58", "058Y", "006M", "730D", "414", "", None, "old")] == [
        58, 58, 0.5, pytest.approx(2, abs=0.01), None, None, None, None,
    ]  # fmt: skip
    assert [parse_view(t) for t in ("PA", "ap ", "LL", "Lateral", "XX", None)] == [
        "PA", "AP", "LATERAL", "LATERAL", None, None,
    ]  # fmt: skip


NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
)


def nih(folder: Path, rows: list[str], boxes: str = "") -> NihSource:
    (folder / "images").mkdir(exist_ok=True)
    (folder / "Data_Entry_2017.csv").write_text(NIH_HEADER + "\n".join(rows))
    if boxes:
        (folder / "BBox_List_2017.csv").write_text("Image Index,Finding Label,Bbox [x,y,w,h],,,\n" + boxes)
    return NihSource(folder)


def test_nih_rows_and_boxes(tmp_path: Path) -> None:
    touch(tmp_path / "images/1.png", tmp_path / "images/2.png", tmp_path / "images/unlisted.png")
    rows = ["1.png,Infiltration|Mass,0,7,058Y,F,PA,1,1,0.1,0.1", "2.png,No Finding,1,7,61,M,AP,1,1,0.1,0.1,"]
    boxes = "1.png,Infiltrate,10.5,20,30,40\n3.png,Mass,1,1,5,5,,,\n1.png,Mass,1000,0,50,50\n"
    records, rejects = split(nih(tmp_path, rows, boxes))
    first, second = records
    assert (first.patient_id, first.age, first.sex, first.view) == ("7", 58.0, "F", "PA")
    assert [name for name, value in first.labels.items() if value == 1] == ["Infiltration", "Mass"]
    assert len(first.labels) == 15
    assert [name for name, value in second.labels.items() if value == 1] == ["No Finding"]
    assert [(r.label, r.kind, r.geometry, r.width, r.source) for r in first.rois] == [
        ("Infiltration", "box", "[10.5, 20.0, 30.0, 40.0]", 1024, "BBox_List_2017.csv")
    ]
    assert [(r.stage, r.source_key) for r in rejects] == [("roi", "1.png")]
    assert "reaches 26 pixels outside its 1024 x 1024 frame" in rejects[0].reason


def test_nih_missing_file_unknown_and_blank_findings(tmp_path: Path) -> None:
    touch(tmp_path / "images/1.png", tmp_path / "images/2.png")
    rows = [f"{n}.png,{finding},0,7,58,F,PA,1,1,0.1,0.1" for n, finding in ((1, "Mass|Gout"), (2, ""), (3, "Mass"))]
    records, rejects = split(nih(tmp_path, rows))
    assert records[0].labels["Mass"] == 1
    assert set(records[1].labels.values()) == {None}
    assert [(r.stage, r.source_key, r.retryable) for r in rejects] == [
        ("label", "1.png", False),
        ("path", "3.png", True),
    ]
    assert "'Gout' is none of ChestX-ray14's findings" in rejects[0].reason


def test_nih_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such folder: .*/x; expected a folder with images/ and Data_Entry_2017"):
        NihSource(tmp_path / "x")
    with pytest.raises(UsageError, match=r"expected the folder of images beside Data_Entry_2017.csv"):
        NihSource(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "Data_Entry_2017.csv").write_text("Image Index,Finding Labels\n")
    with pytest.raises(UsageError, match=r"no column 'Patient ID', .*; columns found: Image Index, Finding Labels"):
        NihSource(tmp_path)


def test_nih1000(shared_data: Path) -> None:
    records, rejects = split(NihSource(shared_data / "nih1000"))
    assert (len(records), rejects) == (751, [])
    assert len({r.patient_id for r in records}) == 207
    positives = {name: len({r.patient_id for r in records if r.labels[name] == 1}) for name in NIH_LABELS}
    named = ("No Finding", "Infiltration", "Atelectasis", "Effusion", "Cardiomegaly", "Consolidation")
    assert [positives[name] for name in named] == [155, 45, 41, 40, 19, 8]
    assert positives["Pneumothorax"] == 5
    assert sum(r.labels["Pneumothorax"] == 1 for r in records) == 37
    assert sorted(roi.label for r in records for roi in r.rois).count("Infiltration") == 1
    assert sum(len(r.rois) for r in records) == 7


HEADER = "Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(CHEXPERT_LABELS) + "\n"


def chexpert(path: Path, rows: list[str]) -> ChexpertSource:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEADER + "\n".join(rows))
    return ChexpertSource(path)


VALUES = "1.0,,0.0,-1.0" + "," * 10
TRAIN = "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
VALID = "CheXpert-v1.0-small/valid/patient64541/study2/view2_lateral.jpg"


@pytest.mark.parametrize("inside", ["CheXpert-v1.0-small", "renamed", "."])
def test_chexpert_wherever_its_csv_lies(tmp_path: Path, inside: str) -> None:
    folder = tmp_path / inside
    below = "CheXpert-v1.0-small" if inside == "." else "."
    for path in (TRAIN, VALID):
        touch(folder / below / path.partition("/")[2])
    rows = [f"{TRAIN},Female,68,Frontal,AP,{VALUES}", f"{VALID},Male,0,Lateral,,{VALUES}"]
    records, rejects = split(chexpert(folder / "train.csv", rows))
    assert rejects == []
    first, second = records
    assert first.source_key == TRAIN
    assert Path(first.uri).is_file()
    assert (first.patient_id, first.study_id) == ("patient00001", "patient00001/study1")
    assert (first.view, first.sex, first.age, first.official_part) == ("AP", "F", 68.0, "train")
    assert [first.labels[name] for name in CHEXPERT_LABELS[:4]] == [1, None, 0, -1]
    assert len(first.labels) == 14
    assert (second.view, second.official_part, second.study_id) == ("LATERAL", "val", "patient64541/study2")


def test_chexpert_path_that_climbs_out(tmp_path: Path) -> None:
    touch(tmp_path / "secret.jpg")
    rows = [f"CheXpert-v1.0-small/../../secret.jpg,Male,1,Frontal,AP,{VALUES}"]
    _, rejects = split(chexpert(tmp_path / "in" / "train.csv", rows))
    assert [r.stage for r in rejects] == ["path"]
    assert "climbs out of its folder" in rejects[0].reason


def test_chexpert_needs_its_labels(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("Path,Edema\n")
    with pytest.raises(UsageError, match=r"no column 'No Finding', .*; columns found: Path, Edema"):
        ChexpertSource(tmp_path / "train.csv")


def test_registry_names_the_kinds(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no source 'mimic'; there are nih, chexpert, medmnist, csv, dicom, phantom"):
        make_source("mimic", tmp_path)
    with pytest.raises(UsageError, match=r"no such folder: .*/x; expected a folder of phantoms"):
        make_source("phantom", tmp_path / "x")
