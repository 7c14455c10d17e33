"""What a plan says it will take, recomputed by hand."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from featurestore.extraction.plan import PlannedSpec, make_plan
from featurestore.store import Store
from jobs.estimate import describe_plan, estimate_hours

SPECS = [PlannedSpec("vgg16", "s1", 512), PlannedSpec("xception", "s2", 2048)]


@pytest.fixture
def store(tmp_path) -> Store:
    """Return a store of ten images."""
    store = Store(tmp_path / "store")
    ids = [f"i{k}" for k in range(10)]
    store.append("images", pa.table({"image_id": ids, "dataset": ["d"] * 10, "uri": ids, "file_hash": ids}))
    return store


def extracted(store: Store, spec: PlannedSpec, numbers: range, run_id: str) -> None:
    ids = [f"i{k}" for k in numbers]
    n = len(ids)
    columns = {"backbone": [spec.backbone] * n, "spec_id": [spec.spec_id] * n, "run_id": [run_id] * n}
    store.append("embeddings", pa.table({"image_id": ids, **columns}))


SPEC_IDS = {spec.backbone: spec.spec_id for spec in SPECS}


def ran(
    store: Store, run_id: str, images: int, by_backbone: dict[str, float], status: str = "done", **seconds: float
) -> None:
    by_spec = {SPEC_IDS[name]: spent for name, spent in by_backbone.items()}
    counts = {"by_spec": dict.fromkeys(by_spec, images)}
    spent = {"start": 0.0, "by_spec": by_spec} | seconds
    row = {"run_id": run_id, "command": "extract", "status": status}
    row |= {"counts": json.dumps(counts), "seconds": json.dumps(spent)}
    store.append("runs", pa.Table.from_pylist([row]))


def plan(store: Store, specs: list[PlannedSpec] = SPECS):
    return make_plan(store, "d", specs, shard_images=4)


def described(store: Store, plan):
    return describe_plan(plan, estimate_hours(store, plan))


def test_a_plan_counts_pairs_images_and_bytes(store):
    extracted(store, SPECS[0], range(4), "r1")
    document, sentence = described(store, plan(store))
    assert document == {
        "pending_pairs": 16,
        "pending_by_backbone": {"vgg16": 6, "xception": 10},
        "images_to_decode": 10,
        "bytes": 4 * (6 * 512 + 10 * 2048),
        "hours": None,
    }
    assert sentence == (
        "d: 16 of 20 pairs pending, 10 images to decode, 0.1 MB of vectors, "
        "hours unknown until a first run on this store"
    )


def test_hours_come_from_this_stores_own_runs(store):
    """Four images took 8 s of 10 s inference, in a run of 15 s: 8 x 15 / 10 / 4 = 3 s an image."""
    extracted(store, SPECS[0], range(4), "r1")
    extracted(store, SPECS[1], range(4), "r1")
    ran(store, "r1", 4, {"vgg16": 8.0, "xception": 2.0}, run=15.0, infer=10.0)
    expected = (6 * 8 * 15 / 10 / 4 + 6 * 2 * 15 / 10 / 4) / 3600
    document, sentence = described(store, plan(store))
    assert document["hours"] == pytest.approx(expected)
    assert sentence.endswith("about 22 s")


def test_starting_workers_counts_once_and_not_per_image(store):
    extracted(store, SPECS[0], range(4), "r1")
    ran(store, "r1", 4, {"vgg16": 4.0}, run=100.0, start=92.0, infer=4.0)
    assert estimate_hours(store, plan(store, SPECS[:1])) == pytest.approx(6 * (8 / 4) / 3600)


def test_several_runs_are_averaged_by_their_images(store):
    extracted(store, SPECS[0], range(4), "r1")
    extracted(store, SPECS[0], range(4, 6), "r2")
    ran(store, "r1", 4, {"vgg16": 4.0}, run=4.0, infer=4.0)
    ran(store, "r2", 2, {"vgg16": 8.0}, run=8.0, infer=8.0)
    assert estimate_hours(store, plan(store, SPECS[:1])) == pytest.approx(4 * (4 + 8) / 6 / 3600)


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_run_that_did_not_end_well_tells_nothing(store, status):
    extracted(store, SPECS[0], range(4), "r1")
    ran(store, "r1", 4, {"vgg16": 4.0}, status, run=4.0, infer=4.0)
    assert estimate_hours(store, plan(store, SPECS[:1])) is None


def test_one_unknown_backbone_makes_the_hours_unknown(store):
    extracted(store, SPECS[0], range(4), "r1")
    ran(store, "r1", 4, {"vgg16": 4.0}, run=4.0, infer=4.0)
    assert estimate_hours(store, plan(store)) is None


def test_a_backbone_that_is_done_does_not(store):
    extracted(store, SPECS[0], range(4), "r1")
    extracted(store, SPECS[1], range(10), "r0")
    ran(store, "r1", 4, {"vgg16": 4.0}, run=4.0, infer=4.0)
    assert estimate_hours(store, plan(store)) == pytest.approx(6 / 3600)


def test_nothing_pending_takes_no_time(store):
    extracted(store, SPECS[0], range(10), "r1")
    document, sentence = described(store, plan(store, SPECS[:1]))
    assert (document["pending_pairs"], document["hours"], document["bytes"]) == (0, 0.0, 0)
    assert sentence == "d: 0 of 10 pairs pending, 0 images to decode, 0.0 MB of vectors, about 0 s"


@pytest.mark.parametrize(("seconds", "words"), [(5, "about 30 s"), (50, "about 5 min"), (3000, "about 5.0 h")])
def test_a_duration_is_in_words(store, seconds, words):
    extracted(store, SPECS[0], range(4), "r1")
    total = 4.0 * seconds
    ran(store, "r1", 4, {"vgg16": total}, run=total, infer=total)
    assert described(store, plan(store, SPECS[:1]))[1].endswith(words)
