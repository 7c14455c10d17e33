"""Explanations a caller passes in: pictures with captions, and their numbers as a table."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featurestore.errors import UsageError
from jobs.report import format as fmt
from jobs.report.tables import Cell, Column, Table

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """One picture with its words; `uri` is a ``data:`` address."""

    uri: str
    alt: str
    label: str
    caption: str


def pictures(items: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """Return the pictures among `items`; an item without ``png_bytes`` stands in the table only.

    Raises
    ------
    UsageError
        If ``png_bytes`` is no PNG.
    """
    return [_picture(item) for item in items if item.get("png_bytes")]


def _picture(item: Mapping[str, Any]) -> Picture:
    data = bytes(item["png_bytes"])
    if not data.startswith(_PNG):
        message = f"the picture of image {item['image_id']} starts with {data[:8]!r}, which is no PNG; pass PNG bytes"
        raise UsageError(message)
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    caption = item.get("caption") or ""
    alt = f"Explanation of {item['label']} on image {item['image_id'][:12]}. {caption}".strip()
    return Picture(uri, alt, item["label"], caption)


def table(items: Sequence[Mapping[str, Any]]) -> Table:
    """Return the numbers: one line per item, one column per name found in any ``numbers``."""
    found = list(dict.fromkeys(name for item in items for name in item.get("numbers") or {}))
    columns = [Column("Image", numeric=False), Column("Label", numeric=False), *(Column(name) for name in found)]
    records = [{"image_id": i["image_id"], "label": i["label"], **(i.get("numbers") or {})} for i in items]
    rows = [_cells(record, found) for record in records]
    return Table("explanations", "Explanations in numbers", columns, rows, records)


def _cells(record: Mapping[str, Any], found: Sequence[str]) -> list[Cell]:
    image = Cell(record["image_id"][:12], title=record["image_id"], css="mono")
    return [image, Cell(record["label"]), *(Cell(fmt.number(record.get(name))) for name in found)]
