"""One experiment from its file, twice; and the real radiographs, where they are at hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from featurestore.store import Store

pytestmark = pytest.mark.slow

SMALL_DEMO = (
    "--set", "extract.backbones=densenet121,vgg16",
    "--set", "extract.size=32",
    "--set", "data.patients=40",
    "--set", "train.heads=[rf100, lightgbm]",
    "--set", "explain.head=rf100",
    "--set", "explain.images=3",
    "--no-ray",
)  # fmt: skip
PLAIN = (
    "--set", "pretrain=null", "--set", "extract.weights=random:0", "--set", "finetune=null",
    "--set", "train.stacking=[]",
)  # fmt: skip
TRANSFER = (
    "--set", "data.patients=60", "--set", "pretrain.data.patients=60", "--set", "pretrain.size=32",
    "--set", "pretrain.epochs=1", "--set", "finetune.epochs=1", "--set", "train.heads=[rf100]",
    "--set", "split.val=0.2", "--set", "train.stacking=[a, b]",
)  # fmt: skip
CELLS = 2 * 2  # networks x heads


@dataclass(frozen=True)
class Twice:
    """The same experiment run twice on one store."""

    store: Store
    first: Any
    second: Any


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory, cxr: Callable[..., Any]) -> Twice:
    """Run a small demo twice."""
    root = tmp_path_factory.mktemp("run")
    runs = [
        cxr("run", "demo", *SMALL_DEMO, *PLAIN, "--store", root / "store", "--out", root / f"{name}.html", "--json")
        for name in ("first", "second")
    ]
    return Twice(Store(root / "store"), *runs)


def _counts(store: Store, command: str) -> list[dict[str, Any]]:
    rows = store.query("SELECT counts FROM runs WHERE command = ? ORDER BY started_at", [command])
    return [json.loads(text) for text in rows["counts"].to_pylist()]


def test_the_first_run_computes_everything_once(twice: Twice) -> None:
    assert twice.first.code == 0
    images = twice.store.query("SELECT count(*) AS n FROM images")["n"][0].as_py()
    assert twice.first.json["forward_passes"] == 2 * images
    counts = _counts(twice.store, "extract")[0]
    assert {"written": 2 * images, "rejected": 0, "images": images}.items() <= counts.items()
    assert list(counts["by_spec"].values()) == [images, images]
    assert _counts(twice.store, "train")[0] == {"models": CELLS, "cached": 0, "failed": 0}
    sizes = {name: twice.store.matrix(name)[1].shape for name in ("densenet121", "vgg16")}
    assert sizes == {"densenet121": (images, 1024), "vgg16": (images, 512)}


def test_it_says_what_it_does_step_by_step(twice: Twice) -> None:
    steps = [line.partition(":")[0] for line in twice.first.err.splitlines()]
    assert steps == ["ingest", "plan", "extract", "split holdout", "train", "explain", "report"]
    assert "0 rejected" in twice.first.err
    assert f"train: {CELLS} models fitted" in twice.first.err


def test_the_second_run_runs_no_network_and_fits_nothing_and_says_so(twice: Twice) -> None:
    assert twice.second.code == 0
    assert twice.second.json["forward_passes"] == 0
    assert "no forward pass was needed" in twice.second.err
    assert f"train: 0 models fitted, {CELLS} were stored, 0 failed" in twice.second.err
    assert not any(_counts(twice.store, "extract")[1].values())
    (first, _) = twice.store.query("SELECT run_id FROM runs WHERE command = 'extract' ORDER BY started_at")["run_id"]
    assert twice.store.query("SELECT DISTINCT run_id FROM embeddings")["run_id"].to_pylist() == [first.as_py()]
    assert _counts(twice.store, "train")[1] == {"models": 0, "cached": CELLS, "failed": 0}
    # Maps of the first run were scored again, not computed again.
    assert _counts(twice.store, "explain") == [{"maps": 3}]


def test_both_runs_print_the_same_table_bit_for_bit(twice: Twice) -> None:
    """The seconds too: a stage that was stored carries the time it took, never 0."""
    assert twice.second.json["rows"] == twice.first.json["rows"]
    assert all(row["extract_seconds"] > 0 and row["fit_seconds"] > 0 for row in twice.second.json["rows"])


def test_the_table_has_every_network_head_and_ensemble(twice: Twice) -> None:
    arms = {(row["head"], row["backbone"], row["ensemble"]) for row in twice.first.json["rows"]}
    members = {("densenet121", "none"), ("vgg16", "none"), ("all", "simple"), ("all", "entropy")}
    assert arms == {(head, *member) for head in ("rf100", "lightgbm") for member in members}
    assert any(row["auc"] is not None for row in twice.first.json["rows"])


def test_the_metrics_table_holds_what_was_printed(twice: Twice) -> None:
    stored = twice.store.query("SELECT * FROM metrics").to_pylist()
    keys = ("head", "backbone", "ensemble", "label")
    for run in {row["run_id"] for row in stored}:
        values = {tuple(row[key] for key in keys): row["value"] for row in stored if row["run_id"] == run}
        assert values == {tuple(row[key] for key in keys): row["auc"] for row in twice.first.json["rows"]}


def test_the_report_says_that_it_is_no_result(twice: Twice) -> None:
    for said in (twice.first, twice.second):
        page = Path(said.json["report"]).read_text("utf-8")
        title = page.partition("<title>")[2].partition("</title>")[0]
        assert "pipeline check, not a result" in title
        assert "random:0" in page


def test_the_demo_carries_its_own_networks_over_in_three_ways(tmp_path: Path, cxr: Callable[..., Any]) -> None:
    """Trained at hospital A; at hospital B as they are, as vectors under forests, stacked, and fine-tuned."""
    where = ("--store", tmp_path / "store", "--out", tmp_path / "r.html", "--json")
    first, second = (cxr("run", "demo", *SMALL_DEMO, *TRANSFER, *where) for _ in range(2))
    assert first.code == second.code == 0, first.err
    rows = first.json["rows"]
    assert second.json["rows"] == rows
    assert second.json["forward_passes"] == 0
    approaches = ("baseline", "embeddings", "finetune", "stacking-a", "stacking-b")
    assert sorted({row["approach"] for row in rows}) == list(approaches)
    assert {row["weights"] for row in rows} == {"phantom_a"}
    # Every approach is judged on the same images of the same patients.
    for label in {row["label"] for row in rows if row["auc"] is not None and row["label"] != "macro"}:
        found = [row for row in rows if row["label"] == label and row["auc"] is not None]
        assert len({(row["n"], row["n_positive"], row["n_positive_patients"]) for row in found}) == 1, label
    assert all(row["fit_seconds"] > 0 for row in rows if row["approach"] not in ("baseline",))
    page = (tmp_path / "r.html").read_text("utf-8")
    assert all(words in page for words in ("own scores", "fine-tuning (demo)", "phantom_a"))


def test_every_job_is_on_record(twice: Twice) -> None:
    rows = twice.store.query("SELECT command, count(*) AS n FROM runs WHERE status = 'done' GROUP BY ALL").to_pylist()
    twos = {"ingest": 2, "extract": 2, "train": 2, "evaluate": 2}
    assert {row["command"]: row["n"] for row in rows} == twos | {"explain": 1}


def test_real_radiographs(shared_data: Path, cxr: Callable[..., Any], tmp_path: Path) -> None:
    """All of the sample, one network at its smallest: the numbers mean nothing, the counts have to be right."""
    network = ("--set", "extract.backbones=densenet121", "--set", "extract.size=32")
    out = tmp_path / "report.html"
    where = ("--data", shared_data / "nih1000", "--store", tmp_path / "store", "--out", out)
    said = cxr("run", "nih1000", *where, *network, "--no-ray", "--json")
    assert said.code == 0
    assert said.err.startswith("ingest: 751 images, 11265 labels, 7 regions, 0 rejected\n")
    assert said.json["forward_passes"] == 751
    ids, X = Store(tmp_path / "store").matrix("densenet121")
    assert (len(set(ids)), X.shape) == (751, (751, 1024))
    rows = said.json["rows"]
    assert {row["ensemble"] for row in rows} == {"none", "simple", "entropy"}
    assert {row["head"] for row in rows} == {"rf100", "extra_trees", "lightgbm"}
    assert {row["fold"] for row in rows} == {None, 0, 1, 2, 3, 4}
    whole = [row for row in rows if row["fold"] is None and row["label"] == "No Finding"]
    assert {(row["n"], row["n_positive_patients"]) for row in whole} == {(751, 155)}
    assert all(0 < row["auc"] < 1 for row in whole)
    assert "pipeline check, not a result" in out.read_text("utf-8")
