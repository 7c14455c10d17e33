"""How close to the machine an extraction ran, from its own timing."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from featurestore.extraction.result import Timing


@dataclass(frozen=True)
class Efficiency:
    """Speed of one run.

    Parameters
    ----------
    images_per_second : float
        Images through all their networks, from the first shard's start to the last one's end: without starting
        workers, loading and compiling.
    ceiling : float
        Images a second if every batch had been as fast as the fastest of its network, and nothing had been done but
        that.
    shares : dict of str to float
        Of the workers' time: ``wait`` for pixels, ``infer``, ``write``; ``decode`` is that of threads beside it, and
        ``commit`` that of the driver.
    """

    images_per_second: float
    ceiling: float
    shares: dict[str, float]

    @property
    def of_ceiling(self) -> float:
        """Return the achieved share of the ceiling."""
        return self.images_per_second / self.ceiling

    def sentence(self) -> str:
        """Say it to a person."""
        return f"{self.images_per_second:.2f} images/s, {self.of_ceiling:.0%} of what the networks alone would do"

    def document(self) -> dict[str, object]:
        """Return it for the run log."""
        return asdict(self) | {"of_ceiling": self.of_ceiling}


def measure(timing: Timing, images: int, seconds: float, workers: int) -> Efficiency | None:
    """Return the speed of a run; None where nothing ran.

    Parameters
    ----------
    timing : Timing
        Merged over all shards.
    images : int
        That went through networks.
    seconds : float
        From the first shard's start to the last one's end.
    workers : int
    """
    if not images or seconds <= 0:
        return None
    networks_alone = sum(timing.fastest[name] * passed for name, passed in timing.passed.items())
    shares = {
        name: timing.stages.get(name, 0.0) / seconds / workers for name in ("wait", "decode", "infer", "write")
    } | {"commit": timing.stages.get("commit", 0.0) / seconds}
    return Efficiency(images / seconds, workers * images / networks_alone, shares)
