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
