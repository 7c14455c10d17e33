"""How much memory the driver of an extraction needs: many tiny images, a tiny network, `cxr extract` through Ray.

Prints a table; `--json FILE` gets one flat object. Exits with 1 where the driver needs more than `LIMIT_MIB`, loaded
torch, or did not store every image.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
LIMIT_MIB = 512.0
_SIDE = 16
_POLL_SECONDS = 0.1
_RSS_ANON = re.compile(r"^RssAnon:\s+(\d+) kB$", re.MULTILINE)


def main() -> int:
    """Measure, print, write."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="cxr-driver-", dir=options.folder, ignore_cleanup_errors=True) as scratch:
        result = measure(Path(scratch), options.images, options.shard_images)
    print(table(result))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if result["ok"] else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--shard-images", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="where the store is made, and removed again")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(folder: Path, images: int, shard_images: int) -> dict[str, Any]:
    """Ingest and extract in processes of their own, and watch the second one."""
    seconds, start = {}, time.monotonic()
    write_images(folder / "tiny.npz", images)
    seconds["write"], start = time.monotonic() - start, time.monotonic()
    about = ["--store", str(folder / "store"), "--dataset", "tiny", "--json"]
    ingest = Watched(["ingest", "medmnist", str(folder / "tiny.npz"), *about], folder / "ingest")
    seconds["ingest"], start = time.monotonic() - start, time.monotonic()
    network = ["--backbones", "tests.tiny:TINY", "--weights", "random:0", "--size", "32"]
    extract = Watched(["extract", *network, "--shard-images", str(shard_images), *about], folder / "extract")
    seconds["extract"] = time.monotonic() - start
    peak = round(extract.peak_mib, 1)
    return {
        "driver_rss_anon_mib": peak,
        "ingest_rss_anon_mib": round(ingest.peak_mib, 1),
        "images": images,
        "shard_images": shard_images,
        "written": extract.said["written"],
        "driver_loaded_torch": extract.loaded_torch,
        "ok": peak < LIMIT_MIB and not extract.loaded_torch and extract.said["written"] == images,
        **{f"{stage}_s": round(value, 1) for stage, value in seconds.items()},
        **stages(folder / "store"),
        "growth_mib": extract.growth(),
    }


def write_images(path: Path, images: int) -> None:
    """Write a MedMNIST file of noise: the cheapest source there is, one file whatever the number."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, count in (("train", images - images // 10), ("val", 0), ("test", images // 10)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, _SIDE, _SIDE), np.uint8)
        arrays[f"{part}_labels"] = rng.integers(0, 2, (count, 1))
    np.savez(path, **arrays)


class Watched:
    """`cxr` in a process of its own, its memory sampled until it ends.

    Parameters
    ----------
    arguments : list of str
    files : Path
        Its output goes beside here.

    Attributes
    ----------
    said : dict
        What it printed.
    loaded_torch : bool
    samples : list of (seconds, MiB)
        RssAnon of that process alone, as the kernel counts it.
    """

    def __init__(self, arguments: list[str], files: Path) -> None:
        code = (
            f"import sys; from jobs.cli.main import run; code = run({arguments!r}); "
            "print('torch' in sys.modules, file=sys.stderr); sys.exit(code)"
        )
        out, err = files.with_suffix(".out"), files.with_suffix(".err")
        self.samples: list[tuple[float, float]] = []
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=stdout, stderr=stderr)
            self._watch(process)
        if process.returncode:
            message = f"cxr {arguments[0]} ended with {process.returncode}: {err.read_text()[-2000:]}"
            raise RuntimeError(message)
        self.said: dict[str, Any] = json.loads(out.read_text())
        self.loaded_torch = err.read_text().splitlines()[-1] != "False"

    @property
    def peak_mib(self) -> float:
        """Return the largest sample."""
        return max(mib for _, mib in self.samples)

    def growth(self) -> list[float]:
        """Return the largest sample of each tenth of the time, MiB."""
        last = self.samples[-1][0]
        tenths: list[float] = [0.0] * 10
        for seconds, mib in self.samples:
            place = min(9, int(10 * seconds / last))
            tenths[place] = max(tenths[place], round(mib, 1))
        return tenths

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        start = time.monotonic()
        while process.poll() is None:
            mib = rss_anon_mib(process.pid)
            if mib is not None:
                self.samples.append((time.monotonic() - start, mib))
            time.sleep(_POLL_SECONDS)


def rss_anon_mib(pid: int) -> float | None:
    """Return a process's anonymous resident memory; None where it has ended."""
    try:
        found = _RSS_ANON.search(Path(f"/proc/{pid}/status").read_text())
    except FileNotFoundError:
        return None
    return int(found[1]) / 1024 if found else None


def stages(store: Path) -> dict[str, float]:
    """Return the run log's own seconds of the extraction."""
    from featurestore.store import Store

    (row,) = Store(store).query("SELECT seconds FROM runs WHERE command = 'extract'").to_pylist()
    return {f"extract_{k}_s": round(v, 1) for k, v in json.loads(row["seconds"]).items() if isinstance(v, float)}


def table(result: dict[str, Any]) -> str:
    """Return the numbers for a person."""
    rows = [f"{name:24} {value}" for name, value in result.items()]
    return "\n".join([*rows, f"limit: {LIMIT_MIB:.0f} MiB on {os.cpu_count()} cores"])


if __name__ == "__main__":
    sys.exit(main())
