"""Read-only SQL: what a user's statement may be (docs/adr/0003).

This is for a clear answer. What holds is the connection, which can open no file: a SELECT may hold a COPY ... TO.
"""

from __future__ import annotations

import re

import duckdb

from featurestore.errors import UsageError

_EXPLAIN = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*EXPLAIN\b(?P<rest>.*)", re.IGNORECASE | re.DOTALL)


def read_only(con: duckdb.DuckDBPyConnection, query: str) -> str:
    """Return the text to run, where it is exactly one SELECT or a plain EXPLAIN over one.

    Raises
    ------
    UsageError
        For anything else: several statements, COPY, ATTACH, EXPORT, and EXPLAIN ANALYZE, which runs what it explains.
    """
    kind = _only_statement(con, query)
    if kind == duckdb.StatementType.SELECT:
        return query
    if kind != duckdb.StatementType.EXPLAIN:
        message = (
            f"SQL: a {kind.name} statement was refused; the store is read-only here: write SELECT, or EXPLAIN SELECT"
        )
        raise UsageError(message)
    explained = _explained(query)
    inner = _only_statement(con, explained)
    if inner != duckdb.StatementType.SELECT:
        message = f"SQL: EXPLAIN of a {inner.name} statement was refused; only EXPLAIN SELECT is read-only"
        raise UsageError(message)
    # Run what was parsed, not what it was cut from: comments nest, and a cut may fall elsewhere than DuckDB's.
    return f"EXPLAIN {explained}"


def _only_statement(con: duckdb.DuckDBPyConnection, query: str) -> duckdb.StatementType:
    try:
        statements = con.extract_statements(query)
    except duckdb.Error as error:
        message = f"SQL: {error}"
        raise UsageError(message) from error
    if len(statements) != 1:
        message = f"SQL: {len(statements)} statements found; give exactly one SELECT"
        raise UsageError(message)
    return statements[0].type


def _explained(query: str) -> str:
    match = _EXPLAIN.match(query)
    rest = match["rest"].strip() if match else ""
    if not rest or rest.startswith("(") or re.match(r"ANALY[ZS]E\b", rest, re.IGNORECASE):
        message = "SQL: only a plain EXPLAIN SELECT is allowed; EXPLAIN with options or ANALYZE runs the statement"
        raise UsageError(message)
    return rest
