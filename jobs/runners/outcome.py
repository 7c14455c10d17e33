"""What can become of a shard."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.errors import StoppedError
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
MAX_POISONS_IN_A_ROW = 20


class PoisonCount:
    """Stops a job in which image after image fails and nothing else ever finishes: the images are not the cause."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def finished(self) -> None:
        """Note that some shard came to its end."""
        self._in_a_row = 0

    def found(self, poison: Poison) -> None:
        """Note one image that is rejected for what its worker did.

        Raises
        ------
        StoppedError
            If it is one too many.
        """
        self._in_a_row += 1
        if self._in_a_row > MAX_POISONS_IN_A_ROW:
            message = (
                f"{self._in_a_row} images in a row made their worker fail, the last because {poison.reason}; it is "
                "hardly the images: mend the cause, then run the same command again with --retry-rejects"
            )
            raise StoppedError(message)


def search(shard: Shard, reason: str) -> list[Shard] | Poison:
    """Return where to look for the image that made ``shard`` fail, or that image once it failed twice alone."""
    if len(shard.items) == 1 and shard.deaths + 1 >= MAX_DEATHS_OF_ONE_IMAGE:
        return Poison(shard, f"its worker failed {shard.deaths + 1} times on this image alone: {reason}")
    return shard.halves()
