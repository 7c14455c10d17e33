"""What a worker says about one shard. Without torch, so that a driver can read it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from featurestore.store.files import StagedFile


@dataclass(frozen=True)
class RejectedPair:
    """One image that a worker could not use; ``spec_id`` is None where no spec could."""

    image_id: str
    uri: str
    stage: str
    reason: str
    retryable: bool
    spec_id: str | None = None


@dataclass
class Timing:
    """Seconds by stage, and by backbone for the forward passes."""

    stages: dict[str, float] = field(default_factory=dict)
    backbones: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time inside the block to a stage."""
        start = perf_counter()
        try:
            yield
        finally:
            self.add(name, perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add seconds to a stage."""
        self.stages[name] = self.stages.get(name, 0.0) + seconds

    def add_backbone(self, name: str, seconds: float) -> None:
        """Add seconds to a backbone."""
        self.backbones[name] = self.backbones.get(name, 0.0) + seconds

    def merge(self, other: Timing) -> None:
        """Add another timing to this one."""
        for name, seconds in other.stages.items():
            self.add(name, seconds)
        for name, seconds in other.backbones.items():
            self.add_backbone(name, seconds)


@dataclass(frozen=True)
class ShardResult:
    """Files that wait for the driver's commit, and what happened on the way.

    Parameters
    ----------
    embeddings, scores : list of StagedFile
    rejects : list of RejectedPair
    images : int
        Images that went through the networks.
    timing : Timing
    worker : dict of str to str
        Host, device, pid and visible GPUs, for the run log.
    """

    embeddings: list[StagedFile]
    scores: list[StagedFile]
    rejects: list[RejectedPair]
    images: int
    timing: Timing
    worker: dict[str, str]
