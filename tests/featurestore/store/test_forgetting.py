"""A person leaves every table; the others stay as they are; nobody comes back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from featurestore.errors import StoppedError
from featurestore.store import Store, rewrite
from featurestore.store.finding import find_image, images_of_patient, rejected_keys, undecided_rejects
from featurestore.store.forgetting import Forgotten, count_rejects, forget
from featurestore.store.lease import writing
from featurestore.store.schema import TABLES
from featurestore.store.tombstones import Tombstones, bury

pytestmark = pytest.mark.slow  # each test makes and unmakes a store


def _hex(n: int) -> str:
    return f"{n:x}" * 64


ANNA, OTTO = _hex(1), _hex(2)
"""Two images of two people."""


def _rows(table: str, image_id: str) -> dict[str, Any]:
    """Return one row of any table that knows images, as good as any."""
    values: dict[str, Any] = {name: f"{table}-{name}-{image_id[:4]}" for name in TABLES[table].schema.names}
    types = {field.name: field.type for field in TABLES[table].schema}
    row = {name: value if pa.types.is_string(types[name]) else None for name, value in values.items()}
    known = {"image_id": image_id, "spec_id": "s1", "backbone": "x"}
    return {name: known.get(name, value) for name, value in row.items()}


WITH_IMAGES = [name for name, spec in TABLES.items() if "image_id" in spec.schema.names]


@pytest.fixture
def people(store, vector_rows) -> Store:
    """Return a store where each table that knows images has a row of Anna's and one of Otto's."""
    for table in WITH_IMAGES:
        if table != "embeddings":
            rows = [_rows(table, image_id) for image_id in (ANNA, OTTO)]
            if table == "images":
                rows = [row | {"dataset": "demo", "patient_id": p, "source_key": f"{p}/1.png", "uri": f"/in/{p}/1.png"}
                        for row, p in zip(rows, ("anna", "otto"), strict=True)]  # fmt: skip
            store.append(table, pa.Table.from_pylist(rows, TABLES[table].schema))
    store.append("embeddings", vector_rows([ANNA, OTTO], np.arange(6, dtype=np.float32).reshape(2, 3)))
    return store


def _anna(store: Store) -> Forgotten:
    return Forgotten("demo", tuple(images_of_patient(store, "demo", "anna")), "anna")


def _everything(store: Store) -> dict[str, list[dict[str, Any]]]:
    return {
        name: sorted(store.query(f"SELECT * FROM {name}").to_pylist(), key=str)
        for name in TABLES
        if name != "tombstones"
    }


def test_every_table_that_knows_images_is_known():
    assert set(WITH_IMAGES) == {
        "images", "labels", "rois", "rejects", "embeddings", "scores", "splits", "predictions", "saliency",
    }  # fmt: skip


def test_a_person_leaves_every_table_and_nobody_else_does(people):
    before = _everything(people)
    removed = forget(people, _anna(people))
    assert removed == dict.fromkeys(removed, 1)
    assert set(removed) == set(WITH_IMAGES)
    after = _everything(people)
    for name in TABLES:
        if name != "tombstones":
            assert after[name] == [row for row in before[name] if row.get("image_id") != ANNA]
    assert np.array_equal(people.query("SELECT embedding FROM embeddings")["embedding"][0].as_py(), [3, 4, 5])


def test_the_log_says_nothing_about_who_it_was(people, raw):
    forget(people, _anna(people))
    for table in WITH_IMAGES:
        log = json.dumps(raw(table).log())
        assert ANNA not in log
        assert "anna" not in log


def test_files_without_the_person_are_not_touched(people, vector_rows):
    people.append("embeddings", vector_rows([_hex(3)], np.ones((1, 3), np.float32)))
    untouched = [f.path for f in people.snapshot("embeddings").files if f.rows == 1]
    forget(people, _anna(people))
    assert set(untouched) < {f.path for f in people.snapshot("embeddings").files}


def _reject(**facts: str) -> dict[str, str]:
    return {"dataset": "demo", "stage": "decode", "reason": "broken"} | facts


def _append_rejects(store: Store, *groups: list[dict[str, str]]) -> None:
    store.append("rejects", pa.Table.from_pylist([row for group in groups for row in group], TABLES["rejects"].schema))


def test_rejects_go_by_image_place_key_and_patient(people):
    hers = [
        _reject(uri="/in/anna/1.png"),
        _reject(uri="/in/anna/1.png", dataset="elsewhere"),
        _reject(source_key="anna/1.png"),
        _reject(uri="/in/anna/2.png", source_key="anna/2.png", patient_id="anna"),
    ]
    others = [
        _reject(uri="/in/annabel/1.png", source_key="annabel/1.png", patient_id="annabel"),
        _reject(uri="/in/anna/9.png", dataset="elsewhere", patient_id="anna"),
        _reject(source_key="anna/1.png", dataset="elsewhere"),
        _reject(source_key="xanna/1.png"),
    ]
    _append_rejects(people, hers, others)
    assert count_rejects(people, _anna(people)) == len(hers) + 1
    assert forget(people, _anna(people))["rejects"] == len(hers) + 1
    left = people.query("SELECT * FROM rejects WHERE image_id IS NULL").to_pylist()
    assert sorted(str(r["source_key"]) for r in left) == sorted(str(r.get("source_key")) for r in others)


def test_no_text_decides_whose_a_reject_is(people):
    """Nobody else goes with them whose id starts alike, or in whose path the id stands."""
    _append_rejects(
        people,
        [
            _reject(source_key="otto.png", reason="patient_id 'patient0000000 became 'x'"),
            _reject(uri="/data/2020/otto.png", source_key="b.png", patient_id="otto"),
            _reject(uri="/in/12/x.png", source_key="12/x.png", reason="was '12', is '3'"),
        ],
    )
    for patient in ("patient0000000123", "2020", "12", "anna"):
        images = tuple(images_of_patient(people, "demo", patient))
        assert count_rejects(people, Forgotten("demo", images, patient)) == len(images)


def test_a_short_id_is_found_where_it_was_recorded(people):
    _append_rejects(
        people,
        [
            _reject(uri="/in/12/x.png", source_key="12/x.png", patient_id="12", reason="cannot be decoded"),
            _reject(uri="/in/cases.csv#7", source_key="12/x.png", reason="contradicts"),
            _reject(uri="/in/12/y.png", source_key="12/y.png", patient_id="3"),
            _reject(uri="/in/cases.csv#9", source_key="", patient_id="12", stage="path"),
            _reject(uri="/in/cases.csv#8", source_key="", patient_id="3", stage="path"),
        ],
    )
    keys = tuple(rejected_keys(people, "demo", "12"))
    assert keys == ("12/x.png",)
    twelve = Forgotten("demo", (), "12", keys)
    assert count_rejects(people, twelve) == 3
    assert forget(people, twelve) == {"rejects": 3}
    assert Tombstones.of(people, "demo").hold("source", "12/x.png")
    assert not Tombstones.of(people, "demo").hold("source", "")


def test_what_says_neither_image_nor_patient_is_counted(people):
    _append_rejects(
        people,
        [
            _reject(source_key="line 12", stage="row"),
            _reject(source_key="otto/1.png", stage="label"),  # his image is stored: it is decided
            _reject(source_key="x.png", patient_id="x"),
            _reject(stage="forgotten"),
            _reject(source_key="line 12", dataset="elsewhere"),
        ],
    )
    assert undecided_rejects(people, "demo") == 1


def test_forgetting_again_finds_nothing_and_harms_nothing(people):
    forgotten = _anna(people)
    forget(people, forgotten)
    versions = people.versions()
    assert forget(people, forgotten) == {}
    assert people.versions() == versions


def test_an_interrupted_forgetting_is_finished_by_the_same_request(people, monkeypatch):
    calls: list[str] = []
    real = rewrite._commit

    def dying(dt, spec, *rest):
        calls.append(spec.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(dt, spec, *rest)

    monkeypatch.setattr(rewrite, "_commit", dying)
    with pytest.raises(KeyboardInterrupt):
        forget(people, _anna(people))
    monkeypatch.setattr(rewrite, "_commit", real)
    assert _anna(people).images, "who has to be found again must still be there"
    assert len(forget(people, _anna(people))) == len(WITH_IMAGES) - 2
    assert all(row.get("image_id") != ANNA for rows in _everything(people).values() for row in rows)


def test_no_one_is_forgotten_while_a_job_runs(people, python):
    code = (
        "import sys, time; from featurestore.store import Store; from featurestore.store.lease import writing\n"
        "with writing(Store(sys.argv[1]).location, 'cxr extract'): print('on', flush=True); time.sleep(600)"
    )
    job = python(code, people.uri)
    try:
        assert job.stdout.readline() == "on\n"
        with pytest.raises(StoppedError, match=r"cxr forget needs the store.*cxr extract \(process"):
            forget(people, _anna(people))
        assert _anna(people).images
        assert not Tombstones.of(people, "demo").hashes
    finally:
        job.kill()
        job.communicate()


def test_caches_go_too(people):
    people.location.write_bytes("_cache/similar/x.duckdb", b"anna")
    forget(people, _anna(people))
    assert people.location.list_files("_cache") == {}


def test_tombstones_know_the_forgotten_and_no_names(people, folder_of):
    forget(people, _anna(people))
    stones = Tombstones.of(people, "demo")
    assert stones.hold("patient", "anna")
    assert stones.hold("image", ANNA)
    assert stones.hold("source", "anna/1.png")
    assert not stones.hold("patient", "otto")
    assert not stones.hold("image", "anna")
    assert not stones.hold("patient", None)
    assert not Tombstones.of(people, "elsewhere").hold("patient", "anna")
    rows = people.query("SELECT * FROM tombstones").to_pylist()
    assert "anna" not in str(rows)
    assert ANNA not in str(rows)
    assert len({row["salt"] for row in rows}) == 1


def test_salts_differ_between_data_sets_and_stones_stand_once(store):
    bury(store, "a", [("patient", "x")])
    bury(store, "a", [("patient", "x"), ("patient", "y")])
    bury(store, "b", [("patient", "x")])
    rows = store.query("SELECT * FROM tombstones").to_pylist()
    assert len(rows) == len({row["hash"] for row in rows}) == 3
    assert len({row["salt"] for row in rows}) == 2


def test_an_image_is_found_by_id_prefix_and_key(people):
    assert find_image(people, ANNA).source_key == "anna/1.png"
    assert find_image(people, ANNA[:6]).image_id == ANNA
    assert find_image(people, "otto/1.png", "demo").image_id == OTTO


def test_a_lease_of_ones_own_job_is_no_way_around(people):
    with writing(people.location, "cxr extract"), pytest.raises(StoppedError, match="cxr extract"):
        forget(people, _anna(people))
