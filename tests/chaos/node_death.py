"""Lose a node in mid-shard, let the job finish on the other one, then wake the lost node: what did its worker do?

Prints one JSON document. A process of its own: it forks first, and starts Ray afterwards.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.harness import Bench
from tests.chaos.on_ray import Job, ray_nodes
from tests.chaos.oracle import judge, pending

# Ray's own take 15 s and more to call a node dead.
FAST_DETECTION = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
_ZOMBIE_SECONDS = 20.0


def main() -> int:
    """Run the scene and print what was seen."""
    with tempfile.TemporaryDirectory(prefix="cxr-node-", ignore_cleanup_errors=True) as scratch:
        bench = Bench(Path(scratch))
        bench.prepare()
        seen = lose_a_node(bench)
    print(json.dumps(seen))
    return 0


def lose_a_node(bench: Bench) -> dict[str, object]:
    """Freeze a node whose worker is in a shard: to the cluster it is gone, and it knows nothing of that."""
    with ray_nodes(2, **FAST_DETECTION) as nodes:
        job = Job(bench, nodes, bench.new_store(), bench.folder / "node.log")
        job.submit("actor", "worker.after-infer", "SIGSTOP")
        worker = int(str(job.wait_for_log()["pid"]))
        raylet = nodes.raylet(nodes.node_of(worker))
        os.kill(raylet, signal.SIGSTOP)
        left = pending(job.store, bench.reference)
        code = job.wait()
        finished = judge(job.store, bench.reference)
        os.kill(worker, signal.SIGCONT)
        zombies = _wait_for_zombies(bench, job.store, len(finished.orphans))
        os.kill(raylet, signal.SIGCONT)
        after = judge(job.store, bench.reference)
        return {
            "pending_when_lost": left,
            "code": code,
            "clean": finished.clean,
            "zombie_files": zombies,
            "clean_after_zombie": after.clean,
            "said": job.output.read_text(),
        }


def _wait_for_zombies(bench: Bench, store: Path, before: int) -> int:
    """Return how many files the worker of the lost node writes once it goes on; at least those of one shard."""
    deadline = time.monotonic() + _ZOMBIE_SECONDS
    while (written := len(judge(store, bench.reference).orphans) - before) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    return written


if __name__ == "__main__":
    sys.exit(main())
