"""A head node as `ray start` makes it, with a token of its own, and an end that takes every process along."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
START_SECONDS = 120.0
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Head:
    """A running head node.

    Parameters
    ----------
    folder : Path
        Everything Ray writes.
    gcs, dashboard : int
        Its ports, on 127.0.0.1.
    token : str
    """

    folder: Path
    gcs: int
    dashboard: int
    token: str

    @property
    def url(self) -> str:
        """Return where jobs are submitted."""
        return f"http://127.0.0.1:{self.dashboard}"

    @property
    def environment(self) -> dict[str, str]:
        """Return what a client's shell has set; nothing of this process's own Ray settings."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_") and k != "OMP_WAIT_POLICY"}
        return kept | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray would turn 127.0.0.1 into an address that others can reach; where it has no clusters, it leaves it.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }

    def run(self, *command: str, timeout: float = 300, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a client would, in the checkout."""
        return subprocess.run(
            command, cwd=ROOT, env=self.environment | variables, capture_output=True, text=True, timeout=timeout,
            check=False,
        )  # fmt: skip

    def submit(self, *entrypoint: str, runtime_env: str = "{}") -> subprocess.CompletedProcess[str]:
        """Run ``ray job submit --working-dir . -- ENTRYPOINT``."""
        where = ("--address", self.url, "--working-dir", ".", "--runtime-env-json", runtime_env)
        return self.run("ray", "job", "submit", *where, "--", *entrypoint)

    def get(self, path: str, token: str | None) -> tuple[int, str]:
        """Ask the dashboard; return status and text."""
        request = urllib.request.Request(self.url + path)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@contextmanager
def head_node(cpus: int = 2) -> Iterator[Head]:
    """Start a head node on free ports of 127.0.0.1, in a folder of its own; end all its processes, and only those."""
    # Short: the path of a Unix socket has at most 107 bytes, and Ray adds 80.
    folder = Path(tempfile.mkdtemp(prefix="cxr-ray-", dir="/tmp"))
    gcs, dashboard, client, agent = _free_ports(4)
    head = Head(folder, gcs, dashboard, secrets.token_hex(32))
    options = {
        "--node-ip-address": "127.0.0.1", "--port": gcs, "--dashboard-host": "127.0.0.1", "--dashboard-port": dashboard,
        "--ray-client-server-port": client, "--dashboard-agent-listen-port": agent, "--min-worker-port": 0,
        "--max-worker-port": 0, "--temp-dir": folder, "--num-cpus": cpus, "--object-store-memory": 100 * 1024**2,
    }  # fmt: skip
    words = [str(word) for option in options.items() for word in option]
    log = folder / "start.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(BIN / "ray"), "start", "--head", "--block", *words],
            env=head.environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        _wait_for(head, process, log)
        yield head
    finally:
        _end(process, folder)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(head: Head, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if head.get("/api/jobs/", head.token)[0] == 200:
                return
        except OSError:
            pass  # it does not listen yet
        time.sleep(_POLL_SECONDS)
    message = f"the head node did not start: {log.read_text()}"
    raise RuntimeError(message)


def _end(process: subprocess.Popen[bytes], folder: Path) -> None:
    """End the head and what it started; `ray stop` would end every other Ray on this machine too."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 20
    while (left := processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    for pid in left:
        os.kill(pid, signal.SIGKILL)


def processes_of(folder: Path) -> list[int]:
    """Return the processes that were started with this folder in their command line or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue  # it has just ended, or is somebody else's
        if str(folder).encode() in words:
            found.append(int(entry.name))
    return found


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
