"""`make bench-heads`: heads on 941 images x 7 backbones x 7 labels, the size of the paper's local data.

The authors' workload is seven multi-output forests of 1,000 trees and depth 5 (they report 75 s on their machine):
plain scikit-learn on the same matrices beside `cxr train`. Then one new head from nothing to its AUC table, and a
forest of another library as a preset that may be faster. Prints tables, writes build/bench/heads.json.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from classifiers.heads import HEADS, fit_head
from classifiers.splits import load_split, make_split
from featurestore.backbones.catalogue import CATALOGUE
from featurestore.store import Store
from jobs.evaluate import evaluate
from jobs.train import TrainRequest, train
from tests.benchmarks.interleaved import interleave
from tests.benchmarks.table import print_table, write_json

IMAGES, LABELS, THREADS = 941, 7, 2
DATASET, SPLIT, HEAD, NEW_HEAD = "bench", "holdout", "rf", "rf100"
FAST = "lightgbm_forest"
SEEDS = range(5)


def main() -> int:
    """Measure, print, write."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="cxr-bench-") as scratch:
        store = make_store(Path(scratch) / "store")
        figures = authors_workload(store, options.repeats) | new_head(store, options.repeats)
        figures |= faster_forests(store)
    write_json("heads", figures)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def make_store(root: Path) -> Store:
    """Fill a store with vectors that carry some of the labels, as pooled features do: positive, many of no use."""
    rng = np.random.default_rng(0)
    store = Store(root)
    ids, names = [f"i{k:04d}" for k in range(IMAGES)], [f"label{k}" for k in range(LABELS)]
    Y = (rng.random((IMAGES, LABELS)) < np.linspace(0.08, 0.5, LABELS)).astype(np.int8)
    same = [DATASET] * IMAGES
    store.append(
        "images", pa.table({"image_id": ids, "dataset": same, "patient_id": [f"p{k // 2}" for k in range(IMAGES)]})
    )
    for label, y in zip(names, Y.T, strict=True):
        rows = {"image_id": ids, "dataset": same, "label": [label] * IMAGES, "value": pa.array(y)}
        store.append("labels", pa.table(rows))
    for name, spec in CATALOGUE.items():
        d = spec.n_features
        shift = np.zeros((LABELS, d))
        shift[:, : d // 8] = rng.normal(0, 0.25, (LABELS, d // 8))
        X = np.abs(rng.normal(size=(IMAGES, d)) + Y @ shift).astype(np.float32)
        row = {
            "spec_id": [f"s{name}"],
            "backbone": [name],
            "weights": ["bench"],
            "n_features": pa.array([d], pa.int32()),
        }
        store.append("specs", pa.table(row))
        columns = {
            "backbone": [name] * IMAGES,
            "spec_id": [f"s{name}"] * IMAGES,
            "image_id": ids,
            "run_id": ["r"] * IMAGES,
        }
        store.append("embeddings", pa.table({**columns, "embedding": pa.array(list(X), pa.list_(pa.float32()))}))
    make_split(store, DATASET, SPLIT, test=0.3, seed=0)
    return store


def _request(heads: list[str], seed: int = 0) -> TrainRequest:
    specs = {name: (f"s{name}", "bench") for name in CATALOGUE}
    return TrainRequest(DATASET, SPLIT, heads, specs, seeds=(seed,))


def _forget_models(store: Store) -> None:
    for table in ("models", "predictions", "metrics", "runs"):
        shutil.rmtree(Path(store.uri) / table, ignore_errors=True)


def authors_workload(store: Store, repeats: int) -> dict[str, float]:
    """Time seven forests of 1,000 trees: scikit-learn on matrices that are read outside, and `cxr train`."""
    division = load_split(store, DATASET, SPLIT)
    is_train = np.array([part == "train" for part in division.parts])
    Y = _truth(store, division.ids)
    matrices = [store.matrix(f"s{name}", division.ids)[1] for name in CATALOGUE]

    def plain() -> None:
        for X in matrices:
            forest = RandomForestClassifier(**HEADS[HEAD].params, random_state=0, n_jobs=THREADS)
            forest.fit(X[is_train], Y[is_train])
            forest.predict_proba(X[~is_train])

    def ours() -> None:
        _forget_models(store)
        train(store, _request([HEAD]))

    timed = interleave({"scikit-learn": plain, "cxr train": ours}, repeats)
    print_table("Seven forests of 1,000 trees, fitted and asked", timed.rows("scikit-learn"))
    return {
        "authors_workload_s": timed.median("cxr train"),
        "forest_over_sklearn": timed.ratio("scikit-learn", "cxr train"),
    }


def new_head(store: Store, repeats: int) -> dict[str, float]:
    """Time one new head of 100 trees over seven backbones, to its AUC table."""

    def once() -> None:
        _forget_models(store)
        train(store, _request([NEW_HEAD]))
        evaluate(store, DATASET, SPLIT, "test")

    timed = interleave({"train and evaluate": once}, repeats)
    print_table("One new head of 100 trees over seven backbones", timed.rows("train and evaluate"))
    return {"new_head_s": timed.median("train and evaluate")}


def faster_forests(store: Store) -> dict[str, Any]:
    """Compare a forest of another library with scikit-learn's: macro AUC over seeds, and time."""
    division = load_split(store, DATASET, SPLIT)
    is_train = np.array([part == "train" for part in division.parts])
    Y = _truth(store, division.ids).astype(float)
    names = [f"label{k}" for k in range(LABELS)]
    found: dict[str, dict[str, list[float]]] = {name: {"auc": [], "seconds": []} for name in (NEW_HEAD, FAST)}
    for seed in SEEDS:
        for name, numbers in found.items():
            areas, spent = [], 0.0
            for backbone in CATALOGUE:
                _, X = store.matrix(f"s{backbone}", division.ids)
                start = time.perf_counter()
                head = fit_head(HEADS[name], X[is_train], Y[is_train], names, seed=seed, n_jobs=THREADS)
                p = head.predict(X[~is_train])
                spent += time.perf_counter() - start
                areas += [roc_auc_score(Y[~is_train, k], p[:, k]) for k in range(LABELS)]
            numbers["auc"].append(float(np.mean(areas)))
            numbers["seconds"].append(spent)
    rows = [
        {
            "head": name,
            "macro AUC": np.mean(n["auc"]),
            "over seeds": np.ptp(n["auc"]),
            "median s": np.median(n["seconds"]),
        }
        for name, n in found.items()
    ]
    print_table(f"Forests of 100 trees, {len(SEEDS)} seeds, mean over backbones and labels", rows)
    return {
        "fast_forest_auc_gap": rows[1]["macro AUC"] - rows[0]["macro AUC"],
        "fast_forest_over_sklearn": rows[0]["median s"] / rows[1]["median s"],
    }


def _truth(store: Store, ids: list[str]) -> np.ndarray:
    rows = store.query("SELECT image_id, label, value FROM labels").to_pylist()
    value = {(row["image_id"], row["label"]): row["value"] for row in rows}
    return np.array([[value[image, f"label{k}"] for k in range(LABELS)] for image in ids])


if __name__ == "__main__":
    sys.exit(main())
