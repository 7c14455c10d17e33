"""A store on S3 between which and the server somebody stands: answers that get lost, requests that are counted."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pytest

from featurestore.store import Store
from featurestore.store.checksums import damage
from featurestore.store.commit import Committer
from featurestore.store.compaction import compact
from featurestore.store.files import StagedFile, conform, stage
from featurestore.store.finding import images_of_patient
from featurestore.store.forgetting import Forgotten, forget
from featurestore.store.lease import writing
from featurestore.store.purge import purge
from featurestore.store.schema import TABLES

pytestmark = pytest.mark.slow


FORGETFUL = """
import re, select, socket, socketserver, sys
host, port = sys.argv[1].removeprefix("http://").split(":")
lost = set()

class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        with socket.create_connection((host, int(port))) as server:
            asked = b""
            while ready := select.select([self.request, server], [], [], 60)[0]:
                for source in ready:
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is self.request:
                        asked = data if re.match(rb"[A-Z]+ ", data) else asked
                        server.sendall(data)
                    elif (put := re.match(rb"PUT (\\S+/_delta_log/\\d+\\.json)", asked)) and put[1] not in lost:
                        lost.add(put[1])
                        print(put[1].decode(), flush=True)
                        return
                    else:
                        self.request.sendall(data)

socketserver.ThreadingTCPServer.daemon_threads = True
server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


COUNTING = """
import re, select, socket, socketserver, sys
host, port = sys.argv[1].removeprefix("http://").split(":")
count = 0

class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        global count
        with socket.create_connection((host, int(port))) as server:
            while ready := select.select([self.request, server], [], [], 60)[0]:
                for source in ready:
                    data = source.recv(65536)
                    if data == b"HOW MANY":
                        self.request.sendall(str(count).encode())
                    if not data or data == b"HOW MANY":
                        return
                    count += source is self.request and bool(re.match(rb"(GET|HEAD|PUT|POST|DELETE) /", data))
                    (server if source is self.request else self.request).sendall(data)

socketserver.ThreadingTCPServer.daemon_threads = True
server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@pytest.fixture
def requests_so_far(s3_server: str, python, monkeypatch) -> Iterator[Callable[[], int]]:
    """Put a server between that counts requests; return the question."""
    server = python(COUNTING, s3_server)
    port = int(server.stdout.readline())
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")

    def ask() -> int:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"HOW MANY")
            return int(connection.recv(100))

    yield ask
    server.terminate()
    server.communicate(timeout=10)


@pytest.fixture
def forgetful(s3_server: str, python, monkeypatch) -> Iterator[Callable[[], list[str]]]:
    """Put a server between that passes all on, but loses the first answer to each put of a version; return which.

    A process of its own: delta-rs holds the interpreter while it waits.
    """
    server = python(FORGETFUL, s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{int(server.stdout.readline())}")

    def stop() -> list[str]:
        server.terminate()
        return server.communicate(timeout=10)[0].split()

    yield stop
    stop() if server.poll() is None else None


def test_a_commit_whose_answer_was_lost_is_counted_once(s3_root, forgetful, label_rows):
    store = Store(s3_root)
    assert [store.append("labels", label_rows(ids)) for ids in (["a", "b"], ["b", "c"], ["a"])] == [2, 1, 0]
    rows = store.query("SELECT image_id FROM labels ORDER BY 1").to_pylist()
    assert [row["image_id"] for row in rows] == ["a", "b", "c"]
    assert [path[-7:-5] for path in forgetful()] == ["00", "01", "02"]  # the table's put, and two appends'


def test_a_merge_and_a_forgetting_whose_answers_were_lost_keep_every_live_file(
    s3_root, request, label_rows, vector_rows
):
    """delta-rs tries again, meets its own commit, and calls it another's: the files in it are live."""
    store = Store(s3_root)
    for image in "abcd":
        store.append("labels", label_rows([image]))
        store.append("embeddings", vector_rows([image], np.ones((1, 2), np.float32)))
    patients = {"image_id": list("abcd"), "dataset": ["demo"] * 4, "patient_id": ["p", "p", "q", "q"]}
    store.append("images", pa.table(patients))
    forgetful = request.getfixturevalue("forgetful")
    assert compact(store.location).files_after == 3
    person = Forgotten("demo", tuple(images_of_patient(store, "demo", "p")), "p")
    removed = forget(store, person)
    lost = forgetful()
    assert {table: sum(f"/{table}/" in path for path in lost) for table in ("labels", "embeddings", "images")} == {
        "labels": 2, "embeddings": 2, "images": 1
    }  # fmt: skip
    request.getfixturevalue("monkeypatch").undo()
    assert removed == {"labels": 2, "embeddings": 2, "images": 2}
    for table in ("labels", "embeddings", "images"):
        snapshot = store.snapshot(table)
        assert [damage(snapshot, file) for file in snapshot.files] == [None]
        rows = store.query(f"SELECT image_id FROM {table} ORDER BY 1")["image_id"].to_pylist()
        assert rows == ["c", "d"]
    assert purge(store).files > 0
    assert store.query("SELECT count(*) AS n FROM labels").to_pylist() == [{"n": 2}]


def test_a_commit_asks_no_more_the_longer_the_log_is(s3_root, requests_so_far, vector_rows):
    """It read the log's tail once for each spec: 438 requests for the sixtieth commit of seven."""
    store = Store(s3_root)
    committer = Committer(store.location, TABLES["embeddings"])
    asked: list[int] = []
    with writing(store.location):
        for k in range(16):
            files = [f for spec_id in ("s1", "s2", "s3") for f in _staged(store, spec_id, f"i{k}", vector_rows)]
            before = requests_so_far()
            assert committer.commit(files) == 3
            asked.append(requests_so_far() - before)
    assert max(asked[1:]) <= 16, asked
    assert max(asked[-4:]) <= max(asked[1:5]), asked


def _staged(store: Store, spec_id: str, image: str, vector_rows: Callable[..., pa.Table]) -> list[StagedFile]:
    spec = TABLES["embeddings"]
    rows = vector_rows([image], np.ones((1, 2), np.float32), spec_id=spec_id)
    return stage(store.location, spec, conform(rows, spec))
