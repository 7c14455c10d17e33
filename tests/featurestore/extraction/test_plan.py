"""Plans against a plain Python recount, on synthetic keys."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.errors import UsageError
from featurestore.extraction.plan import PlannedSpec, Shard, WorkItem, make_plan
from featurestore.store import Store

SPECS = [PlannedSpec("densenet121", "s1", 4), PlannedSpec("vgg16", "s2", 2), PlannedSpec("vgg19", "s3", 2)]


def _images(store: Store, ids: list[str], dataset: str = "demo") -> None:
    n = len(ids)
    columns = {"image_id": ids, "dataset": [dataset] * n, "uri": [f"/x/{i}" for i in ids], "file_hash": ids}
    store.append("images", pa.table(columns))


def _embedding(store: Store, pairs: list[tuple[str, PlannedSpec]]) -> None:
    for image_id, spec in pairs:
        vector = pa.array([[0.0] * spec.n_features], pa.list_(pa.float32()))
        row = {"backbone": [spec.backbone], "spec_id": [spec.spec_id], "image_id": [image_id], "embedding": vector}
        store.append("embeddings", pa.table(row))


def _reject(store: Store, image_id: str, spec_id: str | None, *, retryable: bool) -> None:
    row = {
        "dataset": ["demo"],
        "uri": [image_id],
        "image_id": [image_id],
        "stage": ["model"],
        "reason": [f"retryable: {retryable}"],  # part of the key: a reject is stored once
        "retryable": [retryable],
        "spec_id": pa.array([spec_id], pa.string()),
    }
    store.append("rejects", pa.table(row))


def _planned(store: Store, *, retry: bool = False, shard: int = 2) -> set[tuple[str, str]]:
    plan = make_plan(store, "demo", SPECS, shard_images=shard, retry_rejects=retry)
    shards = list(plan.shards())
    assert all(len(s.items) <= shard for s in shards)
    pairs = [(item.image_id, spec_id) for s in shards for item in s.items for spec_id in s.spec_ids]
    assert len(pairs) == len(set(pairs)) == plan.pending_pairs
    assert plan.images_to_decode == len({image_id for image_id, _ in pairs})
    counts = plan.pending_by_backbone
    assert plan.bytes == sum(4 * spec.n_features * counts[spec.backbone] for spec in SPECS)
    return set(pairs)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    done=st.sets(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=10),
    rejected=st.sets(st.tuples(st.integers(0, 5), st.sampled_from([0, 1, 2, None]), st.booleans()), max_size=4),
)
def test_a_plan_is_what_is_neither_stored_nor_rejected(
    tmp_path_factory: pytest.TempPathFactory,
    done: set[tuple[int, int]],
    rejected: set[tuple[int, int | None, bool]],
) -> None:
    store = Store(tmp_path_factory.mktemp("plan"))
    _images(store, [f"i{k}" for k in range(6)])
    _images(store, ["other"], "elsewhere")
    _embedding(store, [(f"i{k}", SPECS[s]) for k, s in done] + [("other", SPECS[0])])
    for k, s, retryable in rejected:
        _reject(store, f"i{k}", None if s is None else SPECS[s].spec_id, retryable=retryable)
    for retry in (False, True):
        skip = {
            (k, n) for k, s, retryable in rejected for n in range(3) if s in (None, n) and not (retry and retryable)
        }
        expected = {(f"i{k}", SPECS[n].spec_id) for k in range(6) for n in range(3) if (k, n) not in done | skip}
        assert _planned(store, retry=retry) == expected


def test_an_unknown_data_set_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _images(store, ["a"])
    with pytest.raises(UsageError, match=r"no data set 'nih' in the store at .*; it has demo"):
        make_plan(store, "nih", SPECS, shard_images=2)


def test_halving_ends_in_single_images_and_keeps_every_image() -> None:
    shard = Shard(tuple(WorkItem(str(k), "", "") for k in range(5)), ("s1",))
    first, second = shard.halves()
    assert first.items + second.items == shard.items
    assert first.deaths == second.deaths == 0
    single = Shard(shard.items[:1], ("s1",), 3)
    assert [s.items for s in single.halves()] == [single.items]
    assert single.halves()[0].deaths == 4
