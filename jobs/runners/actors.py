"""Ray actors, one pinned to each GPU (or one on each node without), fed two shards at a time (docs/adr/0004).

An actor runs its shards in the order they were sent. So when it dies, the oldest unfinished one was running: that one
is halved, until a single image remains that killed its worker twice and is rejected; the others are simply sent again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from featurestore.errors import HarmError, StoppedError
from featurestore.extraction.plan import Shard
from featurestore.extraction.worker_config import WorkerConfig
from jobs.cluster import Resources
from jobs.runners.outcome import Finished, Outcome, Poison, search

IN_FLIGHT = 2
MAX_DEATHS_IN_A_ROW = 20
_POLL_SECONDS = 1.0


@ray.remote
class ExtractActor:
    """Holds the networks on its device; torch is imported here and never in the driver."""

    def __init__(self, config: WorkerConfig) -> None:
        from featurestore.extraction.worker import Extractor

        self._extractor = Extractor(config)

    def describe(self) -> dict[str, str]:
        """Return where this actor runs; answers once the networks are loaded."""
        return self._extractor.describe()

    def run(self, shard: Shard) -> Any:
        """Run one shard; see `Extractor.run`."""
        return self._extractor.run(shard)


@dataclass
class _Worker:
    """One actor and the shards it was sent, oldest first."""

    actor: Any
    sent: deque[tuple[Any, Shard]] = field(default_factory=deque)
    busy_since: float = 0.0


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
    """

    def __init__(self, config: WorkerConfig, resources: Resources, deadline: float, actor: Any = ExtractActor) -> None:
        self._deadline = deadline
        self._actor = actor
        self._options, self._config = _actor_options(config, resources)
        self._again: deque[Shard] = deque()
        self._deaths_in_a_row = 0
        self._workers = [_Worker(self._start()) for _ in range(resources.gpus or resources.cpu_nodes)]

    def run(self, shards: Iterator[Shard]) -> Iterator[Outcome]:
        """Yield the outcome of every shard.

        Raises
        ------
        HarmError
            If a worker cannot be built at all.
        StoppedError
            If workers die without any shard ever finishing in between.
        """
        try:
            while self._feed(shards):
                heads = [worker.sent[0][0] for worker in self._workers if worker.sent]
                ray.wait(heads, num_returns=1, timeout=_POLL_SECONDS)
                for worker in self._workers:
                    yield from self._collect(worker)
        finally:
            for worker in self._workers:
                ray.kill(worker.actor)

    def _start(self) -> Any:
        return self._actor.options(**self._options).remote(self._config)

    def _feed(self, shards: Iterator[Shard]) -> bool:
        """Fill every worker's queue; return whether anything is under way."""
        for worker in self._workers:
            while len(worker.sent) < IN_FLIGHT and (shard := self._next(shards)):
                if not worker.sent:
                    worker.busy_since = time.monotonic()
                worker.sent.append((worker.actor.run.remote(shard), shard))
        return any(worker.sent for worker in self._workers)

    def _next(self, shards: Iterator[Shard]) -> Shard | None:
        return self._again.popleft() if self._again else next(shards, None)

    def _collect(self, worker: _Worker) -> Iterator[Outcome]:
        """Yield what this worker has finished; see to it if it died or hangs."""
        while worker.sent and ray.wait([worker.sent[0][0]], timeout=0)[0]:
            ref, shard = worker.sent[0]
            try:
                result = ray.get(ref)
            except RayTaskError as error:
                # The worker is alive and said what is wrong; the shard is searched for the image that causes it.
                worker.sent.popleft()
                yield from self._search(shard, _last_line(error))
                self._count_death(error)
            except RayActorError as error:
                yield from self._bury(worker, _last_line(error), error)
            else:
                worker.sent.popleft()
                self._deaths_in_a_row = 0
                yield Finished(shard, result)
            worker.busy_since = time.monotonic()
        if worker.sent and time.monotonic() - worker.busy_since > self._deadline:
            yield from self._bury(worker, f"no answer in {self._deadline:.0f} s", None)

    def _bury(self, worker: _Worker, reason: str, error: RayActorError | None) -> Iterator[Outcome]:
        """Replace a dead worker and search the shard that was running; the others are sent again as they are."""
        self._count_death(error)
        ray.kill(worker.actor)  # one that is only out of reach would keep its GPU
        _, guilty = worker.sent.popleft()
        self._again.extendleft(shard for _, shard in reversed(worker.sent))
        worker.sent.clear()
        worker.actor = self._start()
        yield from self._search(guilty, reason)

    def _search(self, shard: Shard, reason: str) -> Iterator[Outcome]:
        found = search(shard, reason)
        if isinstance(found, Poison):
            self._deaths_in_a_row = 0
            yield found
        else:
            self._again.extendleft(reversed(found))

    def _count_death(self, error: Exception | None) -> None:
        text = str(error or "")
        if "creation task" in text:
            message = f"a worker could not start: {_last_line(error)}"
            raise HarmError(message) from error
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row > MAX_DEATHS_IN_A_ROW:
            message = (
                f"workers failed {self._deaths_in_a_row} times in a row, last with: {_last_line(error)}; what was "
                "finished is stored: mend the cause and run the same command again"
            )
            raise StoppedError(message)


def _actor_options(config: WorkerConfig, resources: Resources) -> tuple[dict[str, Any], WorkerConfig]:
    """Return Ray's options for one actor, and the threads that fit them."""
    if resources.cpus < 1:
        message = "the cluster has no CPU for a worker now; start a worker node (min_workers), or use --no-ray"
        raise HarmError(message)
    if resources.gpus:
        cpus = max(1, resources.cpus // resources.gpus)
        return {"num_gpus": 1, "num_cpus": cpus}, replace(config, threads=cpus, decode_threads=cpus)
    cpus = resources.cpus_per_node
    return {"num_cpus": cpus}, replace(config, threads=cpus, decode_threads=cpus)


def _last_line(error: Exception | None) -> str:
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"
