"""A store to kill extractions in, and a prepared process that starts them by forking.

Importing torch takes seconds, so this process imports everything once and runs nothing itself: no DuckDB, no deltalake,
no thread of torch, none of which would survive a fork. Every trial is a forked child that runs `cxr` like a process of
its own, and dies like one.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Never

from featurestore import failpoints
from jobs.cli.main import run
from tests.chaos.oracle import keys, rows

ROOT = Path(__file__).resolve().parents[2]
IMAGES = 24
"""Beside one that breaks after it was ingested: no pair of it is ever stored."""
PAIRS = 2 * IMAGES
REJECTED = 2
BACKBONES = "tests.tiny:TINY,tests.tiny:SECOND"
SCORES = ("Edema", "Fracture")
TRIAL_SECONDS = 120.0
_POLL_SECONDS = 0.005


class HarnessError(Exception):
    """The harness itself failed: nothing that it would report could be trusted."""


@dataclass(frozen=True)
class Trial:
    """One process that runs `cxr extract`, perhaps to die on the way.

    Parameters
    ----------
    pid : int
    log, output : Path
        What its failpoint wrote, and what it said.
    """

    pid: int
    log: Path
    output: Path

    def wait(self) -> int:
        """Return the exit code, -9 where it was killed; a process that hangs is an error."""
        deadline = time.monotonic() + TRIAL_SECONDS
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(_POLL_SECONDS)
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        message = f"a trial gave no answer in {TRIAL_SECONDS:.0f} s: {self.output.read_text()}"
        raise HarnessError(message)

    def died_at(self, point: str) -> bool:
        """Wait; return True where the process died at that failpoint, False where it finished."""
        code = self.wait()
        if code == -9 and read_log(self.log) == {"role": "process", "name": point, "pid": self.pid}:
            return True
        if code == 0 and not self.log.exists():
            return False
        message = f"a trial for {point} ended with {code} and the log {read_log(self.log)}: {self.output.read_text()}"
        raise HarnessError(message)


def read_log(log: Path) -> dict[str, object] | None:
    """Return what a failpoint wrote, None where nobody died."""
    return json.loads(log.read_text()) if log.exists() else None


@dataclass
class Bench:
    """Everything a campaign shares, under one folder.

    Parameters
    ----------
    folder : Path
        Becomes full of stores.
    """

    folder: Path
    _made: int = field(default=0)

    def __post_init__(self) -> None:
        self.template, self.reference = self.folder / "template", self.folder / "reference"
        self.weights = self.folder / "weights"

    def prepare(self) -> None:
        """Write images and weights, ingest them, and let one extraction run undisturbed."""
        _import_once()
        _check(self._fork(lambda: write_inputs(self.folder)))
        _check(self._fork(self._ingest))
        _break_one(self.template)
        shutil.copytree(self.template, self.reference)
        _check(self.extract(self.reference))
        found = {table: len(keys(self.reference, table)) for table in ("embeddings", "scores", "rejects")}
        if found != {"embeddings": PAIRS, "scores": IMAGES * len(SCORES), "rejects": 1}:
            message = f"the undisturbed run stored {found} of {PAIRS} pairs; there is nothing to compare with"
            raise HarnessError(message)

    def new_store(self, source: Path | None = None) -> Path:
        """Return a copy of a store, by default of one that holds the images and nothing else."""
        self._made += 1
        store = self.folder / f"store{self._made}"
        shutil.copytree(source or self.template, store)
        return store

    def extract(self, store: Path, point: str = "", shard_images: int = 4) -> Trial:
        """Start an extraction that is to die at ``point``."""
        arguments = self.arguments(store, shard_images)
        return self._fork(lambda: run([*arguments, "--no-ray"]), point)

    def start(self, store: Path, arguments: Sequence[str], point: str = "") -> Trial:
        """Start another command that is to die at ``point``."""
        return self._fork(lambda: run([*arguments, "--store", str(store)]), point)

    def arguments(self, store: Path, shard_images: int) -> list[str]:
        """Return the command line of every extraction here."""
        wanted = {
            "--store": store,
            "--dataset": "chaos",
            "--backbones": BACKBONES,
            "--weights": self.weights,
            "--size": 32,
            "--shard-images": shard_images,
        }
        return ["extract", *(str(word) for option in wanted.items() for word in option)]

    def _ingest(self) -> int:
        table = str(self.folder / "images" / "chaos.csv")
        columns = ["--patient-column", "patient", "--labels", "Edema"]
        return run(["ingest", "csv", table, "--dataset", "chaos", *columns, "--store", str(self.template)])

    def _fork(self, function: Callable[[], int | None], point: str = "") -> Trial:
        self._made += 1
        log, output = self.folder / f"{self._made}.log", self.folder / f"{self._made}.out"
        pid = os.fork()
        if pid == 0:
            _be_child(function, point, log, output)
        return Trial(pid, log, output)


def _import_once() -> None:
    """Import what every child would: torch, and pandas, which Arrow loads where it is installed."""
    commands = ("jobs.cli.extract", "jobs.extract", "jobs.estimate", "jobs.compact", "jobs.forget")
    for name in ("featurestore.extraction.worker", *commands, "pandas"):
        if name != "pandas" or find_spec(name):
            import_module(name)


def _be_child(function: Callable[[], int | None], point: str, log: Path, output: Path) -> Never:
    """Run ``function`` and end this process with what it returns, whatever happens."""
    code = 70
    try:
        os.chdir(ROOT)  # where tests.tiny is found
        os.cpu_count = lambda: 1  # two trials may run at a time, on two cores
        file = os.open(output, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ |= {failpoints.POINT: point, failpoints.LOG: str(log)}
        code = function() or 0
    except BaseException:  # noqa: BLE001 - it is printed, and the exit code says that something failed
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _check(trial: Trial) -> None:
    if (code := trial.wait()) != 0:
        message = f"the campaign could not be prepared ({code}): {trial.output.read_text()}"
        raise HarnessError(message)


def _break_one(store: Path) -> None:
    """Cut the image short that the first shard begins with: every extraction has to reject it."""
    first = min(rows(store / "images"), key=lambda row: str(row["image_id"]))
    path = Path(str(first["uri"]))
    path.write_bytes(path.read_bytes()[:100])


def write_inputs(folder: Path) -> None:
    """Write 25 small phantoms with their table, and weights for two networks, one of them with a head for scores."""
    import torch
    from safetensors.torch import save_file

    from featurestore.backbones.network import load_network
    from featurestore.backbones.weights import WeightsRequest
    from featurestore.images.phantoms import write_phantoms
    from tests.tiny import SECOND, TINY

    images, weights = folder / "images", folder / "weights"
    write_phantoms(images, patients=IMAGES, seed=3, hospital="a", fmt="png", size=64)
    lines = (images / "phantom.csv").read_text().splitlines(keepends=True)
    (images / "chaos.csv").write_text("".join(lines[: IMAGES + 2]))
    weights.mkdir()
    for spec in (TINY, SECOND):
        state = load_network(spec, WeightsRequest("random", seed=0)).network.features.state_dict()
        if spec is TINY:
            torch.manual_seed(0)
            head = torch.nn.Linear(spec.n_features, len(SCORES))
            state |= {"cxr_head.weight": head.weight.detach(), "cxr_head.bias": head.bias.detach()}
        labels = {"labels": json.dumps(SCORES)}
        save_file({k: v.contiguous() for k, v in state.items()}, weights / f"{spec.name}.safetensors", labels)
