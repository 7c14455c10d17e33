"""Ray tasks that decode for the actors, where a GPU's own node has too few CPUs to keep it busy (docs/adr/0004).

Pixels go from the node that decoded them to the node that needs them, and never through the driver. A shard whose
decoding fails or kills its process goes to its actor like any other: the actor's call then fails with that reason, and
the shard is searched for the image as if the actor had failed on it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from featurestore.extraction.decode_pool import DecodedShard
from featurestore.extraction.plan import Shard, WorkItem
from featurestore.extraction.worker_config import WorkerConfig
from jobs.runners.shard_queue import Sent, ShardQueue


# Without retries: what killed a process would kill the next, and `search` has to see it.
@ray.remote(num_cpus=1, max_retries=0)
def decode(items: tuple[WorkItem, ...], preprocess: str, size: int) -> DecodedShard:
    """Decode one shard; see `decode_shard`."""
    from featurestore.extraction.decode_pool import decode_shard

    return decode_shard(items, preprocess, size)


@dataclass(frozen=True)
class _Decoding:
    """One shard, the reference its pixels will have, and since when."""

    shard: Shard
    ref: Any
    since: float


class DecodePool:
    """Keeps some shards decoded ahead of the actors, and no more: that bounds what lies in Ray's object store.

    Parameters
    ----------
    queue : ShardQueue
    config : WorkerConfig
    workers : int
        Shards that are being decoded, or are decoded and wait for an actor, at any time.
    deadline : float
        Seconds one shard may take.
    task : Ray remote function
        With the arguments of `decode`.
    """

    def __init__(
        self, queue: ShardQueue, config: WorkerConfig, workers: int, deadline: float, task: Any = decode
    ) -> None:
        self._queue, self._config, self._workers = queue, config, workers
        self._deadline, self._task = deadline, task
        self._running: list[_Decoding] = []
        self._done: deque[_Decoding] = deque()

    def put_back(self, shards: Sequence[Shard]) -> None:
        """Let these be the next; their pixels are made again."""
        self._queue.put_back(shards)

    def take(self) -> Sent | None:
        """Return a shard that is decoded, or could not be."""
        self._sort()
        taken = self._done.popleft() if self._done else None
        self._fill()
        return (taken.shard, (taken.ref,)) if taken else None

    def any_left(self) -> bool:
        """Return whether a shard is still on its way to an actor."""
        return bool(self._running or self._done) or self._queue.any_left()

    def awaited(self) -> list[Any]:
        """Return what has to finish before `take` has more."""
        return [one.ref for one in self._running]

    def overdue(self) -> list[Shard]:
        """Stop, remove and return what takes longer than the deadline."""
        self._sort()
        late = [one for one in self._running if time.monotonic() - one.since > self._deadline]
        for one in late:
            ray.cancel(one.ref, force=True)
        self._running = [one for one in self._running if one not in late]
        return [one.shard for one in late]

    def _fill(self) -> None:
        while len(self._running) + len(self._done) < self._workers and (item := self._queue.take()):
            shard, _ = item
            ref = self._task.remote(shard.items, self._config.preprocess, self._config.size)
            self._running.append(_Decoding(shard, ref, time.monotonic()))

    def _sort(self) -> None:
        """Move what has finished from the running to the done, the oldest first."""
        if not self._running:
            return
        refs = self.awaited()
        # fetch_local would bring the pixels to the driver's node.
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
        finished = set(ready)
        self._done.extend(one for one in self._running if one.ref in finished)
        self._running = [one for one in self._running if one.ref not in finished]
