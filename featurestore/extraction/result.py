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
    """Seconds by stage, and by backbone for the forward passes.

    Parameters
    ----------
    stages, backbones : dict of str to float
        Sums.
    fastest : dict of str to float
        By backbone: seconds an image took in the fastest batch.
    passed : dict of str to int
        By backbone: images that went through it.
    """

    stages: dict[str, float] = field(default_factory=dict)
    backbones: dict[str, float] = field(default_factory=dict)
    fastest: dict[str, float] = field(default_factory=dict)
    passed: dict[str, int] = field(default_factory=dict)

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

    def add_batch(self, backbone: str, images: int, seconds: float) -> None:
        """Add one batch's forward pass to the stage ``infer`` and to its backbone."""
        self.add("infer", seconds)
        self._add_backbone(backbone, images, seconds, seconds / images)

    def merge(self, other: Timing) -> None:
        """Add another timing to this one."""
        for name, seconds in other.stages.items():
            self.add(name, seconds)
        for name, seconds in other.backbones.items():
            self._add_backbone(name, other.passed[name], seconds, other.fastest[name])

    def _add_backbone(self, name: str, images: int, seconds: float, fastest: float) -> None:
        self.backbones[name] = self.backbones.get(name, 0.0) + seconds
        self.passed[name] = self.passed.get(name, 0) + images
        self.fastest[name] = min(fastest, self.fastest.get(name, fastest))


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
    seconds : float
        From the shard's start to its end, without loading networks.
    """

    embeddings: list[StagedFile]
    scores: list[StagedFile]
    rejects: list[RejectedPair]
    images: int
    timing: Timing
    worker: dict[str, str]
    seconds: float = 0.0
