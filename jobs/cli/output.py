"""What a command prints: one JSON document, or text and tables for a person."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import click


@contextmanager
def stdout_for_json_only() -> Iterator[None]:
    """Send everything but `emit_json` to stderr inside the block: Ray, among others, prints to stdout as it likes."""
    global _json_stream
    _json_stream, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout, _json_stream = _json_stream, None


_json_stream: TextIO | None = None


def emit_json(document: object) -> None:
    """Print one JSON document on stdout; NaN and infinities become null."""
    click.echo(json.dumps(_finite(document), default=str, ensure_ascii=False), file=_json_stream or sys.stdout)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def emit(document: Mapping[str, Any], *, as_json: bool, sentence: str) -> None:
    """Print ``document`` as JSON, or ``sentence`` for a person."""
    if as_json:
        emit_json(document)
    else:
        click.echo(sentence)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as a plain text table; numbers to the right, absent values as a dash."""
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[k]) for line in [list(columns), *cells]) for k in range(len(columns))]
    numeric = [all(isinstance(row.get(c), int | float | None) for row in rows) for c in columns]
    lines = [list(columns), ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
