"""A real Ray cluster of several nodes on this machine, whose processes can be killed one by one."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featurestore import failpoints
from tests.chaos.harness import ROOT, Bench, HarnessError, read_log

SUBMISSIONS = 4
JOB_SECONDS = 180.0
_POLL_SECONDS = 0.02
_NODE = {"num_cpus": 1, "object_store_memory": 100 * 1024**2, "node_ip_address": "127.0.0.1"}


@dataclass
class Nodes:
    """A head without processors, and nodes with one each, so that every node gets one actor.

    Parameters
    ----------
    cluster : ray.cluster_utils.Cluster
    """

    cluster: Any
    workers: list[Any] = field(default_factory=list)

    def add(self) -> Any:
        """Start one more node."""
        self.workers.append(self.cluster.add_node(**_NODE))
        return self.workers[-1]

    def raylet(self, node: Any) -> int:
        """Return the process id of a node's raylet."""
        return int(node.all_processes["raylet"][0].process.pid)

    def node_of(self, pid: int) -> Any:
        """Return the node whose raylet is the parent of a worker process."""
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return next(node for node in self.workers if self.raylet(node) == parent)

    def replace(self, node: Any) -> None:
        """Clear away what is left of a node, and start another."""
        self.cluster.remove_node(node, allow_graceful=False)
        self.workers.remove(node)
        self.add()


@contextmanager
def ray_nodes(count: int, **settings: object) -> Iterator[Nodes]:
    """Start a cluster whose token only this process and its children know, and stop it again.

    Parameters
    ----------
    count : int
        Nodes beside the head.
    **settings
        Ray's own, such as ``health_check_period_ms``.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    # Ray would turn 127.0.0.1 into an address that others can reach; where it has no clusters, it leaves it alone.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    from ray.cluster_utils import Cluster

    head = {**_NODE, "num_cpus": 0, "include_dashboard": False, "_system_config": settings}
    nodes = Nodes(Cluster(initialize_head=True, head_node_args=head))
    try:
        for _ in range(count):
            nodes.add()
        yield nodes
    finally:
        nodes.cluster.shutdown()


@dataclass
class Job:
    """`cxr extract` against a cluster, in a process of its own.

    Parameters
    ----------
    bench : Bench
    nodes : Nodes
    store : Path
    log : Path
        Of its failpoint.
    """

    bench: Bench
    nodes: Nodes
    store: Path
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def submit(self, role: str = "", point: str = "", signal_name: str = "SIGKILL") -> None:
        """Start it; ``role`` (actor or driver) is to reach ``point``, and nobody else can."""
        environment = dict(os.environ)
        variables = {
            failpoints.POINT: point, failpoints.LOG: str(self.log), failpoints.ROLE: role,
            failpoints.SIGNAL: signal_name,
        }  # fmt: skip
        if role == "actor":
            # What the cluster gives to every worker of this job, and to nobody else; the driver does not see it.
            config = {"runtime_env": {"env_vars": variables}}
            environment["RAY_JOB_CONFIG_JSON_ENV_VAR"] = json.dumps(config)
        elif role == "driver":
            environment |= variables
        command = [str(Path(sys.executable).parent / "cxr"), *self.bench.arguments(self.store, 4)]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--address", self.nodes.cluster.address],
                cwd=ROOT, env=environment, stdout=output, stderr=output,
            )  # fmt: skip

    @property
    def output(self) -> Path:
        """Return where it says what it does."""
        return self.log.with_suffix(".out")

    def wait_for_log(self) -> dict[str, object]:
        """Return what the failpoint wrote, once it did."""
        self.wait_until(lambda: bool(self.log.exists() and self.log.read_text()))
        return read_log(self.log) or {}

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Wait for something that has to happen while the job runs."""
        deadline = time.monotonic() + JOB_SECONDS
        while not happened():
            if time.monotonic() > deadline or self.process.poll() not in (None, -signal.SIGKILL):
                self.stop()
                message = f"what a kill was waiting for never happened: {self.output.read_text()}"
                raise HarnessError(message)
            time.sleep(_POLL_SECONDS)

    def wait(self) -> int:
        """Return its exit code."""
        try:
            return self.process.wait(JOB_SECONDS)
        except subprocess.TimeoutExpired as error:
            self.stop()
            message = f"a job gave no answer in {JOB_SECONDS:.0f} s: {self.output.read_text()}"
            raise HarnessError(message) from error

    def stop(self) -> None:
        """End it, if it has not ended."""
        self.process.kill()
        self.process.wait()

    def run_until_done(self) -> None:
        """Submit the command, a few times if it must be, until it says that nothing is left."""
        for _ in range(SUBMISSIONS):
            self.submit()
            if self.wait() == 0:
                return
        message = f"not done after {SUBMISSIONS} submissions: {self.output.read_text()}"
        raise HarnessError(message)
