"""One plan in a process of its own: its seconds and its memory, as one JSON object on stdout."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from pathlib import Path

from featurestore.extraction.plan import PlannedSpec, make_plan
from featurestore.store import Store
from tests.benchmarks.synthetic import DATASET, SHARD, SPECS


def memory_mib(field: str) -> float:
    """Return a field of /proc/self/status, such as ``RssAnon`` or ``VmHWM``, in MiB."""
    (kib,) = re.findall(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(kib) / 1024


class AnonymousPeak(threading.Thread):
    """Watches RssAnon every 10 ms, of which the kernel keeps no peak."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mib = 0.0
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.01):
            self.mib = max(self.mib, memory_mib("RssAnon"))

    def stop(self) -> float:
        """Return the most that was seen."""
        self._done.set()
        self.join()
        return self.mib


def main(root: str) -> None:
    """Plan, and print what it took."""
    peak = AnonymousPeak()
    before, start = memory_mib("VmHWM"), time.perf_counter()
    peak.start()
    specs = [PlannedSpec(backbone, spec_id, 1024) for backbone, spec_id in SPECS]
    plan = make_plan(Store(root), DATASET, specs, shard_images=SHARD)
    seconds = time.perf_counter() - start
    figures = {
        "seconds": seconds,
        "cpu_seconds": time.process_time(),
        "rss_before_mib": before,
        "rss_mib": memory_mib("VmHWM"),
        "rss_anon_mib": peak.stop(),
        "pending": plan.pending_pairs,
        "images": plan.images,
        "files": len(plan.known_files),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1])
