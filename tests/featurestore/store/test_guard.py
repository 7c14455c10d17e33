"""Attacks on the read-only promise, by the statement and by the connection."""

from __future__ import annotations

import shutil
import tempfile
from itertools import product
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

import featurestore
from featurestore.errors import UsageError
from featurestore.store import Store
from featurestore.store.guard import read_only

NESTED = "EXPLAIN /* /* */ SELECT 1 -- */ ANALYZE COPY (SELECT 1) TO '{live}' (USE_TMP_FILE false)"

REFUSED_STATEMENTS = [
    "COPY labels TO '{outside}'",
    "COPY (SELECT 1) TO '{outside}'",
    "COPY (SELECT 1) TO '{live}' (FORMAT parquet, USE_TMP_FILE false)",
    "copy\n(select 1)\nto '{outside}'",
    "/* SELECT */ COPY labels TO '{outside}'",
    "-- SELECT\nCOPY labels TO '{outside}'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{outside}'",
    "EXPLAIN COPY (SELECT 1) TO '{outside}'",
    "explain analyze select 1",
    "EXPLAIN ANALYSE SELECT 1",
    "EXPLAIN (ANALYZE) COPY (SELECT 1) TO '{outside}'",
    "EXPLAIN (ANALYZE) SELECT 1",
    "EXPLAIN (FORMAT JSON) SELECT 1",
    "EXPLAIN/**/ANALYZE/**/COPY labels TO '{outside}'",
    "EXPLAIN --x\nANALYZE COPY labels TO '{outside}'",
    "EXPLAIN EXPLAIN ANALYZE COPY labels TO '{outside}'",
    "/* a */ EXPLAIN /* b */ ANALYZE COPY labels TO '{outside}'",
    "; EXPLAIN SELECT 1",
    NESTED,
    "ATTACH '{outside}'",
    "ATTACH '{live}' AS y",
    "DETACH memory",
    "EXPORT DATABASE '{outside}'",
    "IMPORT DATABASE '{outside}'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET threads = 1",
    "SET VARIABLE files_labels = ['/etc/passwd']",
    "RESET enable_external_access",
    "PRAGMA enable_profiling",
    "PRAGMA table_info('labels')",
    "CALL enable_logging()",
    "CREATE TABLE t AS SELECT 1",
    "CREATE OR REPLACE VIEW labels AS SELECT 1",
    "DROP VIEW labels",
    "INSERT INTO labels VALUES (1)",
    "DELETE FROM labels",
    "BEGIN",
    "CHECKPOINT",
    "USE memory",
    "PREPARE p AS COPY labels TO '{outside}'",
    "EXECUTE p",
    "VACUUM",
    "SELECT 1; COPY labels TO '{outside}'",
    "COPY labels TO '{outside}'; SELECT 1",
    "SELECT 1; SELECT 2",
    "",
    "   ",
    "-- nothing",
    ";",
    "SELEC 1",
]

REFUSED_ON_RUNNING = [
    "WITH t AS (COPY (SELECT 1) TO '{outside}') FROM t",
    "WITH t AS (COPY (SELECT 1) TO '{live}' (FORMAT parquet, USE_TMP_FILE false)) FROM t",
    "SELECT 1 WHERE 1 IN (WITH t AS (COPY (SELECT 1) TO '{live}' (FORMAT csv, USE_TMP_FILE false)) FROM t)",
    "FROM query('WITH t AS (COPY (SELECT 1) TO ''{live}'' (FORMAT csv, USE_TMP_FILE false)) FROM t')",
    "FROM query('COPY (SELECT 1) TO ''{outside}''')",
    "WITH t AS (DELETE FROM labels RETURNING *) FROM t",
    "FROM read_csv('{secret}')",
    "FROM read_csv_auto('{secret}')",
    "FROM sniff_csv('{secret}')",
    "SELECT content FROM read_text('{secret}')",
    "SELECT content FROM read_blob('{secret}')",
    "FROM read_json('{secret}')",
    "FROM read_ndjson_objects('{secret}')",
    "FROM read_text('/etc/pas*')",
    "FROM read_text('/proc/self/environ')",
    "FROM '{secret}'",
    'FROM "{secret}"',
    "FROM read_parquet('{live}')",
    "FROM '{live}'",
    "FROM parquet_metadata('{live}')",
    "FROM parquet_schema('{live}')",
    "FROM parquet_kv_metadata('{live}')",
    "FROM glob('{folder}/*')",
    "FROM glob('/etc/*')",
    "FROM read_duckdb('{outside}')",
    "FROM read_text(getvariable('files_labels'))",
    "FROM read_parquet(getvariable('files_images'))",
    "FROM enable_logging(storage := 'file', storage_path := '{outside}')",
    "FROM enable_profiling(save_location := '{outside}')",
    "SELECT * FROM read_text(current_setting('temp_directory') || '{secret}')",
    "FROM read_text('file://{secret}')",
    "FROM read_csv('https://example.org/x.csv')",
    "FROM nothing_of_that_name",
    "FROM query",  # a Python variable of that name is in scope somewhere
    "FROM con",
]

ALLOWED = [
    "SELECT image_id FROM labels",
    "select image_id from labels;",
    ";SELECT 1",
    "FROM labels",
    "TABLE labels",
    "VALUES (1)",
    "(SELECT 1) UNION ALL SELECT 2",
    "WITH t AS (SELECT 1 AS a) FROM t",
    "/* COPY */ SELECT 1 -- COPY",
    "SELECT 'COPY; ATTACH -- /*' AS text",
    "SHOW TABLES",
    "DESCRIBE labels",
    "SUMMARIZE labels",
    "EXPLAIN SELECT 1",
    "explain from labels",
    "/* c */ EXPLAIN /* d /* nested */ */ SELECT image_id FROM labels -- e",
    "-- c\nEXPLAIN SELECT ';' AS a;",
]


@pytest.fixture(scope="module")
def attacked(new_root, label_rows):
    """Return a store, and the names an attack may use; one for all, as none may change it."""
    store = Store(new_root())
    store.append("labels", label_rows(["a", "b"]))
    store.append("images", pa.table({"image_id": ["a", "b"]}))
    # Where DuckDB's own scratch would be: a folder that a spilling connection may read and write.
    outside = Path(tempfile.mkdtemp(prefix="cxr attack "))
    (outside / "secret.csv").write_text("a,b\n1,2\n")
    names = {
        "live": store.snapshot("labels").paths()[0].replace("'", "''"),
        "outside": str(outside / "out.csv"),
        "secret": str(outside / "secret.csv"),
        "folder": str(outside),
    }
    yield store, names
    shutil.rmtree(outside)


@pytest.fixture(scope="module")
def con(attacked):
    """Return a connection for what does not change it."""
    with attacked[0].connect() as connection:
        yield connection


@pytest.fixture
def unharmed(attacked, checksums, folder_of):
    """Hold that an attack changes no byte of the store and leaves nothing beside it."""
    store, names = attacked

    def look() -> list[dict[str, str]]:
        return [checksums(folder) for folder in (folder_of(store), Path(names["folder"]))]

    before = look()
    yield
    assert look() == before


@pytest.mark.parametrize("sql", REFUSED_STATEMENTS)
def test_a_statement_that_is_not_one_select_is_refused_before_it_runs(attacked, con, unharmed, sql):
    with pytest.raises(UsageError, match=r"^SQL: "):
        read_only(con, sql.format(**attacked[1]))


@pytest.mark.parametrize("sql", REFUSED_ON_RUNNING)
def test_a_select_reaches_no_file(attacked, con, unharmed, sql):
    with pytest.raises((UsageError, duckdb.Error)):
        con.sql(read_only(con, sql.format(**attacked[1]))).fetchall()


@pytest.mark.parametrize("sql", [sql for sql in REFUSED_STATEMENTS + REFUSED_ON_RUNNING if "{" in sql or "/" in sql])
def test_the_connection_alone_lets_nothing_through(attacked, unharmed, sql):
    """No statement is looked at here: whatever it does, it does to the connection's own memory."""
    store, names = attacked
    with featurestore.connect(store.uri) as con:
        try:
            con.execute(sql.format(**names))
            con.fetchall()
        except (duckdb.Error, RuntimeError):
            return
        assert not any(word in sql for word in ("COPY", "ATTACH", "EXPORT", "read_", "glob", "INSTALL", "LOAD"))


FILES = ["'{live}'", "'{outside}'", "'{folder}/new/'"]
OPTIONS = ["", "(FORMAT parquet)", "(FORMAT parquet, USE_TMP_FILE false)", "(FORMAT csv, USE_TMP_FILE false)",
           "(FORMAT json, USE_TMP_FILE false)", "(PER_THREAD_OUTPUT, OVERWRITE)"]  # fmt: skip


@pytest.mark.parametrize("what", ["COPY labels TO", "COPY (SELECT 1) TO", "EXPLAIN ANALYZE COPY labels TO"])
def test_copy_writes_nowhere(attacked, unharmed, what):
    store, names = attacked
    with featurestore.connect(store.uri) as con:
        for target, options in product(FILES, OPTIONS):
            with pytest.raises(duckdb.PermissionException):
                con.execute(f"{what} {target} {options}".format(**names))


def test_pythons_own_ways_of_writing_write_nowhere(attacked, unharmed):
    store, names = attacked
    with featurestore.connect(store.uri) as con:
        for path in (names["outside"], names["live"].replace("''", "'")):
            for write in ("write_csv", "write_parquet"):
                with pytest.raises(duckdb.PermissionException):
                    getattr(con.sql("SELECT 1 AS a"), write)(path)


@pytest.mark.parametrize(
    "setting",
    ["SET enable_external_access = true", "SET allowed_paths = ['/etc/passwd']", "SET allowed_directories = ['/']",
     "SET temp_directory = '/tmp'", "SET lock_configuration = false", "RESET lock_configuration",
     "SET GLOBAL memory_limit = '1GB'", "SET profiling_output = '/tmp/x'", "SET log_query_path = '/tmp/x'"],
)  # fmt: skip
def test_settings_are_locked(con, setting):
    with pytest.raises(duckdb.Error, match=r"locked|disabled|enabled"):
        con.execute(setting)


def test_nothing_is_open_to_the_connection(con):
    query = "SELECT name, value FROM duckdb_settings() WHERE name IN ('allowed_paths', 'allowed_directories')"
    assert con.sql(query).fetchall() == [("allowed_directories", "[]"), ("allowed_paths", "[]")]


@pytest.mark.parametrize("sql", ALLOWED)
def test_reading_is_allowed(con, unharmed, sql):
    assert con.sql(read_only(con, sql)).fetchall()


def test_what_runs_is_the_text_that_was_parsed(con):
    assert read_only(con, "SELECT 1") == "SELECT 1"
    assert read_only(con, "/* x */ explain /* y */ SELECT 1") == "EXPLAIN /* y */ SELECT 1"


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("COPY labels TO 'x'", "a COPY.* statement was refused; the store is read-only here: write SELECT"),
        ("SELECT 1; SELECT 2", "2 statements found; give exactly one SELECT"),
        ("", "0 statements found; give exactly one SELECT"),
        ("EXPLAIN ANALYZE SELECT 1", "only a plain EXPLAIN SELECT is allowed; EXPLAIN with options or ANALYZE runs"),
        ("EXPLAIN DELETE FROM labels", "EXPLAIN of a DELETE statement was refused"),
        ("SELEC 1", "SQL: Parser Error: syntax error at or near"),
    ],
)
def test_a_refusal_says_what_would_be_right(con, sql, words):
    with pytest.raises(UsageError, match=words):
        read_only(con, sql)
