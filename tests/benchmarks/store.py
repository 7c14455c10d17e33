"""`make bench-store`: ours beside plain pyarrow, plain deltalake and plain DuckDB on the same files, in the same order.

Two threads for every arm; every round runs every arm; nothing is written over what is measured next. Prints tables,
writes build/bench/store.json.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

THREADS = 2
# Before anything counts cores: DuckDB, Arrow and delta-rs take as many threads as the process may use.
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])

from tests.benchmarks.store_plan import bench_plan  # noqa: E402
from tests.benchmarks.store_vectors import bench_append, bench_cosine, bench_matrix, write_vectors  # noqa: E402
from tests.benchmarks.table import FOLDER, print_table, write_json  # noqa: E402

TARGETS = {
    "matrix_over_pyarrow": ("at least", 0.9),
    "cosine_sql_over_duckdb": ("at most", 1.1),
    "cosine_cached_over_sql": ("at least", 4.0),
    "plan_1m_s": ("at most", 10.0),
    "plan_1m_rss_mib": ("at most", 1024.0),
}


def main() -> int:
    """Run all parts, print their tables, write their numbers."""
    options = _options()
    load = os.getloadavg()[0]
    figures: dict[str, float] = {"scale": options.scale, "threads": THREADS, "load_before": load}
    images = round(100_000 * options.scale)
    with _scratch() as folder:
        figures |= bench_append(folder, images, options.repeats)
        store = write_vectors(folder / "vectors", images)
        figures |= bench_matrix(store, options.repeats)
        figures |= bench_cosine(store, options.repeats)
        shutil.rmtree(folder / "vectors")
        figures |= bench_plan(folder, round(1_000_000 * options.scale), options.plans)
    print_table("Targets", list(_judged(figures)))
    write_json("store", figures)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of all sizes; below 1 to try the program itself")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--plans", type=int, default=3, help="processes each for cold and warm")
    return parser.parse_args()


@contextmanager
def _scratch() -> Iterator[Path]:
    folder = FOLDER.absolute() / "tmp" / f"store-{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _judged(figures: dict[str, float]) -> Iterator[dict[str, object]]:
    for name, (bound, target) in TARGETS.items():
        reached = figures[name] >= target if bound == "at least" else figures[name] <= target
        yield {"figure": name, "measured": figures[name], "target": f"{bound} {target:g}", "reached": reached}


if __name__ == "__main__":
    sys.exit(main())
