"""What every benchmark prints and writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path("build/bench")


def print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows under the union of their columns, in order of appearance."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    rule = "  ".join("-" * width for width in widths)
    print("\n".join(["", title, "", lines[0], rule, *lines[1:]]), flush=True)


def write_json(name: str, figures: Mapping[str, Any]) -> Path:
    """Write ``build/bench/<name>.json``."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"\nwritten: {path}", flush=True)
    return path


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
