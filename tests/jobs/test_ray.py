"""Ray for real: actors pinned to declared GPUs, workers that die, workers that hang."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.exceptions import OutOfMemoryError, RayActorError

from featurestore.errors import HarmError, StoppedError, UsageError
from featurestore.extraction.plan import Shard, WorkItem
from featurestore.extraction.result import ShardResult, Timing
from featurestore.extraction.worker_config import WorkerConfig
from featurestore.store import Store
from jobs.cluster import Resources, ray_cluster
from jobs.extract import ExtractRequest, extract
from jobs.runners.actors import ActorPool
from jobs.runners.outcome import Finished, Poison
from jobs.workers import Workers
from tests.private_ray import private_ray

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CONFIG = WorkerConfig("/nowhere", "run", (), "bilinear-v1", 32)
TWO_CPUS = Resources(cpus=2, gpus=0, cpus_per_node=2)


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    with private_ray(gpus=2):
        yield


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
        if "refused" in names:
            message = "s3://bucket: the request is refused; set AWS_ACCESS_KEY_ID"
            raise UsageError(message)
        if "full" in names:
            raise OSError(errno.ENOSPC, "No space left on device")
        return ShardResult([], [], [], len(shard.items), Timing(), {"pid": str(os.getpid())})


@ray.remote
class Slow:
    """A worker that takes so long that another one has time to start, and says which GPU it was given."""

    def __init__(self, config: WorkerConfig) -> None:
        pass

    def run(self, shard: Shard) -> ShardResult:
        time.sleep(2)
        worker = {"pid": str(os.getpid()), "gpu": os.environ["CUDA_VISIBLE_DEVICES"]}
        return ShardResult([], [], [], len(shard.items), Timing(), worker)


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


@pytest.mark.parametrize(
    ("bad", "kind", "words"),
    [
        ("refused", UsageError, "s3://bucket: the request is refused; set AWS_ACCESS_KEY_ID"),
        ("full", HarmError, "a worker failed: OSError: .*No space left on device; what was finished is stored"),
    ],
)
def test_what_is_no_images_fault_ends_the_job_and_rejects_nothing(bad: str, kind: type[Exception], words: str) -> None:
    outcomes = ActorPool(CONFIG, TWO_CPUS, 60, Fragile).run(_shards(("a",), ("b", bad, "c")))
    found = []
    with pytest.raises(kind, match=words):
        found += list(outcomes)
    assert not any(isinstance(outcome, Poison) for outcome in found)


def test_image_after_image_without_one_success_stops_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.runners.outcome.MAX_POISONS_IN_A_ROW", 2)
    with pytest.raises(
        StoppedError, match=r"3 images in a row made their worker fail, .* wrong shape.*--retry-rejects"
    ):
        _run(Fragile, _shards(*[("complain",)] * 5))
    # One that succeeds in between shows that the images are at fault.
    finished, poison = _run(Fragile, _shards(("complain",), ("complain",), ("a",), ("complain",), ("complain",)))
    assert (finished, len(poison)) == (["a"], 4)


def test_a_worker_that_ray_kills_for_its_memory_is_one_that_died(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises an error of another family then; when it kills depends on the whole machine, so it is only raised."""
    real = ray.get

    def get(ref: Any) -> Any:
        try:
            return real(ref)
        except RayActorError as error:
            message = "Task was killed due to the node running low on memory.\nRefer to the documentation"
            raise OutOfMemoryError(message) from error

    monkeypatch.setattr(ray, "get", get)
    finished, poison = _run(Fragile, _shards(("a", "die"), ("b",)))
    assert finished == ["a", "b"]
    assert poison[0].reason.endswith("Ray killed its worker because the node ran low on memory")


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


def test_a_worker_without_a_place_holds_nothing_up() -> None:
    """As after the loss of a node: three workers are wanted, the cluster has room for two."""
    pool = ActorPool(CONFIG, Resources(cpus=2, gpus=3, cpus_per_node=2), 10, Fragile)
    outcomes = list(pool.run(_shards(*((name,) for name in "abcdefgh"))))
    assert all(isinstance(outcome, Finished) for outcome in outcomes)
    assert sorted(outcome.shard.items[0].image_id for outcome in outcomes) == list("abcdefgh")


def test_a_cluster_without_any_place_stops_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.runners.actors.START_SECONDS", 3)
    pool = ActorPool(CONFIG, Resources(cpus=64, gpus=0, cpus_per_node=64), 60, Fragile)
    with pytest.raises(StoppedError, match=r"no worker could start in .* has 64 CPUs free.*run the same command again"):
        list(pool.run(_shards(("a",))))


def test_two_declared_gpus_get_two_actors_with_their_own_device() -> None:
    pool = ActorPool(CONFIG, Resources(cpus=2, gpus=2, cpus_per_node=2), 60, Slow)
    outcomes = pool.run(_shards(*((name,) for name in "abcdefgh")))
    workers = [outcome.result.worker for outcome in outcomes if isinstance(outcome, Finished)]
    assert len(workers) == 8
    assert {worker["gpu"] for worker in workers} == {"0", "1"}
    assert len({worker["pid"] for worker in workers}) == 2


def test_an_extraction_stores_every_image_once_and_notes_its_devices(ingested: Store) -> None:
    request = ExtractRequest("demo", backbones="densenet121", weights="random:0", size=32, shard_images=3)
    with Workers() as workers:
        done = extract(ingested, request, workers)
    (row,) = ingested.query("SELECT device, counts FROM runs WHERE run_id = ?", [done.run_id]).to_pylist()
    devices = json.loads(row["device"])
    # Whoever is ready first may have done everything.
    assert devices
    assert {d["cuda_visible_devices"] for d in devices} <= {"0", "1"}
    assert done.lost == 0
    assert done.written == len(ingested.query("SELECT image_id FROM images"))
    # Ray's workers load torch; this process, the driver, must not have needed them to.
    rows = ingested.query("SELECT count(*) AS n, count(DISTINCT image_id) AS ids FROM embeddings").to_pylist()
    assert rows == [{"n": done.written, "ids": done.written}]


def test_an_open_connection_is_used_and_left_open() -> None:
    with ray_cluster() as resources:
        assert resources == Resources(cpus=2, gpus=2, cpus_per_node=2, cpus_per_gpu=1)
    assert ray.is_initialized()
