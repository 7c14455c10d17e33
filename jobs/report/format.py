"""How a number is written in the report: one place, so that the same number reads the same everywhere."""

from __future__ import annotations

import math
from typing import TypeGuard

from markupsafe import Markup

DASH = "–"


def known(value: object) -> TypeGuard[float]:
    """Return whether `value` is a number that can be shown (neither None nor NaN)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def missing(why: str = "not known") -> Markup:
    """Return an en dash whose title says why there is no number."""
    return Markup('<span class="none" title="{}">–</span>').format(why)


def count(value: float | None, why: str = "not known") -> str:
    """Return a whole number with thousands separated (``5,257``)."""
    return f"{value:,.0f}" if known(value) else missing(why)


def auc(value: float | None, why: str = "not known") -> str:
    """Return an area under the curve in three decimals (``0.856``)."""
    return f"{value:.3f}" if known(value) else missing(why)


def interval(lo: float | None, hi: float | None) -> str:
    """Return an interval beneath its AUC (``0.80–0.91``), or nothing where there is none."""
    return f"{lo:.2f}{DASH}{hi:.2f}" if known(lo) and known(hi) else ""


def seconds(value: float | None, why: str = "not recorded") -> str:
    """Return a duration in the unit a person would use (``0.42 s``, ``75 s``, ``3 min 05 s``, ``2 h 10 min``)."""
    if not known(value):
        return missing(why)
    if value < 10:
        return f"{value:.2f} s"
    if value < 100:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def rate(value: float | None, why: str = "not recorded") -> str:
    """Return a speed in three significant digits (``1.56``, ``365``)."""
    if not known(value):
        return missing(why)
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def share(part: float | None, whole: float | None) -> str:
    """Return `part` of `whole` as a percentage (``62 %``, ``<1 %``)."""
    if not (known(part) and known(whole) and whole > 0):
        return missing()
    percent = 100 * part / whole
    return "<1 %" if 0 < percent < 0.5 else f"{percent:.0f} %"


def number(value: object, why: str = "not known") -> str:
    """Return any value of a caller's own: four significant digits for a float, text as it is."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return missing(why)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
