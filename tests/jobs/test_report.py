"""The report, built from a real store with real heads on synthetic vectors."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from classifiers.evaluation import Evaluation, evaluate
from classifiers.splits import make_split
from classifiers.training import commit_cells, plan_cells, run_cell
from featurestore.errors import UsageError
from featurestore.store.store import Store
from jobs.report import answer, format, rejects, roc, tables, timing
from jobs.report.arms import arms, best_ensemble
from jobs.report.provenance import Network, networks, runs
from jobs.report.render import ReportInfo, build_report

pytestmark = pytest.mark.slow  # the whole of it; `make test` runs it, `make test-fast` does not

EVIL = "<script>alert('x')</script>"
BACKBONES = {"densenet121": 12, "vgg16": 8}
_WORKERS = json.dumps([{"device": "cuda", "runtime": "eager", "pid": str(pid)} for pid in (1, 2)])
LABELS = ("Cardiomegaly", "Edema", EVIL)
START = datetime(2025, 3, 1, 9, 0, 0)


@dataclass(frozen=True)
class Made:
    """A store with one evaluated experiment."""

    store: Store
    evaluation: Evaluation
    dataset: str


def fill(
    root: Path,
    *,
    dataset: str = "local",
    weights: str = "chexpert",
    backbones: Mapping[str, int] = BACKBONES,
    labels: Sequence[str] = LABELS,
    heads: Sequence[str] = ("rf100",),
    kind: str = "holdout",
    patients: int = 90,
    signal: float = 1.2,
) -> Made:
    """Put images, labels, vectors, fitted heads, jobs and rejects into a new store."""
    store = Store(root)
    rng = np.random.default_rng(7)
    ids, truth = _images(store, dataset, labels, patients, rng)
    specs = {name: (f"s{i}{dataset}", weights) for i, name in enumerate(backbones)}
    for name, width in backbones.items():
        _vectors(store, name, specs[name][0], weights, ids, truth, width, signal, rng)
    _jobs(store, dataset, backbones, len(ids))
    _rejects(store, dataset)
    make_split(store, dataset, "fair", kind, seed=3, test=0.4, val=0.1, folds=3)
    cells = plan_cells(store, dataset, "fair", heads, specs, seeds=(5,))
    commit_cells(store, [run_cell(store, cell, n_jobs=1) for cell in cells])
    return Made(store, evaluate(store, dataset, "fair"), dataset)


def _images(
    store: Store, dataset: str, labels: Sequence[str], patients: int, rng: np.random.Generator
) -> tuple[list[str], np.ndarray]:
    n = patients * 2
    ids = [f"{i:064x}" for i in range(n)]
    truth = (rng.random((n, len(labels))) < np.linspace(0.35, 0.25, len(labels))).astype(int)
    truth[:, -1] = [i in (3, 61, 170, 171) for i in range(n)]
    stored = np.where(rng.random(truth.shape) < 0.1, -1, truth)
    stored[:, -1] = truth[:, -1]
    images: dict[str, Any] = {
        "image_id": ids,
        "dataset": [dataset] * n,
        "source_key": [f"patient{70000 + i // 2}/view{i}.png" for i in range(n)],
        "patient_id": [f"patient{70000 + i // 2}" for i in range(n)],
        "study_id": [f"study{i}" for i in range(n)],
        "view": ["PA" if i % 3 else "AP" for i in range(n)],
        "sex": ["F" if i % 5 < 2 else "M" for i in range(n)],
        "age": pa.array([None if i == 4 else 20.0 + i % 60 for i in range(n)], pa.float32()),
        "width": pa.array([256] * n, pa.int32()),
        "height": pa.array([256] * n, pa.int32()),
        "bits": pa.array([8] * n, pa.int16()),
    }
    store.append("images", pa.table(images))
    rows = [
        {"image_id": image, "dataset": dataset, "label": label, "value": int(value)}
        for image, values in zip(ids, stored, strict=True)
        for label, value in zip(labels, values, strict=True)
    ]
    store.append("labels", pa.Table.from_pylist(rows))
    return ids, truth


def _vectors(
    store: Store,
    backbone: str,
    spec_id: str,
    weights: str,
    ids: Sequence[str],
    truth: np.ndarray,
    width: int,
    signal: float,
    rng: np.random.Generator,
) -> None:
    X = rng.normal(size=(len(ids), width)).astype(np.float32)
    X[:, : truth.shape[1]] += signal * truth
    columns: dict[str, Any] = {
        "backbone": [backbone] * len(ids),
        "spec_id": [spec_id] * len(ids),
        "image_id": list(ids),
    }
    store.append("embeddings", pa.table({**columns, "run_id": ["x1"] * len(ids), "embedding": list(X)}))
    spec: dict[str, Any] = {"spec_id": spec_id, "backbone": backbone, "weights": weights, "weights_sha256": "ab" * 32}
    spec |= {"weights_source": "seeded" if weights.startswith("random:") else "file chexpert.safetensors"}
    spec |= {"preprocess": "bilinear-v1", "size": 96, "n_features": width, "created_at": START}
    store.append("specs", pa.Table.from_pylist([spec]))


def _jobs(store: Store, dataset: str, backbones: Mapping[str, int], images: int) -> None:
    forward = {name: 10.0 * (i + 1) for i, name in enumerate(backbones)}
    _job(store, "i1", "ingest", dataset, 0, 4.0, {"ingest": 1.5, "total": 4.0}, {"source": "csv", "path": "a.csv"})
    stages = {"decode": 6.0, "infer": sum(forward.values()), "write": 1.25, "by_backbone": forward}
    stages |= {"resolve": 0.5, "run": 39.0, "total": 40.0}
    _job(store, "x1", "extract", dataset, 10, 40.0, stages, {"size": 96, "backbones": list(backbones)})
    # A second extraction that found everything stored, and a deletion whose arguments name a patient.
    _job(store, "x2", "extract", dataset, 60, 2.0, {"decode": 999.0}, {})
    _job(store, "f1", "forget", dataset, 70, 1.0, {}, {"patient": "local:patient70099"})
    _job(store, "e1", "evaluate", dataset, 80, 3.5, {}, {"split": "fair"})


def _job(
    store: Store,
    run_id: str,
    command: str,
    dataset: str,
    at: int,
    took: float,
    seconds: Mapping[str, Any],
    arguments: Mapping[str, Any],
) -> None:
    begun = START + timedelta(seconds=at)
    row: dict[str, Any] = {"run_id": run_id, "command": command, "dataset": dataset, "arguments": json.dumps(arguments)}
    row |= {"versions": json.dumps({"torch": "2.14.1"}), "device": _WORKERS, "counts": "{}", "tables": "{}"}
    row |= {"seconds": json.dumps(seconds), "status": "done", "started_at": begun}
    row |= {"finished_at": begun + timedelta(seconds=took)}
    store.append("runs", pa.Table.from_pylist([row]))


def _rejects(store: Store, dataset: str) -> None:
    rows = [
        {
            "dataset": dataset,
            "uri": f"/data/patient{80000 + i}/view.png",
            "source_key": f"patient{80000 + i}/view.png",
            "stage": "decode" if i else "label",
            "reason": f"patient{80000 + i}/view.png ends after {i} bytes {EVIL}",
            "retryable": False,
            "spec_id": "",
        }
        for i in range(25)
    ]
    store.append("rejects", pa.Table.from_pylist(rows))


def write(made: Made, folder: Path, **options: Any) -> tuple[ReportInfo, str]:
    """Write a report and read it back."""
    settings: dict[str, Any] = {"title": "Local check", "dataset": made.dataset, "split": "fair"}
    settings |= {"out": folder / "report.html"}
    info = build_report(made.store, made.evaluation, **(settings | options))
    return info, info.path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return fill(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def page(made: Made, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(made, tmp_path_factory.mktemp("out"), experiment={"data": {"path": EVIL}, "heads": ["rf100"]})[1]


class Page(HTMLParser):
    """Every start tag with its attributes, and the text in it."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input", "line", "path", "use", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, tag: str) -> str:
        return " ".join("".join(data for name, data in self.texts if name == tag).split())


def csv_of(page: str, name: str) -> list[dict[str, str]]:
    """Return the rows of a table's download."""
    link = next(a for a in Page(page).named("a") if a.get("download") == f"{name}.csv")
    address = link["href"] or ""
    assert address.startswith("data:text/csv;charset=utf-8;base64,")
    text = base64.b64decode(address.split(",", 1)[1]).decode()
    return list(csv.DictReader(io.StringIO(text)))


def test_asks_for_nothing_from_outside(page: str) -> None:
    parsed = Page(page)
    addresses = [
        (tag, value or "")
        for tag, attributes in parsed.tags
        for key, value in attributes.items()
        if key in ("src", "href", "xlink:href", "srcset", "data", "action", "poster")
    ]
    assert addresses
    assert [a for a in addresses if not a[1].startswith(("#", "data:"))] == []
    assert not re.search(r"url\((?!#)|@import", page)
    assert not [tag for tag, _ in parsed.tags if tag in ("script", "link", "iframe", "object", "base")]
    assert "http://" not in page
    assert "https://" not in page


def test_says_what_a_browser_may_load(page: str) -> None:
    policy = next(m for m in Page(page).named("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_markup_in_a_label_is_text(page: str) -> None:
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert EVIL in Page(page).text("h3")


def test_is_well_formed_with_unique_ids(page: str) -> None:
    parsed = Page(page)
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert parsed.open == []
    assert len(ids) == len(set(ids))
    used = set(re.findall(r"url\(#([^)]+)\)", page)) | {
        (a.get("href") or "")[1:] for tag, a in parsed.tags if (a.get("href") or "").startswith("#")
    }
    assert used <= set(ids)


def test_every_table_has_a_caption_scoped_headings_and_a_download(page: str) -> None:
    parsed = Page(page)
    assert len(parsed.named("table")) == len(re.findall("<caption>", page))
    assert len(parsed.named("table")) == len([a for a in parsed.named("a") if "download" in a])
    assert {th.get("scope") for th in parsed.named("th")} == {"col", "row"}
    for body in re.findall(r"<table>.*?</table>", page, re.S):
        assert 'scope="col"' in body


def test_every_drawing_has_words(page: str) -> None:
    drawings = Page(page).named("svg")
    assert len(drawings) > 3
    assert [d for d in drawings if d.get("role") != "img" or not d.get("aria-label")] == []


def test_scrolling_tables_can_be_reached_by_keyboard(page: str) -> None:
    regions = [a for _, a in Page(page).tags if a.get("class") == "scroll"]
    assert regions
    assert all(a.get("tabindex") == "0" and a.get("aria-label") for a in regions)


def test_patient_ids_and_file_names_stay_out(page: str) -> None:
    decoded = page + "".join(
        base64.b64decode(data).decode() for data in re.findall(r"data:text/csv;charset=utf-8;base64,([\w+/=]+)", page)
    )
    assert "patient7" not in decoded
    assert "patient8" not in decoded
    assert "/data/" not in decoded


def test_a_result_is_not_called_a_check(page: str) -> None:
    assert Page(page).text("title") == "Local check"
    assert answer.NOT_A_RESULT not in page


def test_a_check_says_so_in_its_title_and_why(tmp_path: Path) -> None:
    one = {"vgg16": 8}
    made = fill(tmp_path / "store", patients=40, backbones=one, dataset="phantom_a", weights="random:0")
    parsed = Page(write(made, tmp_path)[1])
    assert parsed.text("title") == "Local check: pipeline check, not a result"
    assert "Local check" in parsed.text("h1")
    assert answer.NOT_A_RESULT in parsed.text("span")
    assert "Weights drawn at random (random:0)" in parsed.text("li")
    assert "The data set phantom_a is made of generated phantoms" in parsed.text("li")


@pytest.mark.parametrize(
    ("weights", "source", "made_with", "expected"),
    [
        ("random:4", "seeded", "", ["Weights drawn at random (random:4)"]),
        ("demo", "cxr pretrain", "data set phantom_a", ["Weights trained on phantoms (demo)"]),
        ("imagenet", "timm hub", "", []),
    ],
)
def test_why_a_report_is_a_check(weights: str, source: str, made_with: str, expected: list[str]) -> None:
    network = Network("vgg16", "s1", weights, "", source, made_with, "bilinear-v1", 96, 512, "eager")
    reasons = answer.reasons([network], [], "local", phantom=False)
    assert [reason.split(":  ")[0].rsplit(":", 1)[0] for reason in reasons] == expected


def test_the_caller_may_say_that_images_are_phantoms(made: Made, tmp_path: Path) -> None:
    assert answer.NOT_A_RESULT in Page(write(made, tmp_path, phantom=True)[1]).text("title")


def test_the_answer_is_the_best_ensemble(made: Made, page: str) -> None:
    macros = [r for r in made.evaluation.rows if r["label"] == "macro" and r["ensemble"] != "none"]
    best = max(row["auc"] for row in macros)
    by_label = [_recomputed(made, "simple"), _recomputed(made, "entropy")]
    # The third label has four positives: it stays out of the mean.
    assert best == pytest.approx(max(np.mean(list(aucs.values())[:2]) for aucs in by_label), abs=1e-12)
    assert f"reaches a macro AUC of {best:.3f} (" in page
    assert "the mean over 2 labels, on " in page


def _recomputed(made: Made, ensemble: str) -> dict[str, float]:
    scored = next(s for s in made.evaluation.scored if s.ensemble == ensemble)
    return {label: roc_auc_score(scored.y[:, i], scored.p[:, i]) for i, label in enumerate(scored.labels[:2])}


def test_the_auc_table_shows_every_row(made: Made, page: str) -> None:
    body = re.search(r'id="auc-embeddings-rf100".*?</figure>', page, re.S)
    assert body is not None
    shown = re.findall(r"<td[^>]*>(\d\.\d{3})", body[0])
    assert sorted(shown) == sorted(f"{row['auc']:.3f}" for row in made.evaluation.rows if row["auc"] is not None)
    assert "too few" in body[0]
    downloaded = csv_of(page, "auc-embeddings-rf100")
    assert [float(row["auc"]) for row in downloaded] == pytest.approx([row["auc"] for row in made.evaluation.rows])


def test_every_line_of_the_auc_table_names_its_weights(page: str) -> None:
    body = re.search(r'id="auc-embeddings-rf100".*?</figure>', page, re.S)
    assert body is not None
    assert body[0].count("<small>chexpert</small>") == len(BACKBONES) + 2


def test_curves_are_scikit_learns(made: Made) -> None:
    for line in roc.curves(made.evaluation.scored, "Edema"):
        scored = next(
            s for s in made.evaluation.scored if (s.backbone, s.ensemble) == (line.model.backbone, line.model.ensemble)
        )
        fpr, tpr, _ = roc_curve(scored.y[:, 1], scored.p[:, 1])
        np.testing.assert_array_equal(line.fpr, fpr)
        np.testing.assert_array_equal(line.tpr, tpr)
        assert np.trapezoid(line.tpr, line.fpr) == pytest.approx(roc_auc_score(scored.y[:, 1], scored.p[:, 1]))


def test_curves_leave_out_what_is_not_known_and_need_both_classes() -> None:
    y, p = np.array([0.0, 1.0, np.nan, 1.0, 0.0]), np.array([0.1, 0.9, 0.2, np.nan, 0.4])
    points = roc.roc_points(y, p)
    assert points is not None
    np.testing.assert_array_equal(points[0], roc_curve([0, 1, 0], [0.1, 0.9, 0.4])[0])
    assert roc.roc_points(np.ones(3), np.arange(3.0)) is None


def test_a_label_of_one_class_has_no_panel_and_a_dash(made: Made, tmp_path: Path) -> None:
    evaluation = made.evaluation
    scored = [replace(s, y=np.where(np.arange(3) == 1, 0.0, s.y)) for s in evaluation.scored]
    nothing = {"auc": None, "auc_lo": None, "auc_hi": None, "n_positive": 0, "n_positive_patients": 0}
    rows = [row | nothing | {"note": "one class only"} if row["label"] == "Edema" else row for row in evaluation.rows]
    text = write(replace(made, evaluation=replace(evaluation, rows=rows, scored=scored)), tmp_path)[1]
    assert "<h3>Edema</h3>" not in text
    assert '<span class="none" title="one class only">–</span>' in text


def test_folds_are_averaged_never_pooled(tmp_path: Path) -> None:
    made = fill(tmp_path / "store", kind="kfold", backbones={"vgg16": 8}, patients=60)
    own = [s for s in made.evaluation.scored if s.ensemble == "simple"]
    assert len(own) == 3
    line = next(c for c in roc.curves(made.evaluation.scored, "Edema") if c.model.ensemble == "simple")
    grid = np.linspace(0, 1, 201)
    each = [np.interp(grid, *roc_curve(s.y[:, 1], s.p[:, 1])[:2]) for s in own]
    np.testing.assert_allclose(line.tpr, np.mean(each, axis=0), atol=1e-12)
    text = write(made, tmp_path)[1]
    assert "folds are never pooled" in text
    body = re.search(r'id="auc-embeddings-rf100".*?</figure>', text, re.S)
    assert body is not None
    assert body[0].count('scope="row"') == 3  # one network, two ensembles; no line per fold


def test_long_curves_are_thinned_with_their_ends() -> None:
    fpr = np.linspace(0, 1, 5000)
    kept, _ = roc.thin(fpr, fpr)
    assert len(kept) == 400
    assert (kept[0], kept[-1]) == (0.0, 1.0)


def test_seconds_are_those_of_the_jobs_that_did_the_work(made: Made, page: str) -> None:
    rows = {(row["stage"], row["of"]): float(row["seconds"]) for row in csv_of(page, "seconds")}
    assert rows[("ingest", "")] == 1.5
    assert rows[("extract: decode", "")] == 6.0
    assert rows[("extract: infer", "DenseNet-121")] == 10.0
    assert rows[("extract: infer", "VGG-16")] == 20.0
    assert rows[("evaluate", "")] == 3.5
    fitted = made.store.query("SELECT sum(fit_seconds) AS s FROM models").to_pylist()[0]["s"]
    assert rows[("fit", "random forest of 100 trees on embeddings, 2 networks")] == pytest.approx(fitted)
    # Sums of other lines do not stand beside them.
    assert {stage for stage, of in rows if not of} == {
        "ingest",
        "extract: fingerprint the weights",
        "extract: decode",
        "extract: write",
        "evaluate",
    }


def test_stages_of_a_running_job_can_be_passed_in(made: Made, tmp_path: Path) -> None:
    text = write(made, tmp_path, seconds={"report": 7.25})[1]
    assert {"stage": "report", "of": "this job", "seconds": "7.25"} in csv_of(text, "seconds")


def test_images_per_second(page: str) -> None:
    rows = {row["what"]: row for row in csv_of(page, "efficiency")}
    assert float(rows["DenseNet-121"]["images_per_second"]) == 18.0
    assert float(rows["All networks, forward passes only"]["images_per_second"]) == 6.0
    assert float(rows["The whole job, on the clock"]["images_per_second"]) == 4.5
    assert "Forward passes took 75 % of the job" in page


def test_the_card_counts_what_the_store_holds(made: Made, page: str) -> None:
    labels = made.store.query("SELECT label, value, image_id FROM labels").to_pylist()
    parts = {r["image_id"]: r["part"] for r in made.store.query("SELECT image_id, part FROM splits").to_pylist()}
    patients = {r["image_id"]: r["patient_id"] for r in made.store.query("SELECT * FROM images").to_pylist()}
    row = next(r for r in csv_of(page, "labels") if r["label"] == "Edema")
    own = [r for r in labels if r["label"] == "Edema"]
    test = [r["image_id"] for r in own if r["value"] == 1 and parts[r["image_id"]] == "test"]
    assert int(row["positive"]) == sum(r["value"] == 1 for r in own)
    assert int(row["uncertain"]) == sum(r["value"] == -1 for r in own)
    assert int(row["negative"]) == sum(r["value"] == 0 for r in own)
    assert int(row["unmentioned"]) == 0
    assert int(row["test positive images"]) == len(test)
    assert int(row["test positive patients"]) == len({patients[image] for image in test})
    assert "not stated for 1" in page


def test_rejects_are_counted_and_the_first_twenty_given(page: str) -> None:
    assert {row["stage"]: row["rejects"] for row in csv_of(page, "rejects-by-stage")} == {"decode": "24", "label": "1"}
    shown = csv_of(page, "rejects")
    assert len(shown) == rejects.SHOWN
    assert shown[0]["reason"].startswith(f"{rejects.HIDDEN} ends after 1 bytes")
    assert "The first 20 of 25" in page


@pytest.mark.parametrize(
    ("reason", "names", "patients", "expected"),
    [
        ("00000013_001.png is truncated", ["/d/images/00000013_001.png"], ["13"], "‹hidden› is truncated"),
        ("two rows for patient 13 disagree", [], ["13"], "two rows for patient ‹hidden› disagree"),
        ("patient_id='A7' and B99 disagree", [], ["A7", "B99"], "patient_id=‹hidden› and ‹hidden› disagree"),
        ("13 bytes", [], ["13"], "13 bytes"),
        ("view is 'XX', expected PA or AP", ["train/view.png"], ["7"], "view is 'XX', expected PA or AP"),
    ],
)
def test_redaction(reason: str, names: list[str], patients: list[str], expected: str) -> None:
    assert rejects.redact(reason, names, frozenset(patients)) == expected


@given(
    patient=st.from_regex(r"[a-z]{2,8}[0-9]{4,8}", fullmatch=True), file=st.from_regex(r"[0-9_]{5,9}", fullmatch=True)
)
def test_no_file_or_patient_survives_redaction(patient: str, file: str) -> None:
    key = f"{patient}/study1/{file}.png"
    said = rejects.redact(f"{key}: {patient} has no {file}", [f"/data/{key}", key], frozenset({patient}))
    assert patient not in said
    assert file not in said


def test_pictures_come_from_the_caller_only(made: Made, page: str, tmp_path: Path) -> None:
    assert not Page(page).named("img")
    pixel = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    )
    item = {"image_id": "f" * 64, "label": EVIL, "png_bytes": pixel, "caption": 'a "b" <i>', "numbers": {"iou": 0.25}}
    hidden = {"image_id": "e" * 64, "label": "Edema", "caption": "", "numbers": {"iou": None}}
    text = write(made, tmp_path, explanations=[item, hidden])[1]
    (picture,) = Page(text).named("img")
    assert picture["src"] == "data:image/png;base64," + base64.b64encode(pixel).decode()
    assert picture["alt"] == f'Explanation of {EVIL} on image {"f" * 12}. a "b" <i>'
    assert [row["iou"] for row in csv_of(text, "explanations")] == ["0.25", ""]


def test_a_picture_must_be_a_png(made: Made, tmp_path: Path) -> None:
    item = {"image_id": "f" * 64, "label": "Edema", "png_bytes": b"GIF89a", "caption": "", "numbers": {}}
    with pytest.raises(UsageError, match="which is no PNG; pass PNG bytes"):
        write(made, tmp_path, explanations=[item])


def test_the_run_box_names_weights_specs_seeds_and_versions(made: Made, page: str) -> None:
    settings = {row["Setting"]: row["Value"] for row in csv_of(page, "experiment")}
    assert settings["seed of the split"] == "3"
    assert settings["seed of the heads"] == "5"
    assert settings["data.path"] == EVIL
    assert [row["sha256"] for row in csv_of(page, "networks")] == ["ab" * 32] * 2
    assert {row["Table"]: int(row["Version"]) for row in csv_of(page, "tables")} == made.store.versions()
    assert {row["Library"]: row["Version"] for row in csv_of(page, "libraries")} == {"torch": "2.14.1"}


def test_workers_are_counted(page: str) -> None:
    assert "2 × cuda, eager" in page


def test_jobs_whose_arguments_name_a_patient_are_not_listed(made: Made) -> None:
    assert [run.command for run in runs(made.store, "local")] == ["ingest", "extract", "extract", "evaluate"]


def test_the_specs_are_those_the_heads_were_fitted_on_or_the_callers(made: Made) -> None:
    assert [n.spec_id for n in networks(made.store, "local", "fair", None)] == ["s0local", "s1local"]
    assert [n.spec_id for n in networks(made.store, "local", "fair", {"vgg16": "s1local"})] == ["s1local"]


def test_the_file_replaces_an_older_one_and_is_measured(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er" / "r.html"
    out.parent.mkdir(parents=True)
    out.write_text("old " * 10**6)
    info, text = write(made, tmp_path, out=out)
    assert info.path == out
    assert info.bytes == out.stat().st_size == len(text.encode())
    assert 0 < info.seconds < 60


def test_without_models_the_report_still_stands(made: Made, tmp_path: Path) -> None:
    empty = replace(made.evaluation, rows=[], scored=[])
    text = write(replace(made, evaluation=empty), tmp_path)[1]
    assert "No macro AUC can be stated on local, part test" in text
    assert "No model was evaluated." in text


def test_no_best_ensemble_without_a_macro_auc(made: Made) -> None:
    rows = [row | {"auc": None} if row["label"] == "macro" else row for row in made.evaluation.rows]
    assert best_ensemble(arms(rows)) is None


def test_several_seeds_are_told_apart(made: Made) -> None:
    rows = [*made.evaluation.rows, *({**row, "seed": 6} for row in made.evaluation.rows)]
    assert [arm.title for arm in arms(rows)] == [
        "random forest of 100 trees on embeddings, seed 5",
        "random forest of 100 trees on embeddings, seed 6",
    ]


def test_a_repeated_job_does_not_shorten_the_cold_time(made: Made) -> None:
    found = runs(made.store, "local")
    quick = replace(found[0], run_id="i2", seconds={"ingest": 0.1, "total": 0.2})
    quick = replace(quick, wall=0.2)
    lines = timing.stages([*found, quick], [], [], {})
    assert [line.seconds for line in lines if line.name == "ingest"] == [1.5]


def test_csv_keeps_formulas_from_running() -> None:
    text = tables.to_csv([{"label": "=1+1", "auc": None}, {"label": "-x", "auc": float("nan"), "n": -3}])
    assert text.splitlines() == ["label,auc,n", "'=1+1,,", "'-x,,-3"]


@pytest.mark.parametrize(
    ("made_of", "expected"),
    [
        (format.auc(0.8564), "0.856"),
        (format.count(5257), "5,257"),
        (format.interval(0.801, 0.909), "0.80–0.91"),
        (format.interval(None, 0.9), ""),
        (format.seconds(0.42), "0.42 s"),
        (format.seconds(99.96), "100.0 s"),
        (format.seconds(185), "3 min 05 s"),
        (format.seconds(7800), "2 h 10 min"),
        (format.rate(1.556), "1.56"),
        (format.rate(365.2), "365"),
        (format.share(1, 4), "25 %"),
        (format.share(1, 1000), "<1 %"),
        (format.number(0.123456), "0.1235"),
        (format.number("a"), "a"),
    ],
)
def test_numbers_are_written_one_way(made_of: str, expected: str) -> None:
    assert made_of == expected


@pytest.mark.parametrize("value", [None, float("nan")])
def test_what_is_not_known_is_a_dash_that_says_why(value: float | None) -> None:
    expected = '<span class="none" title="&lt;why&gt;">–</span>'
    assert [f(value, "<why>") for f in (format.auc, format.count, format.seconds, format.rate, format.number)] == [
        expected
    ] * 5


def test_dates_are_utc(page: str) -> None:
    assert f"{datetime.now(UTC):%Y-%m-%d}" in Page(page).text("p")
