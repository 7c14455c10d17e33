"""The oracle itself: it has to find what was done to a store behind its back, and must not rest on the store's code."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from featurestore.store import Store
from tests.chaos import oracle

IDS = ["a", "b", "c", "d"]


def _vectors(ids: list[str], scale: float = 1.0) -> pa.Table:
    vectors = [[scale * (ord(name) + k) for k in range(3)] for name in ids]
    kind = pa.list_(pa.float32())
    columns = {"backbone": ["tiny"] * len(ids), "spec_id": ["s1"] * len(ids), "image_id": ids}
    return pa.table(columns | {"embedding": pa.array(vectors, kind)})


def _fill(folder: Path) -> Path:
    for part in (IDS[:2], IDS[2:]):
        Store(folder).append("embeddings", _vectors(part))
    return folder


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return _fill(tmp_path / "reference")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return _fill(tmp_path / "a store")


def _log(store: Path) -> Path:
    return store / "embeddings" / "_delta_log"


def _live(store: Path) -> Path:
    return store / "embeddings" / min(oracle.live_files(store / "embeddings"))


def _commit(store: Path, *actions: dict[str, object]) -> None:
    version = max(int(path.stem) for path in _log(store).glob("*.json")) + 1
    (_log(store) / f"{version:020d}.json").write_text("\n".join(map(json.dumps, actions)))


def _add(path: Path, store: Path) -> dict[str, object]:
    relative = str(path.relative_to(store / "embeddings"))
    partition = {"backbone": "tiny", "spec_id": "s1"}
    return {
        "add": {"path": relative, "partitionValues": partition, "size": 1, "modificationTime": 0, "dataChange": True}
    }


def _lose(store: Path) -> None:
    path = str(_live(store).relative_to(store / "embeddings"))
    _commit(store, {"remove": {"path": path, "deletionTimestamp": 0, "dataChange": True}})


def _lose_a_file(store: Path) -> None:
    _live(store).unlink()


def _duplicate(store: Path) -> None:
    copy = _live(store).with_name("copy.parquet")
    copy.write_bytes(_live(store).read_bytes())
    _commit(store, _add(copy, store))


def _rewrite(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    def spoil(store: Path) -> None:
        path = _live(store)
        pq.write_table(change(pq.ParquetFile(path).read()), path)

    return spoil


def _scaled(rows: pa.Table, factor: float) -> pa.Table:
    vectors = pa.array([[np.float32(x) * factor for x in row] for row in rows["embedding"].to_pylist()])
    return rows.set_column(rows.column_names.index("embedding"), "embedding", vectors.cast(pa.list_(pa.float32())))


def _swapped(rows: pa.Table) -> pa.Table:
    return rows.set_column(
        rows.column_names.index("image_id"), "image_id", pa.array(rows["image_id"].to_pylist()[::-1])
    )


def _renamed(rows: pa.Table) -> pa.Table:
    return rows.set_column(
        rows.column_names.index("image_id"), "image_id", pa.array(["x", *rows["image_id"].to_pylist()[1:]])
    )


@pytest.mark.parametrize(
    ("spoil", "lost", "duplicated", "wrong"),
    [
        (_lose, 2, 0, 0),
        (_lose_a_file, 2, 0, 0),
        (_duplicate, 0, 2, 0),
        (_rewrite(lambda rows: _scaled(rows, 1 + 1e-4)), 0, 0, 2),
        (_rewrite(lambda rows: _scaled(rows, float("nan"))), 0, 0, 2),
        (_rewrite(_swapped), 0, 0, 2),
        (_rewrite(_renamed), 1, 0, 1),
    ],
    ids=["removed", "file gone", "twice", "another value", "nan", "of another image", "unknown id"],
)
def test_what_was_done_to_a_store_is_found(
    store: Path, reference: Path, spoil: Callable[[Path], None], lost: int, duplicated: int, wrong: int
) -> None:
    spoil(store)
    verdict = oracle.judge(store, reference)
    assert (len(verdict.lost), len(verdict.duplicated), len(verdict.wrong)) == (lost, duplicated, wrong)
    assert not verdict.clean


def test_counts_that_agree_hide_nothing(store: Path, reference: Path) -> None:
    """One row lost and another twice: as many rows as there should be."""
    _rewrite(lambda rows: pa.concat_tables([rows.slice(0, 1)] * 2))(store)
    assert len(list(oracle.rows(store / "embeddings"))) == len(IDS)
    verdict = oracle.judge(store, reference)
    assert (len(verdict.lost), len(verdict.duplicated)) == (1, 1)


def test_a_whole_store_is_clean_whatever_its_files_hold(store: Path, reference: Path) -> None:
    _rewrite(lambda rows: _scaled(rows, 1 + 1e-6))(store)
    assert oracle.judge(store, reference) == oracle.Verdict()
    assert oracle.pending(store, reference) == 0


def test_a_reject_that_is_lost_or_twice_or_of_another_image_is_found(store: Path, reference: Path) -> None:
    def reject(folder: Path, uri: str, reason: str = "broken") -> None:
        Store(folder).append("rejects", pa.table({"dataset": ["d"], "uri": [uri], "reason": [reason]}))

    reject(reference, "/in/1.png")
    assert [key[:3] for key in oracle.judge(store, reference).lost] == [("rejects", "d", "/in/1.png")]
    reject(store, "/in/1.png")
    assert oracle.judge(store, reference) == oracle.Verdict()
    reject(store, "/in/1.png", "broken otherwise")
    assert [key[0] for key in oracle.judge(store, reference).wrong] == ["rejects"]
    rejects = oracle.live_files(store / "rejects")
    (store / "rejects" / "again.parquet").write_bytes((store / "rejects" / min(rejects)).read_bytes())
    log = store / "rejects" / "_delta_log"
    add = {"path": "again.parquet", "partitionValues": {}}
    (log / f"{len(list(log.glob('*.json'))):020d}.json").write_text(json.dumps({"add": add}))
    assert [key[0] for key in oracle.judge(store, reference).duplicated] == ["rejects"]


def test_who_was_to_be_forgotten_may_not_be_there_and_all_others_must(store: Path, reference: Path) -> None:
    assert [key[1] for key in oracle.judge(store, reference, {"a", "b"}).wrong] == ["a", "b"]
    _lose(store)
    lost = {key[1] for key in oracle.judge(store, reference).lost}
    assert len(lost) == 2
    assert oracle.judge(store, reference, lost).clean
    one = min(lost)
    assert {key[1] for key in oracle.judge(store, reference, {one}).lost} == lost - {one}


def test_a_file_that_nobody_committed_is_an_orphan_and_counts_for_nothing(store: Path, reference: Path) -> None:
    orphan = _live(store).with_name("orphan.parquet")
    orphan.write_bytes(_live(store).read_bytes())
    verdict = oracle.judge(store, reference)
    assert verdict.clean
    assert verdict.orphans == [str(orphan.relative_to(store))]


def test_a_checkpoint_and_what_came_after_it(store: Path, reference: Path) -> None:
    _lose(store)
    _commit(store, _add(_live(reference), reference))
    before = oracle.live_files(store / "embeddings")
    DeltaTable(store / "embeddings").create_checkpoint()
    for commit in _log(store).glob("*.json"):
        commit.unlink()
    assert oracle.live_files(store / "embeddings") == before
    assert set(before) == {file.path for file in Store(store).snapshot("embeddings").files}


def test_a_hole_in_the_log_is_no_answer(store: Path) -> None:
    _commit(store)
    (_log(store) / f"{1:020d}.json").unlink()
    with pytest.raises(ValueError, match=r"version 1 is missing before .*the log has a hole"):
        oracle.live_files(store / "embeddings")


def test_nothing_of_the_code_under_test_is_imported() -> None:
    tree = ast.parse(Path(oracle.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert not {str(name).partition(".")[0] for name in imported} & {"featurestore", "jobs", "deltalake", "duckdb"}
