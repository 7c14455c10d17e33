"""Timing several ways of one thing side by side, so that a slow moment of a shared machine hits all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Timed:
    """Wall-clock seconds of each arm, one value a round."""

    seconds: Mapping[str, list[float]]

    def median(self, arm: str) -> float:
        """Return an arm's median."""
        return median(self.seconds[arm])

    def ratio(self, slow: str, fast: str) -> float:
        """Return the seconds of one arm over those of another: the median of the rounds' ratios."""
        return median(s / f for s, f in zip(self.seconds[slow], self.seconds[fast], strict=True))

    def rows(self, beside: str) -> list[dict[str, Any]]:
        """Return a table: median, range, and the time over that of the arm ``beside``, with the range over rounds."""
        return [
            {
                "arm": arm,
                "median s": self.median(arm),
                "range s": _range(values),
                f"x {beside}": self._beside(arm, beside),
            }
            for arm, values in self.seconds.items()
        ]

    def _beside(self, arm: str, beside: str) -> str:
        ratios = [a / b for a, b in zip(self.seconds[arm], self.seconds[beside], strict=True)]
        return f"{median(ratios):.2f} ({_range(ratios)})"


def _range(values: list[float]) -> str:
    return f"{min(values):.3g}-{max(values):.3g}"


def interleave(arms: Mapping[str, Callable[[], object]], repeats: int) -> Timed:
    """Run every arm once to warm up, then all of them ``repeats`` times, each round beginning with another."""
    names = list(arms)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(repeats + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            taken = _time(arms[name])
            if number:
                seconds[name].append(taken)
    return Timed(seconds)


def _time(work: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    result = work()
    taken = time.perf_counter() - start
    del result  # freeing it is not part of the work
    return taken
