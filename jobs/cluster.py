"""Ray: a private local one by default, a running cluster by address, and inside a submitted job that job's cluster."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from featurestore.errors import UsageError

_ADDRESS = re.compile(r"(ray://)?(?P<host>[^/\s]+):(?P<port>\d{1,5})")
_CONNECT_SECONDS = 10.0
_PRIVATE = "local"
_FROM_ENVIRONMENT = "RAY_ADDRESS"
"""Ray sets it inside a submitted job."""
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""What `ray job submit` was told, as Ray leaves it for the job's own ray.init."""
_PASSED_ON = ("OMP_WAIT_POLICY",)
"""What `cxr` sets for itself and its workers need too, on whatever machine they are."""


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
    cpus_per_gpu : int
        CPUs beside each GPU, on its own node, where they are fewest.
    """

    cpus: int
    gpus: int
    cpus_per_node: int
    cpu_nodes: int = 1
    cpus_per_gpu: int = 0


@contextmanager
def ray_cluster(address: str | None = None) -> Iterator[Resources]:
    """Connect to ``address``, or start a Ray of this process's own, and leave it again at the end.

    A connection that is already open (a test's, a notebook's) is used and left open.

    Parameters
    ----------
    address : str, optional
        ``HOST:PORT``, ``ray://HOST:PORT``, ``auto``, or ``local`` for a private one. Absent, it is what ``RAY_ADDRESS``
        says, as inside a job that was submitted to a cluster; without that, a private one.

    Raises
    ------
    UsageError
        If nothing answers at ``address``.
    """
    _prepare_environment()
    chosen = _Address.choose(address)
    chosen.check_answers()
    import ray

    if ray.is_initialized():
        yield _resources()
        return
    try:
        ray.init(log_to_driver=False, logging_level=logging.WARNING, **chosen.options())
    except ConnectionError as error:
        raise chosen.silent(error) from error
    try:
        yield _resources()
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class _Address:
    """Where Ray is, and who said so: ``--address`` or the environment."""

    value: str
    said_by: str

    @classmethod
    def choose(cls, given: str | None) -> _Address:
        from_environment = os.environ.get(_FROM_ENVIRONMENT)
        if given or not from_environment:
            return cls(given or _PRIVATE, "--address ")
        return cls(from_environment, f"{_FROM_ENVIRONMENT}=")

    @property
    def _remedy(self) -> str:
        alone = "give --address local to use this machine alone"
        return f"unset the variable, or {alone}" if "=" in self.said_by else alone

    def check_answers(self) -> None:
        """Try the port first: Ray would go on asking a dead address for ever."""
        if self.value in (_PRIVATE, "auto"):
            return
        match = _ADDRESS.fullmatch(self.value)
        if match is None:
            message = (
                f"{self.said_by}{self.value!r}: expected HOST:PORT or ray://HOST:PORT of a cluster's head, auto for "
                f"the cluster on this machine, or local for none; {self._remedy}"
            )
            raise UsageError(message)
        try:
            socket.create_connection((match["host"], int(match["port"])), timeout=_CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise self.silent(error) from error

    def silent(self, error: Exception) -> UsageError:
        """Return what to say where nothing answers."""
        message = (
            f"{self.said_by}{self.value!r}: no Ray cluster answers there ({error}); start one with ray start --head, "
            f"or {self._remedy}"
        )
        return UsageError(message)

    def options(self) -> dict[str, Any]:
        """Return what `ray.init` needs to be told."""
        if self.value != _PRIVATE:
            return {"address": self.value, "runtime_env": _runtime_env()}
        return {
            "address": _PRIVATE,  # without it a Ray that somebody else runs on this machine would be joined
            "num_cpus": os.cpu_count(),
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
            "object_store_memory": 256 * 1024**2,
        }


def _runtime_env() -> dict[str, Any]:
    """Return the environment that workers on other machines get from this process; a private Ray's inherit it.

    Ray refuses a variable that the job was submitted with a second time; that one is the user's, and stays.
    """
    submitted = json.loads(os.environ.get(_JOB_CONFIG, "{}")).get("runtime_env") or {}
    theirs = submitted.get("env_vars") or {}
    return {"env_vars": {name: os.environ[name] for name in _PASSED_ON if name in os.environ and name not in theirs}}


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
    with_gpu = [n for n in nodes if n.get("GPU", 0) >= 1]
    return Resources(
        cpus=int(sum(n.get("CPU", 0) for n in nodes)),
        gpus=int(sum(n["GPU"] for n in with_gpu)),
        cpus_per_node=min((int(n["CPU"]) for n in nodes if n.get("CPU", 0) >= 1), default=0),
        cpu_nodes=sum(n.get("CPU", 0) >= 1 for n in nodes),
        cpus_per_gpu=min((int(n.get("CPU", 0) // n["GPU"]) for n in with_gpu), default=0),
    )
