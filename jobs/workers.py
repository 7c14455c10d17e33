"""Where the heavy work runs: Ray, started only once something has to run, or this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

from featurestore.errors import CxrError
from featurestore.extraction.plan import Plan
from featurestore.extraction.worker_config import WorkerConfig
from jobs.cluster import Resources, ray_cluster
from jobs.runners.outcome import Outcome

Result = TypeVar("Result")


class Workers:
    """A context in which shards and weights can be handed to workers.

    Parameters
    ----------
    use_ray : bool
        False runs everything in this process.
    address : str, optional
        Of a running Ray cluster; None starts a private one when first needed.
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

    def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run one function that needs torch, in a worker; a worker's clear sentence stays one here.

        Parameters
        ----------
        function : callable
            Importable; its arguments and result are small.
        *arguments
        """
        if not self.use_ray:
            return function(*arguments)
        self._start()
        import ray

        try:
            result: Result = ray.get(ray.remote(function).remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, CxrError) else error) from None
        return result

    def run(self, config: WorkerConfig, plan: Plan, deadline: float) -> Iterator[Outcome]:
        """Yield the outcome of every shard of ``plan``."""
        if not self.use_ray:
            from jobs.runners.local import run_here

            return run_here(config, plan.shards())
        resources = self._start()
        from jobs.runners.actors import ActorPool

        return ActorPool(config, resources, deadline).run(plan.shards())

    def _start(self) -> Resources:
        if self._resources is None:
            self._resources = self._stack.enter_context(ray_cluster(self._address))
        return self._resources
