"""Ray for real: actors pinned to declared GPUs, workers that die, workers that hang."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from featurestore.errors import HarmError, StoppedError
from featurestore.extraction.plan import Shard, WorkItem
from featurestore.extraction.result import ShardResult, Timing
from featurestore.extraction.worker_config import WorkerConfig
from featurestore.store import Store
from jobs.cluster import Resources, ray_cluster
from jobs.extract import ExtractRequest, extract
from jobs.runners.actors import ActorPool
from jobs.runners.outcome import Finished, Poison
from jobs.workers import Workers

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CONFIG = WorkerConfig("/nowhere", "run", (), "bilinear-v1", 32)
TWO_CPUS = Resources(cpus=2, gpus=0, cpus_per_node=2)


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=2,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=128 * 1024**2,
    )
    yield
    ray.shutdown()


@ray.remote
class Fragile:
    """A worker that dies, hangs or complains on images of that name; what it stages is nothing."""

    def __init__(self, config: WorkerConfig) -> None:
        self._ran = 0

    def run(self, shard: Shard) -> ShardResult:
        names = {item.image_id for item in shard.items}
        if "die" in names:
            os._exit(1)
        if "hang" in names:
            time.sleep(600)
        if "complain" in names:
            message = "a tensor of the wrong shape"
            raise RuntimeError(message)
        return ShardResult([], [], [], len(shard.items), Timing(), {"pid": str(os.getpid())})


@ray.remote
class Unbuildable:
    """A worker that never starts."""

    def __init__(self, config: WorkerConfig) -> None:
        message = "weights of vgg16 changed while the job started"
        raise HarmError(message)

    def run(self, shard: Shard) -> None:
        """Never reached."""


def _shards(*names: tuple[str, ...]) -> Iterator[Shard]:
    return (Shard(tuple(WorkItem(n, "", "") for n in shard), ("s1",)) for shard in names)


def _run(actor: Any, shards: Iterator[Shard], deadline: float = 60) -> tuple[list[str], list[Poison]]:
    finished: list[str] = []
    poison: list[Poison] = []
    for outcome in ActorPool(CONFIG, TWO_CPUS, deadline, actor).run(shards):
        if isinstance(outcome, Finished):
            finished += [item.image_id for item in outcome.shard.items]
        else:
            poison.append(outcome)
    return sorted(finished), poison


@pytest.mark.parametrize(
    ("bad", "words"), [("die", "failed 2 times on this image alone"), ("complain", "a tensor of the wrong shape")]
)
def test_a_bad_image_is_found_by_halving_and_the_rest_finishes(bad: str, words: str) -> None:
    finished, poison = _run(Fragile, _shards(("a", "b", bad, "c"), ("d", "e")))
    assert finished == ["a", "b", "c", "d", "e"]
    assert [[item.image_id for item in p.shard.items] for p in poison] == [[bad]]
    assert words in poison[0].reason


def test_a_hung_worker_meets_its_deadline() -> None:
    finished, poison = _run(Fragile, _shards(("a", "hang"), ("b",)), deadline=4)
    assert finished == ["a", "b"]
    assert "no answer in 4 s" in poison[0].reason


def test_a_worker_that_cannot_start_ends_the_job_with_its_reason() -> None:
    with pytest.raises(HarmError, match=r"could not start: .*weights of vgg16 changed"):
        _run(Unbuildable, _shards(("a",)))


def test_workers_that_only_die_stop_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.runners.actors.MAX_DEATHS_IN_A_ROW", 3)
    with pytest.raises(StoppedError, match=r"workers failed 4 times in a row.*run the same command again"):
        _run(Fragile, _shards(("die",) * 8))


def test_two_declared_gpus_get_two_actors_with_their_own_device(ingested: Store) -> None:
    request = ExtractRequest("demo", backbones="densenet121", weights="random:0", size=32, shard_images=3)
    with Workers() as workers:
        done = extract(ingested, request, workers)
    (row,) = ingested.query("SELECT device, counts FROM runs WHERE run_id = ?", [done.run_id]).to_pylist()
    devices = json.loads(row["device"])
    assert {d["cuda_visible_devices"] for d in devices} == {"0", "1"}
    assert len({d["pid"] for d in devices}) == 2
    assert done.lost == 0
    assert done.written == len(ingested.query("SELECT image_id FROM images"))
    # Ray's workers load torch; this process, the driver, must not have needed them to.
    rows = ingested.query("SELECT count(*) AS n, count(DISTINCT image_id) AS ids FROM embeddings").to_pylist()
    assert rows == [{"n": done.written, "ids": done.written}]


def test_an_open_connection_is_used_and_left_open() -> None:
    with ray_cluster() as resources:
        assert resources == Resources(cpus=2, gpus=2, cpus_per_node=2)
    assert ray.is_initialized()
