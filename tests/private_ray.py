"""A Ray for tests: of this process alone, on 127.0.0.1, gone with the block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ray

MIB = 1024**2


@contextmanager
def private_ray(*, gpus: int = 0, object_store_mib: int = 128) -> Iterator[None]:
    """Start a Ray of two CPUs, and of as many GPUs as are declared, there or not."""
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=gpus,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=object_store_mib * MIB,
    )
    try:
        yield
    finally:
        ray.shutdown()
