"""Whether a split asked for is the one that is frozen under its name, and if not, in what they differ."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from featurestore.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa


def check_same(stored: pa.Table, wanted: pa.Table, name: str) -> None:
    """Raise `UsageError`, saying what differs, unless the stored split is the one asked for."""
    was, now = stored.to_pydict(), wanted.to_pydict()
    differences = [_difference(column, was, now) for column in ("kind", "seed")] + [_other_images(was, now)]
    found = [difference for difference in differences if difference]
    if not found and (was["part"], was["fold"]) != (now["part"], now["fold"]):
        found = [f"shares, folds or labels: stored {_sizes(was)}, asked for {_sizes(now)}"]
    if found:
        raise UsageError(f"split {name!r} is frozen and differs in {'; '.join(found)}; use another name")


def _difference(column: str, was: dict[str, list[Any]], now: dict[str, list[Any]]) -> str:
    old, new = was[column][0], now[column][0]
    return "" if old == new else f"{column}: stored {old}, asked for {new}"


def _other_images(was: dict[str, list[Any]], now: dict[str, list[Any]]) -> str:
    old, new = set(was["image_id"]), set(now["image_id"])
    return "" if old == new else f"images: {len(old - new)} stored are not asked for, {len(new - old)} are new"


def _sizes(columns: dict[str, list[Any]]) -> str:
    """Count images by part and fold: ``train 700, val 100``."""
    names = [
        part if fold is None else f"fold{fold}" for part, fold in zip(columns["part"], columns["fold"], strict=True)
    ]
    return ", ".join(f"{key} {count}" for key, count in sorted(Counter(names).items()))
