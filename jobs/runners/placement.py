"""How many actors a cluster gets, and what each of them asks for."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Any

from featurestore.errors import HarmError, UsageError
from featurestore.extraction.worker_config import WorkerConfig
from jobs.cluster import Resources


def actor_count(resources: Resources) -> int:
    """Return one actor per GPU, or one on each node with a CPU where there is none."""
    return resources.gpus or resources.cpu_nodes


def actor_options(
    config: WorkerConfig, resources: Resources, decode_workers: int
) -> tuple[dict[str, Any], WorkerConfig]:
    """Return Ray's options for one actor, and ``config`` with the threads that fit them.

    Raises
    ------
    HarmError
        If the cluster has no CPU.
    UsageError
        If so many decode workers leave the actors too little.
    """
    if resources.cpus < 1:
        message = "the cluster has no CPU for a worker now; start a worker node (min_workers), or use --no-ray"
        raise HarmError(message)
    cpus = _cpus_per_actor(resources, decode_workers)
    actors = actor_count(resources)
    room = resources.cpus - cpus * actors
    if decode_workers > room:
        message = (
            f"--decode-workers {decode_workers}: the cluster has {resources.cpus} CPUs, and its {actors} actors need "
            f"{cpus} each; give at most {room}, or start more CPU nodes"
        )
        raise UsageError(message)
    gpu = {"num_gpus": 1} if resources.gpus else {}
    return {**gpu, "num_cpus": cpus}, replace(config, threads=max(1, cpus), decode_threads=max(1, cpus))


def _cpus_per_actor(resources: Resources, decode_workers: int) -> int:
    """Return all that one node can give, less what the decode workers need."""
    if resources.gpus:
        return min(1, resources.cpus_per_gpu) if decode_workers else resources.cpus_per_gpu
    return max(1, resources.cpus_per_node - ceil(decode_workers / resources.cpu_nodes))


def in_words(options: dict[str, Any]) -> str:
    """Say what an actor needs to a person."""
    names = {"num_gpus": "GPU", "num_cpus": "CPU"}
    return " and ".join(f"{count} {names[key]}{'' if count == 1 else 's'}" for key, count in options.items())
