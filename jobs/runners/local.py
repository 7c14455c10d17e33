"""The same loop in this process: no server, nothing to configure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

from featurestore.extraction.plan import Shard
from featurestore.extraction.worker_config import WorkerConfig
from jobs.runners.outcome import Finished, Outcome


def run_here(config: WorkerConfig, shards: Iterator[Shard]) -> Iterator[Outcome]:
    """Run shards one after the other on every core, or on the GPU, of this machine."""
    from featurestore.extraction.worker import Extractor

    cores = os.cpu_count() or 1
    extractor = Extractor(replace(config, threads=cores, decode_threads=cores))
    for shard in shards:
        yield Finished(shard, extractor.run(shard))
