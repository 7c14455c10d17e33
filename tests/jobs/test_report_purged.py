"""Results that cite a purged version say so."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from featurestore.store import Store
from featurestore.store.purge import purged_versions
from jobs.compact import compact
from jobs.report.provenance import runs
from jobs.report.purged import gone, purged_heads
from jobs.report.run_box import run_table


@pytest.mark.parametrize(
    ("cited", "lost"),
    [({"labels": 2}, ["labels"]), ({"labels": 3}, []), ({"labels": None, "images": 0}, []), ({}, [])],
)
def test_what_is_gone_is_older_than_the_oldest_that_is_left(cited, lost):
    assert gone(cited, {"labels": 3, "images": 0}) == lost


def test_jobs_and_heads_that_cite_a_purged_version_are_marked(tmp_path):
    store = Store(tmp_path / "store")
    for image in "ab":
        store.append("labels", pa.table({"image_id": [image], "dataset": ["d"], "label": ["x"], "value": [1.0]}))
    cited = json.dumps({"labels": store.versions()["labels"], "metrics": None})
    store.append("runs", pa.table({"run_id": ["r1"], "command": ["train"], "dataset": ["d"], "status": ["done"],
                                   "tables": [cited]}))  # fmt: skip
    store.append("models", pa.table({"model_id": ["m1", "m2"], "dataset": ["d"] * 2, "split": ["s"] * 2,
                                     "tables": [cited, json.dumps({})]}))  # fmt: skip

    def status():
        return run_table(runs(store, "d"), purged_versions(store)).rows[0][3]

    assert status().text == "done"
    assert purged_heads(store, "d", "s", purged_versions(store)) == ""
    store.append("labels", pa.table({"image_id": ["c"], "dataset": ["d"], "label": ["x"], "value": [1.0]}))
    compact(store)  # its old files are dead: what cites them will have nothing to cite after the purge
    compact(store, purge=True)
    assert (status().text, status().title) == ("done; what it read was purged", "labels")
    assert purged_heads(store, "d", "s", purged_versions(store)).startswith("1 of 2 heads cite versions that a purge")
