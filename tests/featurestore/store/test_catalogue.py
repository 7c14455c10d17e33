"""The views, and which vectors they show."""

from __future__ import annotations

import warnings

import numpy as np
import pyarrow as pa
import pytest

import featurestore
from featurestore.errors import UsageError
from featurestore.store.schema import TABLES


@pytest.fixture
def filled(store, vector_rows, spec_row, label_rows):
    """Return a store with two backbones, one of them with ids of digits only."""
    store.append("specs", spec_row("vgg16", "s1", 3))
    store.append("specs", spec_row("xception", "0012", 2))
    store.append("embeddings", vector_rows(["a", "b"], [[1, 2, 3], [4, 5, 6]]))
    store.append("embeddings", vector_rows(["a", "007"], [[1, 0], [0, 1]], backbone="xception", spec_id="0012"))
    store.append("labels", label_rows(["a", "b"]))
    return store


@pytest.fixture(params=[True, False], ids=["guarded", "ours"])
def con(request, filled):
    """Return a connection of each kind: both have to show the same."""
    with filled.connect(guarded=request.param) as connection:
        yield connection


@pytest.mark.parametrize("guarded", [True, False])
def test_every_view_exists_in_an_empty_store_with_its_types(store, label_rows, guarded):
    store.append("labels", label_rows(["a"]))
    with store.connect(guarded=guarded) as con:
        for name, table in TABLES.items():
            columns = con.sql(f"SELECT * FROM {name}").to_arrow_table()
            assert columns.column_names == table.schema.names
            assert columns.num_rows == (name == "labels")
        types = dict(con.sql("SELECT column_name, column_type FROM (DESCRIBE embeddings)").fetchall())
    assert types["embedding"] == "FLOAT[]"


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_view_has_the_same_types_empty_and_filled(store, name):
    def types(guarded: bool) -> list[tuple]:
        with store.connect(guarded=guarded) as con:
            return con.sql(f"SELECT column_name, column_type FROM (DESCRIBE {name})").fetchall()

    empty = types(True)
    values = {
        "string": "x",
        "int16": 1,
        "int32": 2,
        "int64": 3,
        "float": 0.5,
        "double": 0.5,
        "list<item: float>": [1.0, 2.0],
    }
    row = {field.name: pa.array([values.get(str(field.type))], field.type) for field in TABLES[name].schema}
    assert store.append(name, pa.table(row)) == 1
    assert types(True) == types(False) == empty


def test_a_backbone_view_has_vectors_of_fixed_length(con):
    types = {
        name: dict(con.sql(f"SELECT column_name, column_type FROM (DESCRIBE {name})").fetchall())
        for name in ("vgg16", "xception")
    }
    assert (types["vgg16"]["embedding"], types["xception"]["embedding"]) == ("FLOAT[3]", "FLOAT[2]")
    assert list(types["vgg16"]) == ["image_id", "spec_id", "run_id", "runtime", "embedding"]
    rows = con.sql("SELECT image_id, embedding FROM vgg16 ORDER BY 1").fetchall()
    assert rows == [("a", (1, 2, 3)), ("b", (4, 5, 6))]


def test_similarity_is_one_query(con):
    query = """
    SELECT o.image_id, array_cosine_similarity(o.embedding, a.embedding) AS similarity
    FROM vgg16 o, vgg16 a WHERE a.image_id = 'a' AND o.image_id <> 'a'
    """
    ((image, similarity),) = con.sql(query).fetchall()
    assert image == "b"
    assert similarity == pytest.approx(32 / np.sqrt(14 * 77), abs=1e-6)


def test_ids_of_digits_stay_text(con):
    assert con.sql("SELECT spec_id, typeof(spec_id) FROM xception").fetchall() == [("0012", "VARCHAR")] * 2
    assert con.sql("SELECT backbone, spec_id FROM embeddings WHERE image_id = '007'").fetchall() == [
        ("xception", "0012")
    ]
    assert con.sql("SELECT count(*) FROM embeddings WHERE spec_id = '12'").fetchall() == [(0,)]


@pytest.mark.parametrize("guarded", [True, False])
def test_where_every_id_is_of_digits_they_stay_text_too(store, vector_rows, spec_row, guarded):
    store.append("specs", spec_row("vgg16", "12", 1))
    store.append("embeddings", vector_rows(["a"], [[1]], spec_id="12"))
    with store.connect(guarded=guarded) as con:
        assert con.sql("SELECT spec_id, typeof(spec_id) FROM embeddings").fetchall() == [("12", "VARCHAR")]
        assert con.sql("SELECT spec_id FROM vgg16 JOIN specs USING (spec_id)").fetchall() == [("12",)]
    assert store.matrix("12")[0] == ["a"]


def test_the_embeddings_view_holds_all_backbones(con):
    query = (
        "SELECT backbone, count(*), min(len(embedding)), max(len(embedding)) FROM embeddings GROUP BY ALL ORDER BY 1"
    )
    assert con.sql(query).fetchall() == [("vgg16", 2, 3, 3), ("xception", 2, 2, 2)]


def test_views_join(con):
    query = "SELECT l.value, x.embedding FROM labels l JOIN xception x USING (image_id) JOIN vgg16 USING (image_id)"
    assert con.sql(query).fetchall() == [(1, (1, 0))]


def test_a_cursor_sees_the_views_too(filled):
    con = filled.connect()
    assert con.cursor().sql("SELECT count(*) FROM vgg16").fetchall() == [(2,)]
    assert con.cursor().sql("SELECT count(*) FROM labels").fetchall() == [(2,)]


def test_a_spec_without_vectors_has_an_empty_view(store, spec_row):
    store.append("specs", spec_row("vgg16", "s1", 3))
    with store.connect() as con:
        assert con.sql("SELECT typeof(embedding) FROM vgg16").fetchall() == []
        assert con.sql("SELECT column_type FROM (DESCRIBE vgg16) WHERE column_name = 'embedding'").fetchall() == [
            ("FLOAT[3]",)
        ]


def _second_spec(store, vector_rows, spec_row, n_features: int = 3) -> None:
    store.append("specs", spec_row("vgg16", "s2", n_features))
    store.append("embeddings", vector_rows(["a"], np.full((1, n_features), 9), spec_id="s2"))


@pytest.mark.parametrize("n_features", [3, 5])
def test_two_specs_in_one_view_warn_and_both_are_there(filled, vector_rows, spec_row, n_features):
    _second_spec(filled, vector_rows, spec_row, n_features)
    words = r"view 'vgg16' mixes 2 specs \(s1, s2\); choose one with --spec"
    with pytest.warns(UserWarning, match=words) as caught, filled.connect() as con:
        rows = con.sql("SELECT spec_id, len(embedding) FROM vgg16 ORDER BY ALL").fetchall()
    assert rows == [("s1", 3), ("s1", 3), ("s2", n_features)]
    assert [warning.filename for warning in caught] == [__file__]


def test_a_chosen_spec_limits_its_backbone_and_no_other(filled, vector_rows, spec_row):
    _second_spec(filled, vector_rows, spec_row, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        connection = filled.connect(spec="s2")
    with connection as con:
        assert con.sql("SELECT spec_id, embedding FROM vgg16").fetchall() == [("s2", (9,) * 5)]
        assert con.sql("SELECT count(*) FROM xception").fetchall() == [(2,)]
        assert con.sql("SELECT count(*) FROM embeddings").fetchall() == [(5,)]


def test_an_unknown_spec_is_told_what_there_is(filled, tmp_path):
    with pytest.raises(UsageError, match=r"no spec 's9' in this store; it has \['0012', 's1'\]"):
        filled.connect(spec="s9")
    with pytest.raises(UsageError, match=r"no spec 's9' in this store; it has none: run cxr extract first"):
        featurestore.Store(tmp_path / "empty").connect(spec="s9")


def test_a_query_binds_its_values(filled):
    evil = "x' OR '1'='1"
    assert filled.query("SELECT * FROM labels WHERE image_id = ?", [evil]).num_rows == 0
    assert filled.query(
        "SELECT count(*) AS n FROM labels WHERE image_id IN (SELECT unnest(?::VARCHAR[]))", [[]]
    ).to_pylist() == [{"n": 0}]
