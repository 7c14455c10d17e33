"""The phantoms: the same every time, physical, marked exactly, and neither trivial nor hopeless."""

from __future__ import annotations

import csv
import dataclasses
import doctest
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from featurestore.errors import UsageError
from featurestore.images import phantoms
from featurestore.images.phantom_anatomy import build_scene
from featurestore.images.phantom_findings import PLANTERS
from featurestore.images.phantom_labels import LABELS, PARENT, PRIORS, read_labels
from featurestore.images.phantom_patient import _masks, render
from featurestore.images.phantom_plan import Patient, Shot, generator, plan_patient
from featurestore.images.phantom_vessels import grow_vessels
from featurestore.images.phantoms import MASK_FRACTION, PhantomImage, generate_patient, write_phantoms

FRONTAL, LATERAL = ("PA", "AP"), ("LATERAL",)


def _digest(images: list[PhantomImage]) -> str:
    sha = hashlib.sha256()
    for image in images:
        sha.update(image.pixels.tobytes())
        sha.update(repr((image.name, image.labels, image.view, image.sex, image.age, sorted(image.masks))).encode())
        for label in sorted(image.masks):
            sha.update(image.masks[label].tobytes())
    return sha.hexdigest()


def _shot(views: tuple[str, ...], start: int = 0) -> tuple[Patient, Shot]:
    for index in range(start, start + 50):
        patient = plan_patient(3, "a", index)
        for shot in patient.shots:
            if shot.pose.view in views:
                return patient, shot
    raise AssertionError(f"no {views} in 50 patients")


def _films(
    patient: Patient, shot: Shot, label: str, strength: float, size: int = 128
) -> tuple[npt.NDArray[np.float64], ...]:
    """Return the film without noise, without and with one finding, and the finding's change."""
    vessels = grow_vessels(patient.body)
    without, _ = render(patient, dataclasses.replace(shot, strengths={}), vessels, size, noise=False)
    shown, changes = render(patient, dataclasses.replace(shot, strengths={label: strength}), vessels, size, noise=False)
    return without.astype(np.float64), shown.astype(np.float64), changes[label].astype(np.float64)


# --- the same every time ---


def test_a_patient_is_the_same_whatever_came_before() -> None:
    first = _digest(generate_patient(7, "a", 5, 64))
    generate_patient(7, "a", 4, 64)
    generate_patient(7, "b", 5, 64)
    assert _digest(generate_patient(7, "a", 5, 64)) == first


def test_a_patient_is_the_same_in_another_process() -> None:
    code = (
        "import hashlib; from featurestore.images.phantoms import generate_patient;"
        "print(hashlib.sha256(b''.join(i.pixels.tobytes() for i in generate_patient(7, 'a', 5, 64))).hexdigest())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "12345"}
    root = Path(phantoms.__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env, cwd=root)
    here = hashlib.sha256(b"".join(image.pixels.tobytes() for image in generate_patient(7, "a", 5, 64))).hexdigest()
    assert out.stdout.strip() == here


def test_seed_hospital_and_index_each_change_the_image() -> None:
    digests = {_digest(generate_patient(*key, 64)) for key in ((0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1))}
    assert len(digests) == 4


def test_size_changes_the_sampling_and_not_the_patient() -> None:
    small, large = generate_patient(2, "a", 3, 64), generate_patient(2, "a", 3, 256)
    for low, high in zip(small, large, strict=True):
        assert (low.labels, low.view, low.name) == (high.labels, high.view, high.name)
        shrunk = np.asarray(Image.fromarray(high.to_uint8()).resize((64, 64), Image.Resampling.BOX), dtype=np.float64)
        assert np.corrcoef(shrunk.ravel(), low.to_uint8().ravel())[0, 1] > 0.98


@pytest.mark.parametrize("views", [FRONTAL, LATERAL])
def test_every_map_stays_float32(views: tuple[str, ...]) -> None:
    patient, shot = _shot(views)
    scene = build_scene(64, patient.body, shot.pose, grow_vessels(patient.body), generator(0))
    for number, prior in enumerate(PRIORS):
        PLANTERS[prior.label](scene, 0.7, generator(number))
    maps = [
        scene.body,
        scene.lungs,
        scene.cavity,
        scene.gas,
        scene.bone,
        scene.metal,
        scene.attenuation(),
        *scene.walls,
    ]
    assert {array.dtype for array in maps} == {np.dtype(np.float32)}
    assert (scene.lungs >= 0).all()
    assert (scene.lungs[0] + scene.lungs[1] <= scene.body + 1e-3).mean() > 0.995


# --- a chest, physically ---


def test_a_frontal_film_shows_a_chest() -> None:
    for start in (0, 10, 20):
        patient, shot = _shot(FRONTAL, start)
        film, _, _ = _films(patient, shot, "Lung Lesion", 0.1)
        film = film / 4095
        right, middle, left = film[40:70, 25:40].mean(), film[40:70, 60:68].mean(), film[40:60, 88:103].mean()
        assert max(right, left) + 0.2 < middle, "lungs are dark, the mediastinum is bright"
        assert film[112:125, 40:90].mean() > max(right, left) + 0.2, "below the diaphragm it is bright"
        row = film[68:84]
        assert row[:, 64:90].mean() > row[:, 38:64].mean() + 0.05, "the heart lies on the image's right"
        assert film[:6, :6].max() < 0.2, "air beside the neck is black"


def test_lateral_and_frontal_films_differ() -> None:
    films = [_films(*_shot(views), "Lung Lesion", 0.1)[0] for views in (FRONTAL, FRONTAL[1:], LATERAL)]
    same, other = (
        np.corrcoef(films[0].ravel(), films[1].ravel())[0, 1],
        np.corrcoef(films[0].ravel(), films[2].ravel())[0, 1],
    )
    assert same > 0.8 > other


def test_beer_lambert_holds_for_what_is_added() -> None:
    patient, shot = _shot(FRONTAL)
    scene = build_scene(64, patient.body, shot.pose, grow_vessels(patient.body), generator(0))
    before = scene.attenuation()
    scene.metal = scene.metal + np.float32(0.1)
    np.testing.assert_allclose(scene.attenuation() - before, 0.1 * 9.5, atol=1e-5)


def test_hospital_b_is_noisier_flatter_and_takes_more_bedside_films() -> None:
    patient, shot = _shot(("PA",))
    vessels, plain = grow_vessels(patient.body), dataclasses.replace(shot, strengths={})
    noise, contrast = {}, {}
    for hospital in ("a", "b"):
        there = dataclasses.replace(patient, hospital=hospital)
        clean, _ = render(there, plain, vessels, 128, noise=False)
        noisy, _ = render(there, plain, vessels, 128)
        noise[hospital] = float((noisy.astype(float) - clean)[64:96, 30:100].std())
        contrast[hospital] = float(np.subtract(*np.percentile(clean[30:110, 30:100], [95, 5])))
    assert noise["b"] > 1.3 * noise["a"]
    assert contrast["b"] < 0.9 * contrast["a"]
    ap = {
        h: np.mean([s.pose.view == "AP" for i in range(400) for s in plan_patient(0, h, i).shots]) for h in ("a", "b")
    }
    assert ap["b"] > ap["a"] + 0.15


# --- findings and their regions ---


@pytest.mark.parametrize("label", [prior.label for prior in PRIORS])
@pytest.mark.parametrize("views", [FRONTAL, LATERAL])
def test_the_film_changes_inside_the_region_and_hardly_elsewhere(label: str, views: tuple[str, ...]) -> None:
    patient, shot = _shot(views, start=4)
    without, shown, change = _films(patient, shot, label, 0.8)
    mask = change > MASK_FRACTION * change.max()
    near = ndimage.binary_dilation(mask, iterations=3)  # the detector's blur
    difference = np.abs(shown - without)
    assert difference.max() > 20
    assert near[difference > 0.5 * difference.max()].mean() > 0.9
    assert difference[mask].mean() > 4 * difference[~near].mean()


@pytest.mark.parametrize("label", [prior.label for prior in PRIORS])
def test_the_mask_is_the_attenuation_difference_of_two_chests(label: str) -> None:
    patient, shot = _shot(FRONTAL, start=9)
    labels = {**shot.labels, **dict.fromkeys(LABELS, 0), label: 1}
    vessels = grow_vessels(patient.body)
    _, changes = render(patient, dataclasses.replace(shot, strengths={label: 0.6}), vessels, 64)
    scenes = [build_scene(64, patient.body, shot.pose, vessels, generator(*shot.entropy, 1)) for _ in range(2)]
    number = [prior.label for prior in PRIORS].index(label)
    PLANTERS[label](scenes[1], 0.6, generator(*patient.entropy, number))
    difference = np.abs(scenes[1].attenuation() - scenes[0].attenuation())
    np.testing.assert_array_equal(_masks(changes, labels)[label], difference > np.float32(0.25) * difference.max())


@pytest.mark.parametrize("label", [prior.label for prior in PRIORS])
def test_a_stronger_finding_changes_more(label: str) -> None:
    patient, shot = _shot(FRONTAL, start=4)
    total = [float(np.abs(b - a).sum()) for a, b, _ in (_films(patient, shot, label, s, 64) for s in (0.1, 0.5, 1.0))]
    assert total[0] < total[1] < total[2]


def test_masks_stand_for_labels_that_are_one_and_parents_hold_their_children() -> None:
    shown = [image for index in range(25) for image in generate_patient(11, "a", index, 64)]
    assert any(image.masks for image in shown)
    for image in shown:
        assert image.pixels.dtype == np.uint16
        assert image.pixels.max() <= 4095
        assert all(image.labels[label] == 1 and mask.any() for label, mask in image.masks.items())
        assert not {"No Finding", "Pneumonia"} & set(image.masks)
        for child, parent in PARENT.items():
            if child in image.masks:
                assert not (image.masks[child] & ~image.masks[parent]).any()


# --- labels and patients ---


def _studies(n: int, hospital: str = "a") -> list[tuple[str, int, dict[str, int | None]]]:
    found = {}
    for index in range(n):
        patient = plan_patient(0, hospital, index)
        for shot in patient.shots:
            found[patient.patient_id, shot.study] = dict(shot.labels)
    return [(patient, study, labels) for (patient, study), labels in found.items()]


@given(
    st.dictionaries(st.sampled_from([p.label for p in PRIORS]), st.floats(0.08, 1.0)),
    st.integers(0, 2**32),
)
def test_labels_respect_the_hierarchy(strengths: dict[str, float], seed: int) -> None:
    labels = read_labels(strengths, generator(seed))
    assert tuple(labels) == LABELS
    assert labels["Pneumonia"] is None
    for child, parent in PARENT.items():
        if labels[child] == 1:
            assert labels[parent] == 1
        if labels[child] == -1:
            assert labels[parent] in (1, -1)
    others = [v for k, v in labels.items() if k not in ("No Finding", "Support Devices")]
    assert (labels["No Finding"] == 1) == (1 not in others and -1 not in others)
    assert all(labels[label] != 0 and labels[label] is not None for label in strengths)
    assert all(labels[label] != -1 for label, s in strengths.items() if s >= 0.3)


def test_enough_patients_have_each_finding() -> None:
    studies = _studies(1000)
    patients = {patient for patient, _, _ in studies}
    for label in set(LABELS) - {"Pneumonia"}:
        share = len({patient for patient, _, labels in studies if labels[label] == 1}) / len(patients)
        assert 0.08 <= share <= 0.6, f"{label}: {share:.3f} of the patients"
        values = {labels[label] for _, _, labels in studies}
        assert {0, 1} <= values
        assert label == "No Finding" or {-1, None} <= values


def test_findings_last_over_a_patients_studies() -> None:
    by_patient: dict[str, list[dict[str, int | None]]] = {}
    for patient, _, labels in _studies(1500):
        by_patient.setdefault(patient, []).append(labels)
    pairs = [studies for studies in by_patient.values() if len(studies) == 2]
    for label in ("Cardiomegaly", "Pleural Effusion", "Edema"):
        again = [second[label] == 1 for first, second in pairs if first[label] == 1]
        fresh = [second[label] == 1 for first, second in pairs if first[label] == 0]
        assert np.mean(again) > 0.5
        assert np.mean(fresh) < 0.05


def test_patients_are_varied_people() -> None:
    patients = [plan_patient(0, "a", index) for index in range(600)]
    counts = [len(p.shots) for p in patients]
    views = [shot.pose.view for p in patients for shot in p.shots]
    assert set(counts) == {1, 2, 3, 4}
    assert {max(s.study for s in p.shots) for p in patients} == {1, 2}
    assert 0.14 < views.count("LATERAL") / len(views) < 0.21
    assert min(p.age for p in patients) >= 18
    assert max(p.age for p in patients) <= 95
    assert 0.35 < np.mean([p.sex == "F" for p in patients]) < 0.65
    assert len({(p.body.width, p.body.heart_ratio, p.body.depth) for p in patients}) == len(patients)


def test_age_raises_the_odds_of_a_large_heart() -> None:
    old, young = [], []
    for index in range(2500):
        patient = plan_patient(0, "a", index)
        (old if patient.age > 60 else young).append(patient.shots[0].labels["Cardiomegaly"] == 1)
    assert np.mean(old) > np.mean(young) + 0.02


# --- folders ---


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _table(folder: Path) -> list[dict[str, str]]:
    with (folder / "phantom.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def png_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "png"
    write_phantoms(folder, patients=6, seed=1, hospital="a", fmt="png", size=64)
    return folder


def test_a_folder_holds_what_was_generated(png_folder: Path) -> None:
    images = [image for index in range(6) for image in generate_patient(1, "a", index, 64)]
    rows = _table(png_folder)
    assert list(rows[0]) == ["path", "patient", "study", "view", "sex", "age", *LABELS]
    text = {1: "1.0", 0: "0.0", -1: "-1.0", None: ""}
    for row, image in zip(rows, images, strict=True):
        assert row["path"] == f"{image.name}.png"
        assert [row["patient"], row["study"], row["view"]] == [image.patient_id, image.study_id, image.view]
        assert [row["sex"], row["age"]] == [image.sex, str(image.age)]
        assert {label: row[label] for label in LABELS} == {label: text[v] for label, v in image.labels.items()}
        with Image.open(png_folder / row["path"]) as stored:
            assert stored.mode == "L"
            np.testing.assert_array_equal(np.asarray(stored), image.to_uint8())


def _decode(segmentation: dict[str, list[int]]) -> npt.NDArray[np.bool_]:
    height, width = segmentation["size"]
    values = np.arange(len(segmentation["counts"])) % 2 == 1
    return np.repeat(values, segmentation["counts"]).reshape(width, height).T


def test_regions_are_coco_run_lengths(png_folder: Path) -> None:
    images = [image for index in range(6) for image in generate_patient(1, "a", index, 64)]
    document = json.loads((png_folder / "rois.json").read_text())
    names = {category["id"]: category["name"] for category in document["categories"]}
    assert tuple(names.values()) == LABELS
    files = {entry["id"]: entry["file_name"] for entry in document["images"]}
    assert list(files.values()) == [f"{image.name}.png" for image in images]
    expected = {(f"{image.name}.png", label): mask for image in images for label, mask in image.masks.items()}
    found = {(files[a["image_id"]], names[a["category_id"]]): a for a in document["annotations"]}
    assert set(found) == set(expected)
    for key, annotation in found.items():
        mask = _decode(annotation["segmentation"])
        np.testing.assert_array_equal(mask, expected[key])
        x, y, w, h = annotation["bbox"]
        assert annotation["area"] == mask.sum() == mask[y : y + h, x : x + w].sum()
        assert mask[y].any()
        assert mask[y + h - 1].any()
        assert mask[:, x].any()
        assert mask[:, x + w - 1].any()


def test_more_patients_leave_the_first_ones_as_they_are(png_folder: Path, tmp_path: Path) -> None:
    write_phantoms(tmp_path, patients=3, seed=1, hospital="a", fmt="png", size=64)
    few, many = _bytes(tmp_path), _bytes(png_folder)
    assert all(many[name] == data for name, data in few.items() if name.startswith("images"))
    assert many["phantom.csv"].startswith(few["phantom.csv"])


def test_writing_again_changes_nothing(png_folder: Path) -> None:
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in png_folder.rglob("*") if p.is_file()}
    n = write_phantoms(png_folder, patients=6, seed=1, hospital="a", fmt="png", size=64)
    assert n == len(_table(png_folder))
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in png_folder.rglob("*") if p.is_file()}


def test_an_interrupted_or_damaged_folder_is_completed(png_folder: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert total == 6
        if done == 3:
            raise KeyboardInterrupt

    arguments = {"patients": 6, "seed": 1, "hospital": "a", "fmt": "png", "size": 64}
    with pytest.raises(KeyboardInterrupt):
        write_phantoms(tmp_path, **arguments, progress=stop)  # type: ignore[arg-type]
    assert not (tmp_path / "phantom.csv").exists()
    first = next(tmp_path.glob("images/*/*.png"))
    first.with_name(f".{first.name}.part").write_bytes(b"half")
    first.write_bytes(b"damaged")
    done: list[int] = []
    write_phantoms(tmp_path, **arguments, progress=lambda n, _: done.append(n))  # type: ignore[arg-type]
    assert done == [1, 2, 3, 4, 5, 6]
    assert _bytes(tmp_path) == _bytes(png_folder)
    first.write_bytes(b"damaged later")
    write_phantoms(tmp_path, **arguments)  # type: ignore[arg-type]
    assert _bytes(tmp_path) == _bytes(png_folder)


def test_other_parameters_are_refused_by_name(png_folder: Path) -> None:
    with pytest.raises(
        UsageError, match=r"patients 6, seed 1, hospital a.*patients 6, seed 2, hospital a.*another folder"
    ):
        write_phantoms(png_folder, patients=6, seed=2, hospital="a", fmt="png", size=64)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"holds thesis.txt but no phantom.json; name an empty or new folder"):
        write_phantoms(tmp_path, patients=1, seed=0, hospital="a", fmt="png", size=64)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(UsageError, match="is a file; name a folder"):
        write_phantoms(tmp_path / "thesis.txt", patients=1, seed=0, hospital="a", fmt="png", size=64)
    (tmp_path / "phantom.json").write_text("[]")
    with pytest.raises(UsageError, match="is not a phantom record"):
        write_phantoms(tmp_path, patients=1, seed=0, hospital="a", fmt="png", size=64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patients": 0}, "0 phantom patients were asked for; give 1 or more"),
        ({"seed": -1}, "seed -1 is negative"),
        ({"hospital": "c"}, "no phantom hospital 'c'; choose a or b"),
        ({"fmt": "jpeg"}, "no phantom format 'jpeg'; choose png or dicom"),
        ({"size": 8}, "size 8 is outside 32 to 2048"),
    ],
)
def test_arguments_outside_their_range(tmp_path: Path, change: dict[str, object], message: str) -> None:
    arguments = {"patients": 1, "seed": 0, "hospital": "a", "fmt": "png", "size": 64, **change}
    with pytest.raises(UsageError, match=message):
        write_phantoms(tmp_path / "new", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_dicom_says_the_same_as_the_image(tmp_path: Path) -> None:
    n = write_phantoms(tmp_path, patients=5, seed=4, hospital="b", fmt="dicom", size=64)
    images = [image for index in range(5) for image in generate_patient(4, "b", index, 64)]
    assert n == len(images) >= 5
    uids, photometric = set(), []
    for row, image in zip(_table(tmp_path), images, strict=True):
        ds = pydicom.dcmread(tmp_path / row["path"])
        pixels = ds.pixel_array
        if ds.PhotometricInterpretation == "MONOCHROME1":
            pixels = 4095 - pixels
        np.testing.assert_array_equal(pixels, image.pixels)
        windowed = pydicom.pixels.apply_windowing(pixels, ds)
        np.testing.assert_allclose(windowed, image.pixels, atol=0.51)
        assert (ds.BitsAllocated, ds.BitsStored, ds.HighBit) == (16, 12, 11)
        assert (ds.PatientID, ds.PatientSex, ds.PatientAge) == (image.patient_id, image.sex, f"{image.age:03d}Y")
        assert ds.ViewPosition == ("LL" if image.view == "LATERAL" else image.view)
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
        uids.add((image.study_id, str(ds.StudyInstanceUID), str(ds.SOPInstanceUID)))
        photometric.append(ds.PhotometricInterpretation)
    assert photometric == ["MONOCHROME1" if k % 4 == 3 else "MONOCHROME2" for k in range(n)]
    assert len({sop for _, _, sop in uids}) == n
    assert len({study for study, _, _ in uids}) == len({uid for _, uid, _ in uids}) == len({(s, u) for s, u, _ in uids})
    before = _bytes(tmp_path)
    next(tmp_path.glob("images/*/*.dcm")).unlink()
    write_phantoms(tmp_path, patients=5, seed=4, hospital="b", fmt="dicom", size=64)
    assert _bytes(tmp_path) == before


def test_the_modules_example_runs() -> None:
    result = doctest.testmod(phantoms)
    assert result.attempted > 0
    assert result.failed == 0


# --- neither trivial nor hopeless ---


@pytest.mark.slow
def test_a_plain_classifier_is_neither_blind_nor_perfect() -> None:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold

    shown = [(index, image) for index in range(300) for image in generate_patient(5, "a", index, 128)]
    shown = [(index, image) for index, image in shown if image.view != "LATERAL"]
    small = [Image.fromarray(image.to_uint8()).resize((32, 32), Image.Resampling.BOX) for _, image in shown]
    x, groups = np.array([np.asarray(s).ravel() for s in small]) / 255.0, np.array([index for index, _ in shown])
    main = ("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Edema", "Consolidation")
    for label in (*main, "Atelectasis", "Pneumothorax", "Pleural Effusion", "Support Devices"):
        y = np.array([np.nan if image.labels[label] is None else image.labels[label] for _, image in shown])
        known = (y == 0) | (y == 1)
        aucs = []
        for train, test in GroupKFold(4).split(x[known], y[known], groups[known]):
            forest = RandomForestClassifier(150, max_depth=10, min_samples_leaf=2, random_state=0, n_jobs=2)
            forest.fit(x[known][train], y[known][train])
            aucs.append(roc_auc_score(y[known][test], forest.predict_proba(x[known][test])[:, 1]))
        assert 0.55 < np.mean(aucs) < 0.97, f"{label}: AUC {np.mean(aucs):.3f}"
