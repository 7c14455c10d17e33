"""Every row once, whoever else writes, and whenever a writer dies."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

import featurestore.store.commit as commit_module
from featurestore.errors import HarmError
from featurestore.store import Store
from featurestore.store.commit import Committer
from featurestore.store.files import StagedFile
from featurestore.store.schema import TABLES

EMBEDDINGS = TABLES["embeddings"]


class Interrupted(Committer):
    """A committer between whose look and commit something happens."""

    meanwhile: Callable[[], object] = staticmethod(lambda: None)
    attempts = 0

    def _commit_through(self, dt: DeltaTable, files: list[StagedFile]) -> None:
        self.attempts += 1
        self.meanwhile()
        super()._commit_through(dt, files)


def _ids(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(row["image_id"] for row in rows)


def _numbers(*ranges: range) -> list[str]:
    return sorted({f"i{k:03d}" for numbers in ranges for k in numbers})


def test_a_staged_file_is_invisible(store, raw, staged):
    store.append("specs", _spec())
    (file,) = staged(range(3))
    assert (raw("embeddings").folder / file.path).is_file()
    assert store.snapshot("embeddings").files == ()
    assert store.query("SELECT * FROM embeddings").num_rows == 0


def _spec():
    import pyarrow as pa

    return pa.table({"spec_id": ["s1"], "backbone": ["vgg16"], "n_features": pa.array([3], pa.int32())})


def test_somebody_elses_rows_between_look_and_commit_are_left_out(store, raw, staged):
    committer = Interrupted(store.location, EMBEDDINGS)
    other = Committer(store.location, EMBEDDINGS)
    theirs = iter([staged(range(10))])
    committer.meanwhile = lambda: [other.commit(files) for files in theirs]
    assert committer.commit(staged(range(5, 15))) == 5
    assert committer.attempts == 2
    assert _ids(raw("embeddings").rows()) == _numbers(range(15))
    # The rows that were there first are the ones that stay.
    assert {r["image_id"]: r["embedding"][0] for r in raw("embeddings").rows()}["i007"] == 0


def test_a_commit_of_another_partition_is_no_conflict(store, raw, staged):
    committer = Interrupted(store.location, EMBEDDINGS)
    other = Committer(store.location, EMBEDDINGS)
    theirs = iter([staged(range(10), "s2")])
    committer.meanwhile = lambda: [other.commit(files) for files in theirs]
    assert committer.commit(staged(range(5, 15), "s1")) == 10
    assert committer.attempts == 1
    assert len(raw("embeddings").rows()) == 20


def test_a_committer_finds_what_was_committed_since_its_plan(store, raw, staged):
    Committer(store.location, EMBEDDINGS).commit(staged(range(5)))
    planned = [file.path for file in store.snapshot("embeddings").files]
    Committer(store.location, EMBEDDINGS).commit(staged(range(5, 10)))
    committer = Committer(store.location, EMBEDDINGS, planned)
    assert committer.commit(staged(range(5, 12))) == 2
    assert _ids(raw("embeddings").rows()) == _numbers(range(12))


def test_a_loop_of_conflicts_ends_with_a_reason_and_drops_nothing(store, raw, staged, monkeypatch):
    monkeypatch.setattr(commit_module, "MAX_ATTEMPTS", 3)
    committer = Interrupted(store.location, EMBEDDINGS)
    other = Committer(store.location, EMBEDDINGS)
    theirs = iter(range(100, 200))
    committer.meanwhile = lambda: other.commit(staged(range(k := next(theirs), k + 1)))
    files = staged(range(10))
    with pytest.raises(HarmError, match=r"table 'embeddings': 3 commits in a row lost .* run the same command again"):
        committer.commit(files)
    assert committer.attempts == 3
    assert _ids(raw("embeddings").rows()) == _numbers(range(100, 103))
    assert Committer(store.location, EMBEDDINGS).commit(files) == 10
    assert _ids(raw("embeddings").rows()) == _numbers(range(10), range(100, 103))


def test_a_commit_that_is_reported_as_failed_but_succeeded_is_counted_and_kept(store, raw, staged):
    class AnswersLate(Committer):
        failures = iter([True, False])

        def _commit_through(self, dt: DeltaTable, files: list[StagedFile]) -> None:
            super()._commit_through(dt, files)
            if next(self.failures):
                message = "timeout"
                raise CommitFailedError(message)

    assert AnswersLate(store.location, EMBEDDINGS).commit(staged(range(10))) == 10
    assert all(file.is_file() for file in raw("embeddings").files())
    assert _ids(raw("embeddings").rows()) == _numbers(range(10))


@pytest.mark.parametrize("same", [True, False])
def test_committing_one_file_twice_changes_nothing(store, raw, staged, same):
    files = staged(range(10))
    committer = Committer(store.location, EMBEDDINGS)
    assert committer.commit(files) == 10
    before = raw("embeddings").log()
    assert (committer if same else Committer(store.location, EMBEDDINGS)).commit(files) == 0
    assert raw("embeddings").log() == before
    assert _ids(raw("embeddings").rows()) == _numbers(range(10))


def test_an_append_of_files_over_several_partitions_filters_each_by_its_own(store, raw, staged):
    Committer(store.location, EMBEDDINGS).commit(staged(range(5), "s1"))
    both = staged(range(10), "s1") + staged(range(10), "s2")
    assert Committer(store.location, EMBEDDINGS).commit(both) == 15
    keys = [(row["spec_id"], row["image_id"]) for row in raw("embeddings").rows()]
    assert len(keys) == len(set(keys)) == 20


def test_threads_that_commit_overlapping_files_at_once_write_each_key_once(store, raw, staged):
    shards = [staged(range(5 * k, 5 * k + 10)) for k in range(6)]
    start = Barrier(len(shards))

    def commit(files: list[StagedFile]) -> int:
        start.wait()
        return Committer(store.location, EMBEDDINGS).commit(files)

    with ThreadPoolExecutor(len(shards)) as pool:
        written = list(pool.map(commit, shards))
    assert sum(written) == 35
    assert _ids(raw("embeddings").rows()) == _numbers(range(35))


APPEND = """
import sys
import pyarrow as pa
from featurestore.store import Store
store, p = Store(sys.argv[1]), int(sys.argv[2])
total = 0
for k in range(5):
    ids = [f"i{n:03d}" for n in range(10 * k + 3 * p, 10 * k + 3 * p + 15)]
    n = len(ids)
    total += store.append("scores", pa.table({"backbone": ["vgg16"] * n, "spec_id": ["s1"] * n, "image_id": ids,
        "label": ["Edema"] * n, "probability": pa.array([p + 0.5] * n, pa.float32())}))
print(total)
"""


@pytest.mark.chaos
def test_processes_that_append_overlapping_rows_at_once_write_each_key_once(store, raw, python):
    """Four writers, five appends each, on a store that none of them has made yet."""
    writers = [python(APPEND, store.uri, str(p)) for p in range(4)]
    outputs = [writer.communicate(timeout=120) for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4, outputs
    expected = _numbers(*(range(10 * k + 3 * p, 10 * k + 3 * p + 15) for p in range(4) for k in range(5)))
    assert _ids(raw("scores").rows()) == expected
    assert sum(int(out) for out, _ in outputs) == len(expected)
    assert store.query("SELECT count(*) AS n FROM scores").to_pylist() == [{"n": len(expected)}]


KILLED = """
import os, signal, sys
import pyarrow as pa
from featurestore.store import Store, commit, files
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
through = commit.Committer._commit_through
def before(self, dt, files): die()
def after(self, dt, files): through(self, dt, files); die()
if sys.argv[2] == "staged":
    commit.Committer.commit = lambda self, files: die()
elif sys.argv[2] != "nowhere":
    commit.Committer._commit_through = {"looked": before, "committed": after}[sys.argv[2]]
ids = [f"i{n:03d}" for n in range(20)]
rows = pa.table({"image_id": ids, "dataset": ["d"] * 20, "label": ["x"] * 20, "value": pa.array([1] * 20, pa.int8())})
print(Store(sys.argv[1]).append("labels", rows))
"""


@pytest.mark.chaos
@pytest.mark.parametrize(("step", "visible"), [("staged", 0), ("looked", 0), ("committed", 20)])
def test_a_writer_killed_at_any_step_leaves_all_or_nothing_and_its_repetition_completes(
    store, raw, python, label_rows, step, visible
):
    store.append("labels", label_rows(["other"], label="x"))
    killed = python(KILLED, store.uri, step)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert len(raw("labels").rows()) == 1 + visible
    assert store.query("SELECT count(*) AS n FROM labels").to_pylist() == [{"n": 1 + visible}]
    # What was staged lies there as an orphan, and no reader minds.
    orphans = set(raw("labels").folder.glob("*.parquet")) - set(raw("labels").files())
    assert len(orphans) == (visible == 0)
    again = python(KILLED, store.uri, "nowhere")
    out, errors = again.communicate(timeout=60)
    assert (again.returncode, out.strip()) == (0, str(20 - visible)), errors
    assert _ids(raw("labels").rows()) == sorted([*(f"i{n:03d}" for n in range(20)), "other"])


def test_a_store_is_a_folder_of_plain_files(store, raw, label_rows):
    """What a commit names exists, and nothing outside the table's folder was written."""
    Store(store.uri).append("labels", label_rows(["a"]))
    assert all(file.is_file() for file in raw("labels").files())
    assert [path.name for path in raw("labels").folder.parent.iterdir()] == ["labels"]


def test_a_writer_behind_others_of_its_partition_conflicts_whatever_its_version(store, raw, staged):
    """delta-rs compares no versions: what matters is that the app_id was used since."""
    committer = Interrupted(store.location, EMBEDDINGS)
    Committer(store.location, EMBEDDINGS).commit(staged(range(1), "s2"))
    theirs = iter([staged(range(5))])
    other = Committer(store.location, EMBEDDINGS)
    committer.meanwhile = lambda: [other.commit(files) for files in theirs]
    assert committer.commit(staged(range(3, 8))) == 3
    assert committer.attempts == 2
    assert _ids(raw("embeddings").rows()) == sorted([*_numbers(range(8)), "i000"])


def test_others_rows_between_look_and_commit_are_left_out_where_the_images_are_known(store, raw, staged):
    images = pa.array([f"i{k:03d}" for k in range(15)])
    committer = Interrupted(store.location, EMBEDDINGS, images=images)
    other = Committer(store.location, EMBEDDINGS)
    theirs = iter([staged(range(10))])
    committer.meanwhile = lambda: [other.commit(files) for files in theirs]
    assert committer.commit(staged(range(5, 15))) == 5
    assert _ids(raw("embeddings").rows()) == _numbers(range(15))
