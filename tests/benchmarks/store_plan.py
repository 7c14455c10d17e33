"""Planning 10,000 to a million images x 7 specs over uncompacted files, each plan in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.synthetic import Keys, write_keys
from tests.benchmarks.table import print_table


def bench_plan(folder: Path, most: int, plans: int) -> dict[str, float]:
    """Plan over stores of a hundredth, a tenth and all of ``most`` images, with and without the files in memory."""
    rows: list[dict[str, Any]] = []
    cold: list[dict[str, float]] = []
    warm: list[dict[str, float]] = []
    for images in (most // 100, most // 10, most):
        root = folder / f"keys-{images}"
        keys = write_keys(root, images)
        os.sync()  # only what is on disk can be dropped from memory
        cold, warm = [], []
        for _ in range(plans):
            _drop_from_memory(root)
            cold.append(_plan(root, keys))
            warm.append(_plan(root, keys))
        shutil.rmtree(root)
        rows += [_row(keys, "cold", cold), _row(keys, "warm", warm)]
    print_table("Plan of images x 7 specs; vectors of one number, since only keys are read", rows)
    return {
        "plan_1m_s": median(p["seconds"] for p in warm),
        "plan_1m_cold_s": median(p["seconds"] for p in cold),
        "plan_1m_cpu_s": median(p["cpu_seconds"] for p in warm),
        "plan_1m_rss_mib": max(p["rss_mib"] for p in cold + warm),
        "plan_1m_rss_anon_mib": max(p["rss_anon_mib"] for p in cold + warm),
    }


def _plan(root: Path, keys: Keys) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.plan_once", str(root)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    assert (figures["images"], figures["files"], figures["pending"]) == (keys.images, keys.files, keys.pending)
    return figures


def _drop_from_memory(root: Path) -> None:
    """Ask the kernel to forget the store's files, and nobody else's."""
    for path in root.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def _row(keys: Keys, state: str, plans: list[dict[str, float]]) -> dict[str, Any]:
    seconds = [p["seconds"] for p in plans]
    return {
        "images": keys.images,
        "files": keys.files,
        "pending pairs": keys.pending,
        "page cache": state,
        "median s": median(seconds),
        "range s": f"{min(seconds):.3g}-{max(seconds):.3g}",
        "CPU s": median(p["cpu_seconds"] for p in plans),
        "peak RSS MiB": max(p["rss_mib"] for p in plans),
        "of it anonymous": max(p["rss_anon_mib"] for p in plans),
        "RSS before": max(p["rss_before_mib"] for p in plans),
    }
