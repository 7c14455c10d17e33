"""Where the heavy work runs: Ray, started only once something has to run, or this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

from classifiers.cnn.request import TrainingRequest
from featurestore.errors import CxrError, UsageError
from featurestore.extraction.plan import Plan
from featurestore.extraction.worker_config import WorkerConfig
from jobs.cluster import Resources, ray_cluster
from jobs.runners.outcome import Outcome
from jobs.runners.placement import actor_count

Result = TypeVar("Result")


class Workers:
    """A context in which shards and weights can be handed to workers.

    Parameters
    ----------
    use_ray : bool
        False runs everything in this process.
    address : str, optional
        Of a running Ray cluster, as `ray_cluster` takes it; it is connected to when first needed.
    """

    def __init__(self, *, use_ray: bool = True, address: str | None = None) -> None:
        self.use_ray = use_ray
        self._address = address
        self._stack = ExitStack()
        self._resources: Resources | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def call(self, function: Callable[..., Result], *arguments: Any, gpu: bool = False) -> Result:
        """Run one function that needs torch, in a worker; a worker's clear sentence stays one here.

        Parameters
        ----------
        function : callable
            Importable; its arguments and result are small.
        *arguments
        gpu : bool
            Whether it needs a GPU.
        """
        if not self.use_ray:
            return function(*arguments)
        self._start()
        import ray

        try:
            result: Result = ray.get(ray.remote(function).options(num_gpus=int(gpu)).remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, CxrError) else error) from None
        return result

    def run(self, config: WorkerConfig, plan: Plan, deadline: float, decode_workers: int = 0) -> Iterator[Outcome]:
        """Yield the outcome of every shard of ``plan``.

        Parameters
        ----------
        config : WorkerConfig
        plan : Plan
        deadline : float
            Seconds one shard may take; without Ray there is none.
        decode_workers : int
            Processes that decode for the actors; 0 lets these do it themselves.

        Raises
        ------
        UsageError
            For decode workers without Ray, or more of them than the cluster has room for.
        """
        if not self.use_ray:
            if decode_workers:
                message = f"--decode-workers {decode_workers}: they are Ray's; leave that out, or --no-ray"
                raise UsageError(message)
            from jobs.runners.local import run_here

            return run_here(config, plan.shards())
        resources = self._start()
        from jobs.runners.actors import ActorPool

        return ActorPool(config, resources, deadline, decode_workers=decode_workers).run(plan.shards())

    def train(self, request: TrainingRequest, count: int | None, watch: Callable[[], object]) -> None:
        """Train networks; what comes of it stands in the store.

        Parameters
        ----------
        request : TrainingRequest
        count : int or None
            Workers; None is one a GPU, or one. Without Ray it is always one.
        watch : callable
            Called now and then meanwhile.
        """
        if self.use_ray:
            from jobs.runners.training import train_on_ray

            train_on_ray(request, self._start(), count, watch)
            return
        from classifiers.cnn.place import Place
        from classifiers.cnn.session import run_session

        run_session(request, Place.alone(), watch)

    @property
    def has_gpu(self) -> bool:
        """Return whether the cluster has a GPU. Without Ray only torch could tell, in the worker."""
        return self.use_ray and self._start().gpus > 0

    @property
    def actors(self) -> int:
        """Return how many actors share the shards."""
        if not self.use_ray:
            return 1
        return actor_count(self._start())

    @property
    def threads(self) -> int:
        """Return how many threads one worker has for its networks."""
        return self._start().cpus_per_node if self.use_ray else os.cpu_count() or 1

    def _start(self) -> Resources:
        if self._resources is None:
            self._resources = self._stack.enter_context(ray_cluster(self._address))
        return self._resources
