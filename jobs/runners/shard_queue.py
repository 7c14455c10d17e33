"""Which shard goes to an actor next: first those that have to be sent again, then the plan's."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from featurestore.extraction.plan import Shard

Sent = tuple[Shard, tuple[Any, ...]]
"""A shard, and what else its actor is given: nothing, or a reference to its pixels."""


class ShardQueue:
    """The plan's shards, only the next of which is ever made.

    Parameters
    ----------
    shards : iterator of Shard
    """

    def __init__(self, shards: Iterator[Shard]) -> None:
        self._shards = shards
        self._again: deque[Shard] = deque()

    def put_back(self, shards: Sequence[Shard]) -> None:
        """Let these be the next, in their order."""
        self._again.extendleft(reversed(shards))

    def take(self) -> Sent | None:
        """Return the next shard that an actor can have now."""
        return (self._again.popleft(), ()) if self.any_left() else None

    def any_left(self) -> bool:
        """Return whether a shard is still on its way to an actor."""
        if not self._again:
            self._again.extend(islice(self._shards, 1))
        return bool(self._again)

    def awaited(self) -> list[Any]:
        """Return what has to finish before `take` has more."""
        return []

    def overdue(self) -> list[Shard]:
        """Remove and return what was on its way for too long."""
        return []
