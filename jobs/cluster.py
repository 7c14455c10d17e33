"""Ray: a private local one by default, a running cluster by address."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from featurestore.errors import UsageError

_ADDRESS = re.compile(r"(ray://)?(?P<host>[^/\s]+):(?P<port>\d{1,5})")
_CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Resources:
    """What a cluster offers.

    Parameters
    ----------
    cpus, gpus : int
        Totals.
    cpus_per_node : int
        Of the smallest node that has any; a worker asks for no more than one node has.
    cpu_nodes : int
        Nodes with a CPU to offer.
    """

    cpus: int
    gpus: int
    cpus_per_node: int
    cpu_nodes: int = 1


@contextmanager
def ray_cluster(address: str | None = None) -> Iterator[Resources]:
    """Connect to ``address``, or start a Ray of this process's own, and leave it again at the end.

    A connection that is already open (a test's, a notebook's) is used and left open.

    Raises
    ------
    UsageError
        If nothing answers at ``address``.
    """
    _prepare_environment()
    if address:
        _check_answers(address)
    import ray

    if ray.is_initialized():
        yield _resources()
        return
    try:
        if address:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        else:
            ray.init(
                address="local",  # without it a Ray that somebody else runs on this machine would be joined
                num_cpus=os.cpu_count(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
                _node_ip_address="127.0.0.1",
                object_store_memory=256 * 1024**2,
            )
    except ConnectionError as error:
        message = f"--address {address!r}: no Ray cluster answers there ({error}); start one with ray start --head"
        raise UsageError(message) from error
    try:
        yield _resources()
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Try the port first: Ray would go on asking a dead address for ever."""
    if address == "auto":
        return
    match = _ADDRESS.fullmatch(address)
    if match is None:
        message = f"--address {address!r}: give HOST:PORT, ray://HOST:PORT, or auto for the cluster on this machine"
        raise UsageError(message)
    try:
        socket.create_connection((match["host"], int(match["port"])), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        message = f"--address {address!r}: no Ray cluster answers there ({error}); start one with ray start --head"
        raise UsageError(message) from error


def _prepare_environment() -> None:
    """Set what Ray reads from the environment: nothing leaves the machine, and tokens are on.

    Ray reads the authentication mode while it is imported. Where a caller imported it before, Ray's own default turns
    tokens on, with a warning.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would empty CUDA_VISIBLE_DEVICES of workers without a GPU, and warns unless told which behaviour is meant.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _resources() -> Resources:
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return Resources(
        cpus=int(sum(n.get("CPU", 0) for n in nodes)),
        gpus=int(sum(n.get("GPU", 0) for n in nodes)),
        cpus_per_node=min((int(n["CPU"]) for n in nodes if n.get("CPU", 0) >= 1), default=0),
        cpu_nodes=sum(n.get("CPU", 0) >= 1 for n in nodes),
    )
