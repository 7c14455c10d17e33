"""What can become of a shard."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.extraction.plan import Shard
from featurestore.extraction.result import ShardResult


@dataclass(frozen=True)
class Finished:
    """A worker ran the shard; its files wait for their commit."""

    shard: Shard
    result: ShardResult


@dataclass(frozen=True)
class Poison:
    """A single image on which workers keep dying; it is rejected so that the rest can go on."""

    shard: Shard
    reason: str


Outcome = Finished | Poison

MAX_DEATHS_OF_ONE_IMAGE = 2


def search(shard: Shard, reason: str) -> list[Shard] | Poison:
    """Return where to look for the image that made ``shard`` fail, or that image once it failed twice alone."""
    if len(shard.items) == 1 and shard.deaths + 1 >= MAX_DEATHS_OF_ONE_IMAGE:
        return Poison(shard, f"its worker failed {shard.deaths + 1} times on this image alone: {reason}")
    return shard.halves()
