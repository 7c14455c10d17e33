"""Cells of a table and elements of a header, read the same way by every source."""

from __future__ import annotations

import re

_LABEL = re.compile(r"([+-]?)([01])(\.0*)?")
_AGE = re.compile(r"(\d{1,3}(?:\.\d*)?)\s*([YMWD]?)", re.IGNORECASE)
_PER_YEAR = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.1775, "D": 365.2425}
OLDEST = 120.0
"""Years. Above it an age is a typing error (ChestX-ray14 holds a patient of 414) and counts as unknown."""


def parse_label(cell: str) -> int | None:
    """Return 1, 0, -1, or None for a blank or NaN cell.

    Raises
    ------
    ValueError
        For anything else.

    Examples
    --------
    >>> [parse_label(cell) for cell in ("1.0", "0", "-1.0", "", "nan")]
    [1, 0, -1, None, None]
    """
    text = cell.strip()
    if not text or text.lower() == "nan":
        return None
    match = _LABEL.fullmatch(text)
    if not match:
        raise ValueError(f"{text[:40]!r} is none of 1, 0, -1 (uncertain), blank or NaN")
    return -int(match[2]) if match[1] == "-" else int(match[2])


def parse_age(text: str | None) -> float | None:
    """Return years from ``58``, ``058Y``, ``006M``, ``003W`` or ``010D``; None where there is no plausible age.

    Examples
    --------
    >>> [parse_age(text) for text in ("058Y", "006M", "414", "")]
    [58.0, 0.5, None, None]
    """
    match = _AGE.fullmatch((text or "").strip())
    if not match:
        return None
    years = float(match[1]) / _PER_YEAR[match[2].upper()]
    return years if years <= OLDEST else None


def parse_sex(text: str | None) -> str | None:
    """Return ``M`` or ``F`` from ``M``, ``Male``, ``F``, ``Female``; None for anything else."""
    return {"m": "M", "male": "M", "f": "F", "female": "F"}.get((text or "").strip().lower())


def parse_view(text: str | None) -> str | None:
    """Return ``PA``, ``AP``, ``LATERAL`` (also for ``LL``, ``RL``, ``LAT``) or None for anything else."""
    word = (text or "").strip().upper()
    if word in ("PA", "AP"):
        return word
    return "LATERAL" if word in ("LATERAL", "LAT", "LL", "RL", "LLAT", "RLAT") else None


def text_or_none(text: str | None) -> str | None:
    """Return the stripped text, or None where nothing is left."""
    return (text or "").strip() or None
