"""A user's query, and its rows in every format."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from featurestore.errors import UsageError
from featurestore.store import Store
from jobs.cli.sql import command
from jobs.sql import run_query, write


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    store = Store(tmp_path_factory.mktemp("sql") / "store")
    store.append("images", pa.table({"image_id": ["a", "b"], "dataset": ["d", "d"], "age": pa.array([40.5, None])}))
    values = pa.array([1, -1, None], pa.int8())
    store.append("labels", pa.table({"image_id": ["a", "b", "b"], "label": ["x", "x", "y"], "value": values}))
    for spec_id, n in (("s1", 2), ("s2", 3)):
        specs = {"spec_id": [spec_id], "backbone": ["vgg16"], "n_features": pa.array([n], pa.int32())}
        store.append("specs", pa.table(specs))
        vectors = pa.array([np.arange(n)], pa.list_(pa.float32()))
        rows = {"backbone": ["vgg16"], "spec_id": [spec_id], "image_id": ["a"], "embedding": vectors}
        store.append("embeddings", pa.table(rows))
    return store.uri


def ask(uri: str, query: str) -> list[dict]:
    return run_query(uri, query, "s1").to_pylist()


def test_rows_come_back(uri):
    assert ask(uri, "SELECT image_id, age FROM images ORDER BY 1") == [
        {"image_id": "a", "age": 40.5},
        {"image_id": "b", "age": None},
    ]


def test_the_spec_chooses_the_vectors(uri):
    for spec_id, length in (("s1", 2), ("s2", 3)):
        assert run_query(uri, "SELECT len(embedding) AS n FROM vgg16", spec_id).to_pylist() == [{"n": length}]


def test_two_specs_warn_in_one_line_where_their_view_is_asked(uri, capsys):
    run_query(uri, "SELECT count(*) FROM vgg16", None)
    assert capsys.readouterr().err == "Warning: view 'vgg16' mixes 2 specs (s1, s2); choose one with --spec\n"
    run_query(uri, "SELECT 1", None)
    assert capsys.readouterr().err == ""


def test_sums_are_numbers_and_not_text(uri):
    """DuckDB's sum of integers is a 128-bit decimal, which JSON would hold as text."""
    table = run_query(
        uri, "SELECT sum(value) AS s, avg(value) AS a, 1.5 AS d, 10::HUGEINT ** 25 AS big FROM labels", "s1"
    )
    (row,) = table.to_pylist()
    assert row == {"s": 0, "a": 0.0, "d": 1.5, "big": 1e25}
    assert table.schema.field("s").type == pa.int64()
    assert run_query(uri, "SELECT 100000000000000000000::HUGEINT AS big", "s1").to_pylist() == [{"big": 1e20}]


def test_columns_of_one_name_are_told_apart(uri):
    (row,) = ask(uri, "SELECT 1 AS a, 2 AS a, 3 AS a_1, 4 AS a")
    assert row == {"a": 1, "a_2": 2, "a_1": 3, "a_3": 4}
    rows = ask(uri, "SELECT i.*, l.* FROM images i JOIN labels l USING (image_id) WHERE label = 'y'")
    assert (rows[0]["image_id"], rows[0]["dataset"], rows[0]["dataset_1"]) == ("b", "d", None)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT nothing FROM images", 'SQL: Binder Error: .*"nothing" not found'),
        ("SELECT * FROM nowhere", "SQL: Catalog Error: Table with name nowhere does not exist"),
        ("SELECT 1 +", "SQL: Parser Error"),
        ("SELECT CAST('x' AS INTEGER)", "SQL: Conversion Error"),
        ("DROP VIEW images", "a DROP statement was refused; the store is read-only here"),
        ("WITH t AS (COPY (SELECT 1) TO 'x.csv') FROM t", "SQL: Permission Error"),
        ("FROM read_text('/etc/hostname')", "SQL: Permission Error"),
        ("SELECT * FROM query", "SQL: Catalog Error: Table with name query does not exist"),  # a Python variable here
    ],
)
def test_what_cannot_be_run_says_why(uri, query, words):
    with pytest.raises(UsageError, match=words):
        ask(uri, query)


def test_explain_shows_a_plan(uri):
    assert any("image_id" in str(row) for row in ask(uri, "EXPLAIN SELECT image_id FROM images"))


def test_a_store_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"no store at .*nowhere"):
        run_query(str(tmp_path / "nowhere"), "SELECT 1", None)


ROWS = pa.table(
    {
        "n": pa.array([1, None], pa.int64()),
        "x": [math.nan, 0.25],
        "text": ["a,b", 'say "hé"\nthen'],
        "list": pa.array([[1.0, math.inf], None], pa.list_(pa.float32())),
    }
)


def _text(capsys, tmp_path: Path, output_format: str, to_file: bool) -> str:
    write(ROWS, output_format, tmp_path / "out" if to_file else None)
    printed = capsys.readouterr().out
    if not to_file:
        return printed
    assert printed == ""
    return (tmp_path / "out").read_text(encoding="utf-8")


@pytest.mark.parametrize("to_file", [True, False])
def test_json_is_a_list_of_objects_without_nan(capsys, tmp_path, to_file):
    assert json.loads(_text(capsys, tmp_path, "json", to_file)) == [
        {"n": 1, "x": None, "text": "a,b", "list": [1.0, None]},
        {"n": None, "x": 0.25, "text": 'say "hé"\nthen', "list": None},
    ]


@pytest.mark.parametrize("to_file", [True, False])
def test_csv_reads_back(capsys, tmp_path, to_file):
    rows = list(csv.reader(io.StringIO(_text(capsys, tmp_path, "csv", to_file))))
    assert rows == [["n", "x", "text", "list"], ["1", "nan", "a,b", "[1.0, inf]"], ["", "0.25", 'say "hé"\nthen', ""]]


@pytest.mark.parametrize(
    "query", ["SELECT INTERVAL 1 DAY", "SELECT 'a'::BLOB", "SELECT {'a': 1}", "SELECT MAP {'a': 1}"]
)
def test_csv_takes_every_type(uri, capsys, query):
    write(run_query(uri, query, "s1"), "csv", None)
    assert len(list(csv.reader(io.StringIO(capsys.readouterr().out)))) == 2


def test_csv_keeps_a_last_row_that_is_empty(capsys):
    write(pa.table({"a": pa.array([1, None], pa.int64())}), "csv", None)
    assert capsys.readouterr().out == '"a"\n1\n\n'


@pytest.mark.parametrize("to_file", [True, False])
def test_a_table_is_for_a_person(capsys, tmp_path, to_file):
    lines = _text(capsys, tmp_path, "table", to_file).splitlines()
    assert lines[0].split() == ["n", "x", "text", "list"]
    assert set(lines[1]) == {"-", " "}
    assert "a,b" in lines[2]


def test_parquet_reads_back(tmp_path):
    write(ROWS, "parquet", tmp_path / "out.parquet")
    assert pq.ParquetFile(tmp_path / "out.parquet").read().drop_columns("x").equals(ROWS.drop_columns("x"))


@pytest.mark.parametrize("output_format", ["json", "csv", "table", "parquet"])
def test_a_file_that_cannot_be_written_is_an_error(tmp_path, output_format):
    with pytest.raises(UsageError, match=r"--out .*nowhere.out: No such file or directory; name a file in a folder"):
        write(ROWS, output_format, tmp_path / "nowhere" / "out")


def test_the_command_takes_its_query_from_stdin(uri):
    result = CliRunner().invoke(command, ["--store", uri, "--format", "json", "--spec", "s1"], input="SELECT 1 AS a")
    assert (result.exit_code, json.loads(result.stdout)) == (0, [{"a": 1}])


def test_the_command_needs_a_file_for_parquet(uri):
    result = CliRunner().invoke(command, ["SELECT 1", "--store", uri, "--format", "parquet"])
    assert isinstance(result.exception, UsageError)
    assert "--format parquet needs --out FILE" in str(result.exception)
