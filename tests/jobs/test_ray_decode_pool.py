"""Decoding by Ray tasks beside the actors: the same rows as without, whoever dies, and never much ahead."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import ray

from featurestore.extraction.decode_pool import DecodedShard
from featurestore.extraction.plan import Shard, WorkItem
from featurestore.extraction.result import ShardResult, Timing
from featurestore.extraction.worker_config import WorkerConfig
from featurestore.store import Store
from jobs.cluster import Resources
from jobs.extract import ExtractRequest, Summary, extract
from jobs.runners.actors import IN_FLIGHT, ActorPool
from jobs.runners.decode_pool import DecodePool
from jobs.runners.outcome import Finished, Poison
from jobs.workers import Workers
from tests.private_ray import private_ray

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CONFIG = WorkerConfig("/nowhere", "run", (), "bilinear-v1", 32)
TWO_CPUS = Resources(cpus=2, gpus=0, cpus_per_node=2)
REQUEST = ExtractRequest("demo", backbones="tests.tiny:TINY", weights="random:0", size=32, shard_images=4)


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    with private_ray():
        yield


@ray.remote(num_cpus=1, max_retries=0)
def fragile(items: tuple[WorkItem, ...], preprocess: str, size: int) -> DecodedShard:
    """Decode nothing; die, hang or fail on images of that name."""
    names = {item.image_id for item in items}
    if "die" in names:
        os._exit(1)
    if "hang" in names:
        time.sleep(600)
    if "fail" in names:
        message = "no such codec"
        raise RuntimeError(message)
    return DecodedShard(items, np.full((len(items), size, size), len(items), np.uint8), (), 0.25)


@ray.remote
class Taking:
    """Takes pixels that others made, and has no way to make any."""

    def __init__(self, config: WorkerConfig) -> None:
        pass

    def run(self, shard: Shard, decoded: DecodedShard) -> ShardResult:
        assert decoded.items == shard.items
        assert decoded.pixels.shape == (len(shard.items), 32, 32)
        assert (decoded.pixels == len(shard.items)).all()
        time.sleep(0.05)
        return ShardResult([], [], [], len(shard.items), Timing(), {"pid": str(os.getpid())})


def _shards(*names: tuple[str, ...]) -> Iterator[Shard]:
    return (Shard(tuple(WorkItem(n, "", "") for n in shard), ("s1",)) for shard in names)


def _run(monkeypatch: pytest.MonkeyPatch, shards: Iterator[Shard], deadline: float = 60) -> Iterator[Finished | Poison]:
    monkeypatch.setattr("jobs.runners.actors.DecodePool", partial(DecodePool, task=fragile))
    return ActorPool(CONFIG, TWO_CPUS, deadline, Taking, decode_workers=1).run(shards)


def _sorted(outcomes: Iterator[Finished | Poison]) -> tuple[list[str], list[Poison]]:
    poison: list[Poison] = []
    finished: list[str] = []
    for outcome in outcomes:
        if isinstance(outcome, Poison):
            poison.append(outcome)
        else:
            finished += [item.image_id for item in outcome.shard.items]
    return sorted(finished), poison


@pytest.mark.parametrize(("bad", "words"), [("die", "worker"), ("fail", "no such codec")])
def test_an_image_that_breaks_its_decoder_is_found_by_halving(
    monkeypatch: pytest.MonkeyPatch, bad: str, words: str
) -> None:
    finished, poison = _sorted(_run(monkeypatch, _shards(("a", "b", bad, "c"), ("d", "e"), ("f",))))
    assert finished == ["a", "b", "c", "d", "e", "f"]
    assert [[item.image_id for item in p.shard.items] for p in poison] == [[bad]]
    assert "failed 2 times on this image alone" in poison[0].reason
    assert words in poison[0].reason


def test_a_decoder_that_hangs_meets_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    finished, poison = _sorted(_run(monkeypatch, _shards(("a", "hang"), ("b",)), deadline=6))
    assert finished == ["a", "b"]
    assert "not decoded in 6 s" in poison[0].reason


def test_no_more_is_decoded_ahead_than_the_actors_can_take(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    def counted() -> Iterator[Shard]:
        nonlocal made
        for shard in _shards(*((f"{k}",) for k in range(30))):
            made += 1
            yield shard

    ahead = []
    for done, _ in enumerate(_run(monkeypatch, counted())):
        ahead.append(made - done)
    assert len(ahead) == 30
    # Sent, decoded or being decoded, and the one that the queue looks at to know whether any is left.
    assert max(ahead) <= IN_FLIGHT + 1 + 1


def test_the_rows_are_those_of_actors_that_decode_for_themselves(ingested: Store, tmp_path: Path) -> None:
    rows = ingested.query("SELECT image_id, uri FROM images ORDER BY image_id").to_pylist()
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(rows[3]["uri"]).read_bytes()[:100])
    ingested.relocate({rows[3]["image_id"]: str(broken), rows[5]["image_id"]: str(tmp_path / "gone.png")})
    other = Store(shutil.copytree(ingested.uri, tmp_path / "other"))

    pooled = _extract(ingested, replace(REQUEST, decode_workers=1))
    alone = _extract(other, REQUEST)
    assert (pooled.written, pooled.rejected, pooled.lost) == (len(rows) - 2, 2, 0)
    assert (alone.written, alone.rejected, alone.lost) == (len(rows) - 2, 2, 0)
    assert _rejects(ingested) == _rejects(other)
    assert _stages(ingested) == _stages(other) >= {"decode", "wait", "infer", "write", "commit"}
    ids, X = ingested.matrix("tiny")
    same, Y = other.matrix("tiny", ids)
    assert same == ids
    assert np.abs(X - Y).max() <= 1e-5 * np.abs(Y).max()


def _extract(store: Store, request: ExtractRequest) -> Summary:
    with Workers() as workers:
        return extract(store, request, workers)


def _rejects(store: Store) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = store.query(
        "SELECT image_id, uri, stage, reason, retryable, spec_id FROM rejects ORDER BY image_id"
    ).to_pylist()
    return rows


def _stages(store: Store) -> set[str]:
    """Return what took time."""
    (row,) = store.query("SELECT seconds FROM runs WHERE command = 'extract'").to_pylist()
    return {stage for stage, seconds in json.loads(row["seconds"]).items() if seconds}
