"""After forgetting and a purge, nothing can be found; before, the very same search finds it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable

from featurestore.errors import HarmError, StoppedError
from featurestore.store import Store
from featurestore.store import purge as purging
from featurestore.store.files import conform, stage
from featurestore.store.finding import images_of_patient
from featurestore.store.forgetting import Forgotten, forget
from featurestore.store.lease import writing
from featurestore.store.orphans import lowest_version
from featurestore.store.purge import Purged, purge, purged_versions, tables_to_purge
from featurestore.store.rewrite import rewrite
from featurestore.store.schema import TABLES

pytestmark = pytest.mark.slow  # each test makes and unmakes a table

WORDS = ("pat-anna", "img-anna-1", "img-anna-2", "anna-film.png", "spot-anna")


@pytest.fixture
def people(store, vector_rows, label_rows) -> Store:
    """Return a store with three people's images, vectors, labels and rejects, written in several files and versions."""
    for who in ("anna", "bert", "cleo"):
        ids = [f"img-{who}-1", f"img-{who}-2"]
        images = {"image_id": ids, "dataset": ["demo"] * 2, "patient_id": [f"pat-{who}"] * 2,
                  "source_key": [f"{who}-film.png", f"{who}-side.png"], "uri": [f"/in/{i}" for i in ids]}  # fmt: skip
        store.append("labels", label_rows(ids))
        store.append("embeddings", vector_rows(ids, np.full((2, 4), hash(who) % 97, np.float32)))
        store.append("images", pa.table(images))
    rejects = {"dataset": ["demo"], "source_key": ["anna-film.png"], "stage": ["label"], "reason": ["spot-anna"]}
    store.append("rejects", pa.table(rejects))
    store.append("runs", pa.table({"run_id": ["r"], "arguments": ["{}"]}))
    return store


def _forget_anna(store: Store) -> None:
    forget(store, Forgotten("demo", tuple(images_of_patient(store, "demo", "pat-anna")), "pat-anna"))


def _vectors(store: Store) -> dict[str, list[float]]:
    rows = store.query("SELECT image_id, embedding FROM embeddings").to_pylist()
    return {row["image_id"]: row["embedding"] for row in rows}


def test_nothing_is_left_of_a_person_and_all_of_the_others(people, folder_of, find_words):
    vectors = _vectors(people)
    DeltaTable(people.location.delta("images"), storage_options=people.location.storage_options()).create_checkpoint()
    assert all(find_words(folder_of(people), WORDS).values()), "the search must be able to find"

    _forget_anna(people)
    between = find_words(folder_of(people), WORDS)
    assert all(between.values()), "old versions still hold it: if not, the search is blind"

    done = purge(people)
    assert find_words(folder_of(people), WORDS) == {word: [] for word in WORDS}
    assert done.versions > 0
    assert done.files > 0
    assert _vectors(people) == {k: v for k, v in vectors.items() if "anna" not in k}
    others = find_words(folder_of(people), ("pat-bert", "img-cleo-2"))
    assert all(others.values())


def test_the_newest_version_keeps_its_number_and_older_ones_are_known_as_gone(people):
    cited = people.versions()
    _forget_anna(people)
    newest = people.versions()
    purge(people)
    lowest = purged_versions(people)
    for table in ("images", "labels", "embeddings"):
        assert cited[table] < lowest[table] == newest[table]
        options = people.location.storage_options()
        assert DeltaTable(people.location.delta(table), version=newest[table], storage_options=options).version()
    # Nothing was removed from these: what cites them holds.
    assert lowest["runs"] == 0
    assert lowest["tombstones"] == 0
    assert people.versions()["runs"] == cited["runs"]


def test_the_retention_is_put_back(people):
    _forget_anna(people)
    purge(people)
    options = people.location.storage_options()
    configuration = DeltaTable(people.location.delta("images"), storage_options=options).metadata().configuration
    assert configuration["delta.logRetentionDuration"] == "interval 30 days"
    assert configuration["delta.dataSkippingNumIndexedCols"] == "0"


def test_a_retention_of_ones_own_is_put_back_also_when_the_cleaning_fails(tmp_path, label_rows, monkeypatch):
    store = Store(tmp_path / "s")
    store.append("labels", label_rows(["a"]))
    table = DeltaTable(f"{store.uri}/labels")
    table.alter.set_table_properties({"delta.logRetentionDuration": "interval 7 days"})
    rewrite(store.location, TABLES["labels"], lambda rows: rows.slice(0, 0))

    class Failing(DeltaTable):
        def cleanup_metadata(self):
            raise OSError("the disk")

    monkeypatch.setattr(purging, "open_table", lambda location, spec: Failing(f"{location.root}/{spec.name}")
                        if spec.name == "labels" else None)  # fmt: skip
    with pytest.raises(OSError, match="the disk"):
        purge(store)
    assert DeltaTable(f"{store.uri}/labels").metadata().configuration["delta.logRetentionDuration"] == "interval 7 days"
    monkeypatch.undo()
    assert purge(store).files == 1


def test_a_purge_that_was_killed_half_way_is_mended_by_the_next(tmp_path, label_rows):
    store = Store(tmp_path / "s")
    store.append("labels", label_rows(["a"]))
    DeltaTable(f"{store.uri}/labels").alter.set_table_properties({"delta.logRetentionDuration": "interval 0 seconds"})
    purge(store)
    configuration = DeltaTable(f"{store.uri}/labels").metadata().configuration
    assert configuration["delta.logRetentionDuration"] == "interval 30 days"


def test_litter_goes_also_where_its_name_is_hidden(people, folder_of, find_words):
    for path in ("labels/part-x.parquet", "labels/.half.tmp", "labels/.new-1/part.parquet", "labels/_x",
                 "labels/_delta_log/_commit_1.json.tmp"):  # fmt: skip
        people.location.write_bytes(path, b"litter-of-a-dead-job")
    live = {f.path for f in people.snapshot("labels").files}
    assert len(find_words(folder_of(people), ["litter-of-a-dead-job"])["litter-of-a-dead-job"]) == 5
    assert purge(people).files == 4
    assert find_words(folder_of(people), ["litter-of-a-dead-job"]) == {"litter-of-a-dead-job": []}
    assert {f.path for f in people.snapshot("labels").files} == live


def test_a_second_purge_has_nothing_to_do(people):
    _forget_anna(people)
    purge(people)
    versions = people.versions()
    assert purge(people) == Purged(0, 0)
    assert people.versions() == versions


def test_a_table_that_was_purged_goes_on(people, label_rows):
    _forget_anna(people)
    purge(people)
    assert people.append("labels", label_rows(["img-bert-1", "new"])) == 1
    assert people.query("SELECT count(*) AS n FROM labels").to_pylist() == [{"n": 5}]
    rewrite(people.location, TABLES["labels"], lambda rows: rows.filter(pc.not_equal(rows["image_id"], "new")))
    assert purge(people).versions > 0


def test_a_purge_is_refused_while_anybody_writes(people):
    _forget_anna(people)
    with (
        writing(people.location, "cxr train"),
        pytest.raises(StoppedError, match=r"--purge needs the store.*cxr train"),
    ):
        purge(people)
    assert lowest_version(people.location, "images") == 0


def test_what_should_be_gone_and_is_not_is_said(people, monkeypatch):
    _forget_anna(people)
    monkeypatch.setattr(DeltaTable, "cleanup_metadata", lambda self: None)
    with pytest.raises(HarmError, match=r"versions from 0 on and 0 files that should be gone.*clock"):
        purge(people)


def test_nothing_was_ever_purged_in_a_new_store(store, label_rows):
    assert purged_versions(store) == {}
    store.append("labels", label_rows(["a"]))
    assert purged_versions(store) == {"labels": 0}


def test_a_table_that_is_not_whole_keeps_its_history(people):
    _forget_anna(people)
    file = people.snapshot("embeddings").files[0]
    people.location.remove(f"embeddings/{file.path}")
    with pytest.raises(
        HarmError, match=rf"'embeddings' was not purged: 1 of its . files .* them {file.path}; put them"
    ):
        purge(people)
    assert lowest_version(people.location, "embeddings") == 0


@pytest.mark.parametrize("moment", ["_clean_log", "_reopened"])
def test_a_purge_that_was_taken_for_dead_removes_nothing_more(people, label_rows, monkeypatch, moment):
    """Suspended for so long that others removed its lease and went on: their files look dead to it."""
    _forget_anna(people)
    real, staged = getattr(purging, moment), []

    def suspended(*arguments):
        done = real(*arguments)
        if not staged:
            for name in people.location.list_files("_leases"):
                people.location.remove(f"_leases/{name}")
            if moment == "_reopened":  # vacuum is under way already
                monkeypatch.setattr(DeltaTable, "vacuum", lambda *_, **__: None)
            spec = TABLES["labels"]
            staged.extend(stage(people.location, spec, conform(label_rows(["new"]), spec)))
        return done

    monkeypatch.setattr(purging, moment, suspended)
    with pytest.raises(StoppedError, match="gave no sign of life"):
        purge(people)
    assert people.location.size(f"labels/{staged[0].path}") == staged[0].size


def test_what_is_dead_decides_what_a_purge_looks_at(people):
    assert tables_to_purge(people.location) == []
    _forget_anna(people)
    assert sorted(tables_to_purge(people.location)) == ["embeddings", "images", "labels", "rejects"]
    purge(people)
    assert tables_to_purge(people.location) == []
