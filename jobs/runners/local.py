"""The same loop in this process: no server, nothing to configure."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from featurestore.errors import CxrError
from featurestore.extraction.plan import Shard
from featurestore.extraction.worker_config import WorkerConfig
from jobs.runners.outcome import Finished, Outcome, Poison, PoisonCount, search


def run_here(config: WorkerConfig, shards: Iterator[Shard]) -> Iterator[Outcome]:
    """Run shards one after the other on every core, or on the GPU, of this machine.

    A shard that raises is halved as with Ray; what kills the process ends the job, to be resumed by the same command.
    """
    from featurestore.extraction.worker import Extractor

    cores = os.cpu_count() or 1
    extractor = Extractor(replace(config, threads=cores, decode_threads=cores))
    again: deque[Shard] = deque()
    poisons = PoisonCount()
    while shard := again.popleft() if again else next(shards, None):
        try:
            result = extractor.run(shard)
        except (CxrError, OSError):
            raise  # not an image's fault: the disk, the store, the weights
        except Exception as error:  # noqa: BLE001 - whatever a network raises on a shard is searched for its image
            found = search(shard, f"{type(error).__name__}: {error}")
            if isinstance(found, Poison):
                poisons.found(found)
                yield found
            else:
                again.extendleft(reversed(found))
        else:
            poisons.finished()
            yield Finished(shard, result)
