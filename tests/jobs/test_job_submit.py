"""`ray job submit --working-dir . -- cxr extract ...` against a real head node: its token, its code, its workers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from featurestore.store import Store
from tests.jobs.ray_head import BIN, Head, head_node, processes_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NETWORK = ("--backbones", "tests.tiny:TINY", "--size", "32", "--shard-images", "8")


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with head_node() as started:
        yield started
    assert processes_of(started.folder) == []


def _workers(head: Head) -> int:
    """Return how many extraction actors the cluster has seen."""
    _, text = head.get("/api/v0/actors?limit=1000&detail=1", head.token)
    rows = json.loads(text)["data"]["result"]["result"]
    return sum(row["class_name"] == "ExtractActor" for row in rows)


def _extract(head: Head, store: Store, *more: str) -> tuple[int, str]:
    command = ("cxr", "extract", "--dataset", "demo", *NETWORK, "--store", store.uri, *more)
    done = head.submit(*command)
    return done.returncode, done.stdout + done.stderr


def _answer(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("SAID ")]
    return line.removeprefix("SAID ")


def test_without_the_token_nobody_gets_in(head: Head) -> None:
    assert head.get("/api/jobs/", None)[0] == 401
    assert head.get("/api/jobs/", "0" * 64)[0] == 403
    assert head.get("/api/jobs/", head.token)[0] == 200
    refused = head.run("ray", "job", "list", "--address", head.url, RAY_AUTH_TOKEN="0" * 64)
    assert refused.returncode != 0
    assert "Invalid authentication token" in refused.stdout + refused.stderr


def test_the_checkout_travels_without_data_and_is_what_runs(head: Head) -> None:
    code = (
        "import json, os, pathlib, sys, jobs; here = pathlib.Path.cwd(); "
        "files = [p for p in here.rglob('*') if p.is_file()]; "
        "print('SAID', json.dumps({'cwd': str(here), 'jobs': jobs.__file__, 'python': sys.executable, "
        "'bytes': sum(p.stat().st_size for p in files), 'names': sorted(p.name for p in here.iterdir())}))"
    )
    said = json.loads(_answer(head.submit("python", "-c", code)))
    assert Path(said["python"]).parent == BIN
    assert said["cwd"].startswith(str(head.folder))
    assert said["jobs"] == f"{said['cwd']}/jobs/__init__.py"
    assert {"featurestore", "jobs", "pyproject.toml"} <= set(said["names"])
    assert not {".git", ".venv", "build", "demo", "store"} & set(said["names"])
    assert said["bytes"] < 10e6


def test_inside_a_job_cxr_uses_the_cluster_it_runs_in(head: Head, ingested: Store) -> None:
    images = len(ingested.query("SELECT image_id FROM images"))
    before = _workers(head)
    code, said = _extract(head, ingested, "--weights", "random:0")
    assert code == 0, said
    assert f"{images} written, 0 skipped, 0 rejected, 0 lost" in said
    assert _workers(head) == before + 1
    code, said = _extract(head, ingested, "--weights", "random:1", "--address", "auto")
    assert code == 0, said
    assert f"{images} written, 0 skipped, 0 rejected, 0 lost" in said
    assert _workers(head) == before + 2
    rows = ingested.query("SELECT spec_id, count(DISTINCT image_id) AS n FROM embeddings GROUP BY ALL").to_pylist()
    assert [row["n"] for row in rows] == [images, images]


ASK = """
import os, sys
from jobs.cli.main import run
run(["--version"])
from jobs.cluster import ray_cluster
with ray_cluster(*sys.argv[1:]):
    import ray
    class Asked:
        def setting(self):
            return os.environ.get("OMP_WAIT_POLICY")
    task = ray.remote(lambda: os.environ.get("OMP_WAIT_POLICY"))
    print("SAID", ray.get([ray.remote(Asked).remote().setting.remote(), task.remote()]))
"""


def test_workers_of_a_driver_by_address_wait_passively_unless_told_otherwise(head: Head) -> None:
    python, address = str(BIN / "python"), f"127.0.0.1:{head.gcs}"
    assert _answer(head.run(python, "-c", ASK, address)) == "['PASSIVE', 'PASSIVE']"
    assert _answer(head.run(python, "-c", ASK, address, OMP_WAIT_POLICY="ACTIVE")) == "['ACTIVE', 'ACTIVE']"


def test_workers_of_a_job_wait_passively_unless_it_was_submitted_otherwise(head: Head) -> None:
    assert _answer(head.submit("python", "-c", ASK)) == "['PASSIVE', 'PASSIVE']"
    active = json.dumps({"env_vars": {"OMP_WAIT_POLICY": "ACTIVE"}})
    assert _answer(head.submit("python", "-c", ASK, runtime_env=active)) == "['ACTIVE', 'ACTIVE']"


def test_a_job_that_fails_says_so(head: Head, ingested: Store) -> None:
    code, said = _extract(head, ingested, "--weights", "nowhere.safetensors")
    assert code == 1
    assert "nowhere.safetensors" in said
