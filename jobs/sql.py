"""A user's query on the read-only views, and its rows in four formats."""

from __future__ import annotations

import io
import os
import re
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import click
import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from featurestore.errors import UsageError
from featurestore.store import Store
from featurestore.store.guard import read_only
from jobs.cli.output import emit_json, table


def run_query(store_uri: str, query: str, spec: str | None) -> pa.Table:
    """Run one SELECT.

    Returns
    -------
    pyarrow.Table
        Columns of the same name are told apart by ``_1``, ``_2``; decimals, which every sum of integers is in DuckDB,
        are int64, or float64 where they do not fit.

    Raises
    ------
    UsageError
        For anything but one read-only statement, and for what DuckDB refuses, with its words.
    """
    with _connect(store_uri, query, spec) as con:
        text = read_only(con, query)
        try:
            rows = con.sql(text).to_arrow_table()
        except duckdb.Error as error:
            message = f"SQL: {error}"
            raise UsageError(message) from error
    return _without_decimals(rows.rename_columns(_distinct(rows.column_names)))


def _connect(store_uri: str, query: str, spec: str | None) -> duckdb.DuckDBPyConnection:
    """Open the views, passing on their warnings in one line each, and only those about a view the query names."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        con = Store(store_uri).require().connect(spec=spec)
    for warning in caught:
        named = re.search(r"view '(\w+)'", str(warning.message))
        if named is None or named[1] in query:
            click.echo(f"Warning: {warning.message}", err=True)
    return con


def _without_decimals(rows: pa.Table) -> pa.Table:
    for index, field in enumerate(rows.schema):
        if pa.types.is_decimal(field.type):
            rows = rows.set_column(index, field.name, _number(rows.column(index)))
    return rows


def _number(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if column.type.scale == 0:
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:  # beyond 64 bits
            return column.cast(pa.float64())
    return column.cast(pa.float64())


def _distinct(names: list[str]) -> list[str]:
    """Number repeated names: as keys of a row the last of them would hide the others."""
    result: list[str] = []
    for name in names:
        number, unique = 0, name
        while unique in result or (number and unique in names):
            number += 1
            unique = f"{name}_{number}"
        result.append(unique)
    return result


def write(rows: pa.Table, output_format: str, out: Path | None) -> None:
    """Write rows to ``out``, or to stdout.

    Raises
    ------
    UsageError
        Where ``out`` cannot be written.
    """
    if out is None:
        _print(rows, output_format)
        return
    try:
        _save(rows, output_format, out)
    except OSError as error:
        what = os.strerror(error.errno) if error.errno else error
        message = f"--out {out}: {what}; name a file in a folder that exists and can be written"
        raise UsageError(message) from error


def _save(rows: pa.Table, output_format: str, out: Path) -> None:
    if output_format == "parquet":
        pq.write_table(rows, out)
        return
    with out.open("w", encoding="utf-8") as file, redirect_stdout(file):
        _print(rows, output_format)


def _print(rows: pa.Table, output_format: str) -> None:
    if output_format == "json":
        emit_json(rows.to_pylist())
    elif output_format == "csv":
        click.echo(_csv(rows))
    else:
        click.echo(table(rows.to_pylist(), rows.column_names))


def _csv(rows: pa.Table) -> str:
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(_flat(rows), buffer)
    return buffer.getvalue().decode().removesuffix("\n")


def _flat(rows: pa.Table) -> pa.Table:
    """Return rows with lists, bytes and intervals as text, which CSV cannot hold otherwise."""
    for index, field in enumerate(rows.schema):
        if pa.types.is_nested(field.type) or pa.types.is_binary(field.type) or pa.types.is_interval(field.type):
            texts = [None if value is None else str(value) for value in rows.column(index).to_pylist()]
            rows = rows.set_column(index, field.name, pa.array(texts, pa.string()))
    return rows
