"""What only S3 has: addresses, credentials, servers that do not answer, writers at once."""

from __future__ import annotations

import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

import featurestore
from featurestore.errors import UsageError
from featurestore.store import Store
from featurestore.store.duckdb_s3 import ExactObjects
from featurestore.store.location import Location

pytestmark = pytest.mark.slow

PLACES = ["a b", "it's", 'dq"x', "x%zz", "größe 日本", "[x]", "s*r", "x=1", "a;b", "{a}", "a+b&c", "~$x"]


@pytest.mark.parametrize("place", PLACES)
def test_a_store_works_at_any_prefix_and_writes_nowhere_else(s3_root, s3_client, place, vector_rows):
    store = Store(f"{s3_root}/{place}/store")
    store.append("specs", pa.table({"spec_id": ["s1"], "backbone": ["vgg16"], "n_features": pa.array([2], pa.int32())}))
    store.append("embeddings", vector_rows(["a"], np.array([[1, 2]])))
    assert store.append("embeddings", vector_rows(["a", "b"], np.array([[1, 2], [1, 2]]))) == 1
    assert store.query("SELECT count(*) AS n FROM embeddings WHERE backbone = 'vgg16'").to_pylist() == [{"n": 2}]
    store.append("images", pa.table({"image_id": ["a"]}))
    with featurestore.connect(f"{s3_root}/{place}/store/") as con:
        assert con.sql("SELECT image_id, embedding FROM vgg16 ORDER BY 1").fetchall() == [
            ("a", (1.0, 2.0)),
            ("b", (1.0, 2.0)),
        ]
    assert store.matrix("vgg16")[1].tolist() == [[1.0, 2.0]] * 2
    bucket, _, prefix = s3_root.removeprefix("s3://").partition("/")
    keys = [item["Key"] for item in s3_client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]]
    assert {key.removeprefix(f"{prefix}/").partition("/store/")[0] for key in keys} == {place}
    assert not any(key.endswith("/") for key in keys)


def test_a_store_may_be_a_whole_bucket(s3_client):
    bucket = f"whole-{uuid.uuid4().hex}"
    s3_client.create_bucket(Bucket=bucket)
    store = Store(f"s3://{bucket}/")
    assert store.uri == f"s3://{bucket}"
    assert store.append("images", pa.table({"image_id": ["a"]})) == 1
    assert store.query("SELECT image_id FROM images").to_pylist() == [{"image_id": "a"}]
    assert Store(store.uri).exists()


def test_a_root_read_again_is_itself(s3_bucket):
    for text in ("s3://bucket", "s3://bucket/", "s3://bucket/a b/é=1/"):
        root = Location.parse(text).root
        assert root == text.rstrip("/")
        assert Location.parse(root).root == root


@pytest.mark.parametrize("secret", ["s3://KEY:SECRET@bucket/x", "s3://KEY@bucket/x", "s3://bucket:9000/x"])
def test_credentials_in_the_uri_are_refused_and_not_repeated(secret):
    with pytest.raises(UsageError, match=r"URI holds credentials or a port; .* set AWS_ACCESS_KEY_ID") as caught:
        Store(secret)
    assert not any(word in str(caught.value) for word in ("KEY:", "SECRET@", "KEY@", ":9000"))


@pytest.mark.parametrize("text", ["s3://bucket/x?secret=SECRET", "s3://bucket/x#SECRET", "s3://bucket?SECRET"])
def test_a_query_or_fragment_is_refused_and_not_repeated(text):
    with pytest.raises(
        UsageError, match=r"store 's3://bucket(/x)?': its URI goes on with a query or fragment"
    ) as caught:
        Store(text)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["s3://", "s3:///x", "s3://b/x", "s3://büro/x", "s3://bucket//x", "s3://bucket/a//b", "s3://bucket/a/../b",
             "s3://bucket/./b"]
)  # fmt: skip
def test_an_address_that_cannot_be_is_refused(text):
    with pytest.raises(UsageError, match=r"expected s3://bucket/prefix, the bucket's name at least three of letters"):
        Store(text)


def test_an_object_beside_the_one_asked_for_is_not_read(s3_root, label_rows):
    """A prefix is no pattern."""
    for place in ("sXr", "s*r"):
        store = Store(f"{s3_root}/{place}")
        store.append("labels", label_rows([place]))
        assert store.query("SELECT image_id FROM labels").to_pylist() == [{"image_id": place}]


@pytest.mark.parametrize("name", ["a%20b", "a%2Fb", "back\\slash", "new\nline"])
def test_a_prefix_that_delta_would_read_as_another_is_refused(name):
    with pytest.raises(UsageError, match=r"may not hold a backslash, a control character or '%' before two hex digits"):
        Store(f"s3://bucket/{name}")


def _every_way(store: Store) -> dict[str, object]:
    rows = pa.table({"image_id": ["a"]})
    return {
        "exists": store.exists,
        "append": lambda: store.append("images", rows),
        "query": lambda: store.query("SELECT * FROM images"),
        "matrix": lambda: store.matrix("vgg16"),
        "connect": store.connect,
    }


WAYS = ["exists", "append", "query", "matrix", "connect"]


@pytest.mark.parametrize("way", WAYS)
def test_a_bucket_that_is_not_there_is_named(s3_server, way):
    words = rf"s3://no-such-bucket: no such bucket at {s3_server}; make it first .* AWS_ENDPOINT_URL and AWS_REGION"
    with pytest.raises(UsageError, match=words):
        _every_way(Store("s3://no-such-bucket/x"))[way]()


@pytest.mark.parametrize("way", WAYS)
def test_an_endpoint_that_does_not_answer_is_named(s3_root, monkeypatch, way):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"nothing answers at http://127.0.0.1:9 \(.*\); set AWS_ENDPOINT_URL to"):
        _every_way(Store(s3_root))[way]()


@pytest.mark.parametrize("endpoint", ["rubbish", "http://nobody.invalid:1", "https://{server}"])
def test_an_endpoint_that_cannot_be_is_named(s3_root, s3_server, monkeypatch, endpoint):
    endpoint = endpoint.format(server=s3_server.removeprefix("http://"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(UsageError, match=rf"nothing answers at {endpoint} \(.*set AWS_ENDPOINT_URL"):
        Store(s3_root).exists()


@pytest.fixture
def strict(s3_server: str) -> Iterator[None]:
    """Make the server look at who asks: everybody is a stranger to it."""

    def ask(actions: bytes) -> None:
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{s3_server}/moto-api/reset-auth", actions, headers, method="POST")
        urllib.request.urlopen(request).close()

    ask(b"0")
    yield
    ask(b"inf")


@pytest.mark.parametrize("way", WAYS)
def test_wrong_credentials_are_told_what_to_set(s3_root, strict, monkeypatch, way):
    # Other than before: what answered once is not asked again.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"wrong-{way}")
    words = r"refuses the request \(.*INVALID_ACCESS_KEY_ID.*\); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    with pytest.raises(UsageError, match=words):
        _every_way(Store(s3_root))[way]()


def test_no_answer_repeats_the_secret(s3_root, strict, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
    with pytest.raises(UsageError) as caught:
        Store(s3_root).exists()
    assert "SECRET'" not in str(caught.value).replace("AWS_SECRET_ACCESS_KEY", "")


def test_an_unsafe_setting_of_the_environment_is_not_followed(s3_root, monkeypatch, label_rows):
    """Without our own options no commit would get through here."""
    monkeypatch.setenv("AWS_S3_ALLOW_UNSAFE_RENAME", "true")
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    store = Store(s3_root)
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda k: store.append("labels", label_rows([f"i{k}", f"i{k + 1}"])), range(16)))
    assert sum(written) == 17
    assert store.query("SELECT count(*) AS n, count(DISTINCT image_id) AS k FROM labels").to_pylist() == [
        {"n": 17, "k": 17}
    ]


WRITE = """
import sys
import numpy as np
import pyarrow as pa
from featurestore.store import Store
store, writer = Store(sys.argv[1]), int(sys.argv[2])
total = commits = 0
for k in range(10):
    # Eleven of twelve images overlap with the neighbour's; the last is nobody else's, so that each append is a commit.
    ids = [f"i{n:03d}" for n in range(8 * k + writer, 8 * k + writer + 12)] + [f"own{writer}-{k}"]
    n = len(ids)
    written = store.append("scores", pa.table({"backbone": ["vgg16"] * n, "spec_id": ["s1"] * n, "image_id": ids,
        "label": ["Edema"] * n, "probability": pa.array([writer + 0.5] * n, pa.float32())}))
    total, commits = total + written, commits + (written > 0)
print(total, commits)
"""


@pytest.mark.slow
@pytest.mark.chaos
def test_eight_writers_of_ten_commits_write_every_key_once(s3_root, python, raw_at):
    writers = [python(WRITE, s3_root, str(writer)) for writer in range(8)]
    outputs = [writer.communicate(timeout=500) for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 8, outputs
    totals, commits = zip(*(map(int, out.split()) for out, _ in outputs), strict=True)
    assert commits == (10,) * 8
    shared = {f"i{n:03d}" for w in range(8) for k in range(10) for n in range(8 * k + w, 8 * k + w + 12)}
    expected = sorted(shared | {f"own{w}-{k}" for w in range(8) for k in range(10)})
    raw = raw_at(Store(s3_root), "scores")
    assert sorted(row["image_id"] for row in raw.rows()) == expected
    assert sum(totals) == len(expected)
    assert len(raw.actions("commitInfo")) == 1 + 80
    # What was filtered was written again under another name, and the first file removed.
    assert sorted(raw.folder.rglob("*.parquet")) == sorted(raw.files())


def test_sql_that_is_not_ours_gets_no_filesystem_and_ours_no_writing(s3_root, label_rows):
    store = Store(s3_root)
    store.append("labels", label_rows(["a"]))
    (live,) = store.snapshot("labels").paths()
    with store.connect(guarded=True) as con:
        assert con.list_filesystems() == []
    with store.connect(guarded=False) as con:
        assert con.list_filesystems() == ["s3"]
        with pytest.raises(Exception, match="the store is read-only through SQL"):
            con.execute(f"COPY (SELECT 1) TO '{live}' (FORMAT parquet, USE_TMP_FILE false)")
        loaded = con.sql("SELECT extension_name FROM duckdb_extensions() WHERE loaded").fetchall()
    assert ("httpfs",) not in loaded
    assert store.query("SELECT image_id FROM labels").to_pylist() == [{"image_id": "a"}]


@pytest.mark.parametrize("size", [100, 2 << 20])
def test_an_object_is_itself_in_pieces_and_its_size_is_remembered(s3_root, size):
    location, content = Location.parse(s3_root), bytes(range(100)) * (size // 100)
    location.write_bytes("labels/a", content)
    objects, path = ExactObjects(location.filesystem()), f"{s3_root}/labels/a"
    for _ in range(2):
        with objects.open(path) as file:
            file.seek(30)
            assert file.read(40) == content[30:70]
    location.remove("labels/a")
    assert objects.size(path) == len(content)
    assert objects.glob(path) == [path.removeprefix("s3://")]
    with pytest.raises(FileNotFoundError):
        objects.info(f"{path}x")
