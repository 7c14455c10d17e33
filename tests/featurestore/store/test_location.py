"""Where a store may lie, and that every such place works from the first byte to SQL."""

from __future__ import annotations

import pyarrow as pa
import pytest

import featurestore
from featurestore.errors import UsageError
from featurestore.store import Store

PLACES = [
    "plain",
    "a b",
    "it's",
    'dq"x',
    "100%",
    "x%zz",
    "größe",
    "日本",
    "[x]",
    "s*r",
    "q?",
    "a#b",
    "a;b",
    "$x",
    "{a}",
]


def _fill(store: Store) -> None:
    store.append("images", pa.table({"image_id": ["a", "b"], "dataset": ["d", "d"]}))
    store.append("images", pa.table({"image_id": ["b", "c"], "dataset": ["d", "d"]}))
    store.append("specs", pa.table({"spec_id": ["s1"], "backbone": ["vgg16"], "n_features": pa.array([2], pa.int32())}))
    vectors = pa.array([[1.0, 2.0]], pa.list_(pa.float32()))
    store.append(
        "embeddings", pa.table({"backbone": ["vgg16"], "spec_id": ["s1"], "image_id": ["a"], "embedding": vectors})
    )


def _check(store: Store) -> None:
    assert store.query("SELECT count(*) AS n FROM images").to_pylist() == [{"n": 3}]
    with featurestore.connect(store.uri) as con:
        assert con.sql("SELECT image_id, embedding FROM vgg16").fetchall() == [("a", (1.0, 2.0))]
    assert store.matrix("vgg16")[1].tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("place", PLACES)
def test_a_store_works_at_any_path(tmp_path, place):
    store = Store(tmp_path / place / "store")
    _fill(store)
    _check(store)
    assert [path.name for path in tmp_path.iterdir()] == [place]


def test_a_neighbour_that_the_path_would_match_as_a_pattern_is_not_read(tmp_path):
    for place in ("sXr", "s*r"):
        _fill(Store(tmp_path / place))
        _check(Store(tmp_path / place))


@pytest.mark.parametrize("text", ["store", "./store", "sub/../store", "../here/store"])
def test_a_relative_path_works(tmp_path, monkeypatch, text):
    (tmp_path / "here" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    _fill(Store(text))
    _check(Store(text))
    assert (tmp_path / "here" / "store" / "images").is_dir()


def test_a_store_works_through_a_link(tmp_path):
    _fill(Store(tmp_path / "real"))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    _check(Store(tmp_path / "link"))


def test_a_file_uri_is_decoded(tmp_path):
    assert Store((tmp_path / "a b's").as_uri()).uri == str(tmp_path / "a b's")


@pytest.mark.parametrize("name", ["a%20b", "a%2Fb", "back\\slash", "new\nline", "nul\0"])
def test_a_path_that_delta_would_read_as_another_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match=r"may not hold a backslash, a control character or '%' before two hex digits"):
        Store(tmp_path / name)


@pytest.mark.parametrize("place", ["backbone=x/store", "a/spec_id=1"])
@pytest.mark.parametrize("start", ["/data", "s3://bucket"])
def test_a_path_that_would_be_read_as_a_partition_is_refused(start, place):
    """Every row would have that value: rows asked for by their own would not be found, in silence."""
    words = r"a folder named (backbone|spec_id)=\.\.\. above the store would be read as the column"
    with pytest.raises(UsageError, match=words):
        Store(f"{start}/{place}")


def test_an_unknown_home_is_refused():
    with pytest.raises(UsageError, match=r"store '~nobody-here/x': .*; write the folder out"):
        Store("~nobody-here/x")


def test_another_scheme_is_refused():
    with pytest.raises(
        UsageError, match=r"store 'gs://bucket/x': give a folder such as ./store, or s3://bucket/prefix"
    ):
        Store("gs://bucket/x")


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"is a file; a store is a folder"):
        Store(tmp_path / "file")


def test_reading_where_nothing_is_says_so_and_makes_nothing(tmp_path):
    for read in (lambda: featurestore.connect(tmp_path / "none"), Store(tmp_path / "none").require):
        with pytest.raises(UsageError, match=r"no store at .*none; run cxr ingest first, or name another with --store"):
            read()
    assert Store(tmp_path / "none").query("SELECT * FROM images").num_rows == 0
    assert not (tmp_path / "none").exists()


def test_an_unknown_data_set_is_named_with_those_there_are(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(UsageError, match=r"no data set 'x' in the store at .*; it has none: run cxr ingest first"):
        store.require_dataset("x")
    store.append("images", pa.table({"image_id": ["a", "b"], "dataset": ["two", "one"]}))
    with pytest.raises(UsageError, match=r"no data set 'x' in the store at .*; it has one, two"):
        store.require_dataset("x")
    store.require_dataset("one")


def test_sizes_come_in_order_and_none_where_there_is_no_file(store):
    for k in (1, 2, 3):
        store.location.write_bytes(f"labels/{k}", bytes(k))
    paths = ["labels/3", "labels/none", "labels/1", f"{store.uri}/labels/2"]
    assert store.location.sizes(paths) == [3, None, 1, 2]
    assert store.location.sizes([]) == []
