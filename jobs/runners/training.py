"""Ray Train: one worker a GPU, or some on CPUs, started again from the last checkpoint when one dies (docs/adr/0011).

Ray Train's own trainer needs torch, so it is built in a task on the cluster and the driver stays without.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from classifiers.cnn.records import FOLDER
from classifiers.cnn.request import TrainingRequest
from featurestore.errors import CxrError, StoppedError, UsageError
from featurestore.store import Store
from jobs.cluster import Resources

MAX_FAILURES = 3
"""So often a run starts its workers again by itself."""
COLLECTIVE_SECONDS = 7200
"""So long workers wait for each other: the first one of a machine decodes all images meanwhile."""
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Share:
    """How many workers there are, and what each gets.

    Parameters
    ----------
    workers : int
    cpus : int
        For each; also its threads.
    gpu : bool
    """

    workers: int
    cpus: int
    gpu: bool

    def of_one(self) -> dict[str, float]:
        """Return Ray's resources of one worker."""
        return {"CPU": self.cpus, **({"GPU": 1} if self.gpu else {})}


def share_out(resources: Resources, workers: int | None) -> Share:
    """Divide a cluster among workers; by default one a GPU, or a single one.

    Raises
    ------
    UsageError
        If there is not a GPU, or else a CPU, for each.
    """
    count = workers or resources.gpus or 1
    most, what = (resources.gpus, "GPUs") if resources.gpus else (resources.cpus, "CPUs")
    if count > most:
        message = f"--workers {count}: the cluster has {most} {what}, one a worker; give at most {most}"
        raise UsageError(message)
    if resources.gpus:
        return Share(count, max(1, resources.cpus_per_gpu), True)
    return Share(count, max(1, min(resources.cpus_per_node, resources.cpus // count)), False)


def train_on_ray(
    request: TrainingRequest, resources: Resources, workers: int | None, watch: Callable[[], object]
) -> None:
    """Train on the cluster; what comes of it stands in the store.

    Parameters
    ----------
    request : TrainingRequest
    resources : Resources
    workers : int or None
    watch : callable
        Called every second meanwhile, and at the end.

    Raises
    ------
    StoppedError
        If workers keep dying; the finished epochs are stored.
    """
    share = share_out(resources, workers)
    done = ray.remote(num_cpus=0, max_retries=0)(_fit).remote(request, share)
    while not ray.wait([done], timeout=_POLL_SECONDS)[0]:
        watch()
    try:
        ray.get(done)
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, CxrError) else error) from None
    except RayError as error:
        message = f"the training's task died ({error}); finished epochs are stored: run the same command again"
        raise StoppedError(message) from error
    finally:
        watch()


def _fit(request: TrainingRequest, share: Share) -> None:
    """Run Ray Train; on the cluster."""
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # a user's own backbone is imported from the working folder
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    location = Store(request.store_uri).location
    notes = f"{FOLDER}/{request.name}/_ray"
    trainer = TorchTrainer(
        _work,
        train_loop_config={"request": request, "threads": share.cpus},
        torch_config=TorchConfig(timeout_s=COLLECTIVE_SECONDS),
        scaling_config=ScalingConfig(num_workers=share.workers, use_gpu=share.gpu, resources_per_worker=share.of_one()),
        run_config=RunConfig(
            name=request.run_id,
            storage_path=location.inside(notes),
            storage_filesystem=location.filesystem(),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise _in_words(error) from None
    finally:
        for path in location.list_files(notes):
            location.remove(f"{notes}/{path}")


def _work(config: dict[str, Any]) -> None:
    """Be one worker."""
    import ray.train
    from ray.train.torch import get_device

    from classifiers.cnn.place import Place
    from classifiers.cnn.session import run_session

    context = ray.train.get_context()
    place = Place(
        context.get_world_rank(), context.get_world_size(), context.get_local_rank(), config["threads"], get_device()
    )
    run_session(config["request"], place)


def _in_words(error: Exception) -> CxrError:
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    for failure in failures.values():
        if isinstance(failure, CxrError):
            return failure
    last = next((str(failure) for failure in failures.values()), str(error)).strip().splitlines()
    return StoppedError(
        f"training workers failed more than {MAX_FAILURES} times, last with: {last[-1][:300] if last else 'no word'}"
        "; finished epochs are stored: mend the cause and run the same command again"
    )
