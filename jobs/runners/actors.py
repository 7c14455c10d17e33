"""Ray actors, one pinned to each GPU (or one on each node without), fed two shards at a time (docs/adr/0004).

An actor runs its shards in the order they were sent. So when it dies, the oldest unfinished one was running: that one
is halved, until a single image remains that killed its worker twice and is rejected; the others are simply sent again.

An actor is sent nothing before it is there: after a node was lost its replacement may find no place for hours, and the
other nodes do the work meanwhile.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import ray
from ray.exceptions import ActorUnschedulableError, OutOfMemoryError, RayError, RayTaskError, RuntimeEnvSetupError

from featurestore.errors import CxrError, HarmError, StoppedError
from featurestore.extraction.decode_pool import DecodedShard
from featurestore.extraction.plan import Shard
from featurestore.extraction.worker_config import WorkerConfig
from jobs.cluster import Resources
from jobs.runners.decode_pool import DecodePool
from jobs.runners.outcome import Finished, Outcome, Poison, PoisonCount, search
from jobs.runners.placement import actor_count, actor_options, in_words
from jobs.runners.shard_queue import ShardQueue

IN_FLIGHT = 2
MAX_DEATHS_IN_A_ROW = 20
START_SECONDS = 1800.0
"""How long to wait for any worker at all: a cloud may have to start a machine, and weights to be fetched."""
_POLL_SECONDS = 1.0


@ray.remote
class ExtractActor:
    """Holds the networks on its device; torch is imported here and never in the driver."""

    def __init__(self, config: WorkerConfig) -> None:
        from featurestore.extraction.worker import Extractor

        self._extractor = Extractor(config)
        self._idle_since = perf_counter()

    def describe(self) -> dict[str, str]:
        """Return where this actor runs; answers once the networks are loaded."""
        return self._extractor.describe()

    def run(self, shard: Shard, decoded: DecodedShard | None = None) -> Any:
        """Run one shard; see `Extractor.run`."""
        idle = perf_counter() - self._idle_since
        try:
            result = self._extractor.run(shard, decoded)
        finally:
            self._idle_since = perf_counter()
        if decoded is not None:
            result.timing.add("wait", idle)  # decoded here, the networks' wait for pixels is inside of `run`
        return result


@dataclass(eq=False)
class _Worker:
    """One actor, what answers once it is placed and built, and the shards it was sent, oldest first."""

    actor: Any
    built: Any
    ready: bool = False
    sent: deque[tuple[Any, Shard]] = field(default_factory=deque)
    busy_since: float = 0.0

    def awaited(self) -> list[Any]:
        """Return what this worker will answer next, if anything."""
        return [self.sent[0][0]] if self.sent else [] if self.ready else [self.built]


class ActorPool:
    """Feeds shards to actors and survives their deaths.

    Parameters
    ----------
    config : WorkerConfig
    resources : Resources
    deadline : float
        Seconds one shard may take before its worker is taken for hung and killed.
    actor : Ray actor class
        With the methods of `ExtractActor`.
    decode_workers : int
        Processes that decode for the actors, anywhere in the cluster; 0 lets each actor decode for itself.

    Raises
    ------
    HarmError
        If the cluster has no place for an actor.
    UsageError
        If it has none for that many decode workers beside the actors.
    """

    def __init__(
        self,
        config: WorkerConfig,
        resources: Resources,
        deadline: float,
        actor: Any = ExtractActor,
        decode_workers: int = 0,
    ) -> None:
        self._deadline = deadline
        self._actor = actor
        self._decode_workers = decode_workers
        self._options, self._config = actor_options(config, resources, decode_workers)
        self._source: ShardQueue | DecodePool = ShardQueue(iter(()))
        self._deaths_in_a_row = 0
        self._poisons = PoisonCount()
        self._workers = [self._start() for _ in range(actor_count(resources))]
        self._last_ready = time.monotonic()

    def run(self, shards: Iterator[Shard]) -> Iterator[Outcome]:
        """Yield the outcome of every shard.

        Raises
        ------
        HarmError
            If a worker cannot be built at all.
        StoppedError
            If workers die without any shard ever finishing in between, or none finds a place in the cluster.
        """
        self._source = self._source_of(shards)
        try:
            while self._feed():
                awaited = [ref for worker in self._workers for ref in worker.awaited()]
                # fetch_local would bring decoded pixels to the driver's node.
                ray.wait(awaited + self._source.awaited(), num_returns=1, timeout=_POLL_SECONDS, fetch_local=False)
                self._admit()
                self._check_places()
                for worker in self._workers:
                    yield from self._collect(worker)
                for shard in self._source.overdue():
                    self._count_death(None)
                    yield from self._search(shard, f"not decoded in {self._deadline:.0f} s")
        finally:
            for worker in self._workers:
                ray.kill(worker.actor)

    def _source_of(self, shards: Iterator[Shard]) -> ShardQueue | DecodePool:
        queue = ShardQueue(shards)
        if not self._decode_workers:
            return queue
        return DecodePool(queue, self._config, self._decode_workers, self._deadline)

    def _start(self) -> _Worker:
        actor = self._actor.options(**self._options).remote(self._config)
        return _Worker(actor, actor.__ray_ready__.remote())

    def _admit(self) -> None:
        """Take into service what has started; start again what died before it was built."""
        for place, worker in enumerate(self._workers):
            if worker.ready or not ray.wait([worker.built], timeout=0)[0]:
                continue
            try:
                ray.get(worker.built)
            except (ActorUnschedulableError, RuntimeEnvSetupError) as error:
                raise _cannot_start(error) from error
            except RayError as error:
                self._count_death(error)
                self._workers[place] = self._start()
            else:
                worker.ready = True

    def _check_places(self) -> None:
        """Stop where no worker was ready for too long."""
        if any(worker.ready for worker in self._workers):
            self._last_ready = time.monotonic()
        elif time.monotonic() - self._last_ready > START_SECONDS:
            message = (
                f"no worker could start in {START_SECONDS / 60:.0f} min: none of the cluster's nodes has "
                f"{in_words(self._options)} free; what was finished is stored: see to the nodes (ray status) and run "
                "the same command again"
            )
            raise StoppedError(message)

    def _feed(self) -> bool:
        """Fill the queue of every worker that is ready; return whether anything is under way or left."""
        for worker in self._workers:
            while worker.ready and len(worker.sent) < IN_FLIGHT and (item := self._source.take()):
                shard, pixels = item
                if not worker.sent:
                    worker.busy_since = time.monotonic()
                worker.sent.append((worker.actor.run.remote(shard, *pixels), shard))
        return any(worker.sent for worker in self._workers) or self._source.any_left()

    def _collect(self, worker: _Worker) -> Iterator[Outcome]:
        """Yield what this worker has finished; see to it if it died or hangs."""
        while worker.sent and ray.wait([worker.sent[0][0]], timeout=0)[0]:
            ref, shard = worker.sent[0]
            try:
                result = ray.get(ref)
            except RayTaskError as error:
                # The worker is alive and said what is wrong; the shard is searched for the image that causes it.
                _raise_if_no_images_fault(error)
                worker.sent.popleft()
                yield from self._search(shard, _last_line(error))
                self._count_death(error)
            except RayError as error:  # dead, out of reach, or killed by Ray for the memory it took
                yield from self._bury(worker, _last_line(error), error)
            else:
                worker.sent.popleft()
                self._deaths_in_a_row = 0
                self._poisons.finished()
                yield Finished(shard, result)
            worker.busy_since = time.monotonic()
        if worker.sent and time.monotonic() - worker.busy_since > self._deadline:
            yield from self._bury(worker, f"no answer in {self._deadline:.0f} s", None)

    def _bury(self, worker: _Worker, reason: str, error: RayError | None) -> Iterator[Outcome]:
        """Replace a dead worker and search the shard that was running; the others are sent again as they are."""
        self._count_death(error)
        ray.kill(worker.actor)  # one that is only out of reach would keep its GPU
        _, guilty = worker.sent.popleft()
        self._source.put_back([shard for _, shard in worker.sent])
        worker.sent.clear()
        self._workers[self._workers.index(worker)] = self._start()
        yield from self._search(guilty, reason)

    def _search(self, shard: Shard, reason: str) -> Iterator[Outcome]:
        found = search(shard, reason)
        if isinstance(found, Poison):
            self._deaths_in_a_row = 0
            self._poisons.found(found)
            yield found
        else:
            self._source.put_back(found)

    def _count_death(self, error: Exception | None) -> None:
        if "creation task" in str(error or ""):
            raise _cannot_start(error) from error
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row > MAX_DEATHS_IN_A_ROW:
            message = (
                f"workers failed {self._deaths_in_a_row} times in a row, last with: {_last_line(error)}; what was "
                "finished is stored: mend the cause and run the same command again"
            )
            raise StoppedError(message)


def _cannot_start(error: Exception | None) -> HarmError:
    return HarmError(f"a worker could not start: {_last_line(error)}")


def _raise_if_no_images_fault(error: RayTaskError) -> None:
    """End the job where the disk, the store or the weights are at fault: halving would reject every image for it."""
    cause = error.cause
    if isinstance(cause, CxrError):
        raise cause from None
    if isinstance(cause, OSError):
        message = (
            f"a worker failed: {type(cause).__name__}: {cause}; what was finished is stored: mend that (space on the "
            "disk, credentials, the way to the store) and run the same command again"
        )
        raise HarmError(message) from error


def _last_line(error: Exception | None) -> str:
    if isinstance(error, OutOfMemoryError):
        return "Ray killed its worker because the node ran low on memory"
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"
