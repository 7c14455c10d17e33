"""`cxr` as a process of its own: what it loads, what it does on Ctrl-C, and the same numbers with Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featurestore.store import Store

CXR = str(Path(sys.executable).parent / "cxr")
HEAVY = {"torch", "timm", "ray", "pyarrow", "duckdb", "deltalake", "sklearn", "scipy", "lightgbm", "matplotlib"}
NETWORK = ("--backbones", "densenet121", "--weights", "random:0", "--size", "32")


def _modules_after(*arguments: str) -> set[str]:
    code = f"import sys; from jobs.cli.main import run; run({list(arguments)!r}); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("command", [(), ("ingest",), ("extract",), ("train",), ("run",), ("sql",)])
def test_help_loads_nothing_heavy(command: tuple[str, ...]) -> None:
    assert not HEAVY & _modules_after(*command, "--help")


def test_sql_loads_no_network_no_forest_and_no_ray(walked: Any) -> None:
    loaded = _modules_after("sql", "SELECT count(*) FROM images", "--store", str(walked.store))
    assert not {"torch", "timm", "ray", "sklearn", "scipy", "lightgbm", "matplotlib"} & loaded


def test_help_lists_every_command_with_a_sentence() -> None:
    done = subprocess.run([CXR, "--help"], capture_output=True, text=True, check=True)
    listed = dict(line.split(maxsplit=1) for line in done.stdout.partition("Commands:\n")[2].splitlines())
    order = "ingest plan extract why weights pretrain split leakage train finetune evaluate report sql similar"
    assert list(listed) == [*order.split(), "verify", "forget", "compact", "run", "demo"]
    assert all(len(sentence) > 20 for sentence in listed.values())
    assert done.stderr == ""


def test_version() -> None:
    done = subprocess.run([CXR, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("cxr, version ")


@pytest.fixture
def noise(tmp_path: Path, cxr: Callable[..., Any]) -> Path:
    """Ingest 192 pictures of noise, three shards of extraction."""
    rng = np.random.default_rng(0)
    for k in range(192):
        Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)).save(tmp_path / f"{k}.png")
    (tmp_path / "noise.csv").write_text("path\n" + "".join(f"{k}.png\n" for k in range(192)))
    about = ("--dataset", "noise", "--image-column", "path", "--store", tmp_path / "store")
    assert cxr("ingest", "csv", tmp_path / "noise.csv", *about).code == 0
    return tmp_path / "store"


def _stored(store: Path) -> list[str]:
    rows: list[str] = Store(store).query("SELECT image_id FROM embeddings")["image_id"].to_pylist()
    return rows


@pytest.mark.slow
@pytest.mark.chaos
def test_ctrl_c_keeps_what_was_committed_and_says_how_to_go_on(noise: Path, cxr: Callable[..., Any]) -> None:
    arguments = ["extract", "--dataset", "noise", *NETWORK, "--no-ray", "--store", str(noise)]
    process = subprocess.Popen([CXR, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not _stored(noise):
        assert process.poll() is None, "it ended before anything was committed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    kept = _stored(noise)
    assert process.returncode == 130
    assert out == ""
    assert "Interrupted. What was committed is kept; the same command goes on from there." in err
    assert "Traceback" not in err
    assert 0 < len(kept) < 192
    runs = Store(noise).query("SELECT status, counts FROM runs WHERE command = 'extract'").to_pylist()
    assert [(run["status"], json.loads(run["counts"])["written"]) for run in runs] == [("interrupted", len(kept))]
    again = cxr(*arguments, "--json")
    assert (again.code, again.json["written"], again.json["skipped"]) == (0, 192 - len(kept), len(kept))
    assert len(_stored(noise)) == len(set(_stored(noise))) == 192


@pytest.mark.slow
@pytest.mark.ray
def test_an_experiment_on_ray_gives_the_vectors_and_the_table_of_one_without(
    cxr: Callable[..., Any], tmp_path: Path
) -> None:
    experiment = ["run", "demo", "--json"]
    for change in (
        "extract.backbones=densenet121", "extract.size=32", "data.patients=12", "train.heads=[rf100]",
        "explain.head=rf100", "explain.images=2", "pretrain=null", "extract.weights=random:0", "finetune=null",
        "train.stacking=[]",
    ):  # fmt: skip
        experiment += ["--set", change]
    here, there = ([*experiment, "--store", f"{tmp_path}/{k}/store", "--out", f"{tmp_path}/{k}.html"] for k in "ab")
    alone, with_ray = cxr(*here, "--no-ray"), _run_watching_imports(there)
    assert (alone.code, with_ray.returncode) == (0, 0), with_ray.stderr
    assert "Traceback" not in with_ray.stderr
    # The driver plans, commits, fits and draws; only workers load torch, also for the explanation's feature maps.
    assert with_ray.stderr.splitlines()[-1] == "torch False, ray True"
    said = json.loads(with_ray.stdout)  # whatever Ray had to say went elsewhere
    assert said["forward_passes"] == alone.json["forward_passes"] > 0
    ids, X = Store(tmp_path / "a" / "store").matrix("densenet121")
    _, Y = Store(tmp_path / "b" / "store").matrix("densenet121", ids)
    assert np.abs(X - Y).max() <= 1e-5 * np.abs(X).max()
    assert _untimed(said["rows"]) == _untimed(alone.json["rows"])


def _run_watching_imports(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    code = (
        f"import sys; from jobs.cli.main import run; code = run({arguments!r}); "
        'print(f\'torch {"torch" in sys.modules}, ray {"ray" in sys.modules}\', file=sys.stderr); sys.exit(code)'
    )
    # As a user's shell would start it: what conftest sets for Ray is not there.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)


def _untimed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if not key.endswith("_seconds")} for row in rows]
