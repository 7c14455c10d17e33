"""Fixtures every test may use."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import settings

# On shared cores one example in a thousand is slow for no reason of ours.
settings.register_profile("cxrstore", parent=settings.default, deadline=None)
settings.load_profile("cxrstore")

# Threads that wait must not spin on one of two cores; OpenMP reads this when torch or scikit-learn is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Ray reads these while it is imported.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

ROOT = Path(__file__).resolve().parent.parent
# Networks that tests compile stay out of the user's own cache.
os.environ.setdefault("CXR_CACHE", str(ROOT / "build" / "test-cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real radiographs beside the checkout; skip where it is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real radiographs are not on this machine (looked for ../shared/data beside the checkout)")
    return folder


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start moto's S3 server on 127.0.0.1, point the environment there, and return its address."""
    log = tmp_path_factory.mktemp("moto") / "log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        with pytest.MonkeyPatch.context() as patch:
            address = _wait_for_address(server, log)
            for name in [name for name in os.environ if name.startswith("AWS_")]:
                patch.delenv(name)
            nowhere = str(log.parent / "none")  # the person's own profiles stay out of the tests
            settings = {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                        "AWS_CONFIG_FILE": nowhere, "AWS_SHARED_CREDENTIALS_FILE": nowhere,
                        "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip
            for name, value in settings.items():
                patch.setenv(name, value)
            yield address
    finally:
        server.terminate()
        server.wait(10)


def _wait_for_address(server: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        found = re.search(r"Running on (http://127\.0\.0\.1:\d+)", log.read_text())
        if found:
            return found[1]
        time.sleep(0.05)
    message = f"moto's server did not start: {log.read_text()}"
    raise RuntimeError(message)


@pytest.fixture(scope="session")
def s3_client(s3_server: str):
    """Return boto3's client, which no code of ours uses."""
    import boto3

    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1")
    yield client
    client.close()


@pytest.fixture(scope="session")
def s3_bucket(s3_client) -> str:
    """Return the name of a bucket of this session's server."""
    name = f"bucket-{uuid.uuid4().hex}"
    s3_client.create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def find_words() -> Callable[[Path, Iterable[str]], dict[str, list[str]]]:
    """Return the search that decides whether somebody was forgotten; it shares no code with the store.

    It takes a folder and words, and returns the files that hold each word, in name or content. A byte grep sees nothing
    in zstd: Parquet, checkpoints included, is decoded with all its columns and its metadata.
    """

    def find(folder: Path, words: Iterable[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {word: [] for word in words}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = str(path.relative_to(folder))
            texts = [name, *_texts(path)]
            for word, places in found.items():
                if any(word in text for text in texts):
                    places.append(name)
        return found

    return find


def _texts(path: Path) -> Iterator[str]:
    content = path.read_bytes()
    yield content.decode("latin-1")
    if content[:4] == b"PAR1" and content[-4:] == b"PAR1":
        yield from (str(column.to_pylist()) for column in pq.ParquetFile(path).read().columns)
        yield str(pq.read_metadata(path).to_dict())
