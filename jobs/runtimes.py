"""Which runtime computes each spec: the one that computed it so far, else the fastest for what is pending."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from featurestore.backbones.runtimes import KINDS, Choice, kind_of
from featurestore.extraction.plan import Plan
from featurestore.extraction.probe import probe
from featurestore.extraction.worker_config import WorkerConfig
from featurestore.store import Store
from featurestore.store.files import read_parquet
from jobs.workers import Workers

TRY_FROM = 200
"""Pending images from which on trying runtimes is worth starting at all."""


def with_runtimes(
    config: WorkerConfig, store: Store, todo: Plan, runtime: str, workers: Workers, say: Callable[[str], object]
) -> WorkerConfig:
    """Return ``config`` with a runtime for each spec.

    Vectors of one spec should come from one runtime where this machine offers it; they agree to 1e-3 in any.

    Parameters
    ----------
    config : WorkerConfig
    store : Store
    todo : Plan
    runtime : str
        ``auto``, or one of `KINDS` for all.
    workers : Workers
        Try runtimes, where many images are pending.
    say : callable
        Told what was chosen, for a person.
    """
    spec_ids = {spec.backbone: spec.spec_id for spec in todo.specs}
    pending = {spec_ids[name]: count for name, count in todo.pending_by_backbone.items() if count}
    if config.precision != "float32":
        return config  # which only eager PyTorch runs
    if runtime != "auto":
        return replace(config, runtimes=tuple((spec_id, runtime) for spec_id in pending))
    known = recorded(store, list(pending))
    many = {spec_id: count for spec_id, count in pending.items() if count >= TRY_FROM and spec_id not in known}
    chosen = {choice.spec_id: choice for choice in _choose(config, many, workers)}
    for choice in chosen.values():
        say(choice.sentence())
    kinds = known | {spec_id: choice.kind for spec_id, choice in chosen.items()}
    return replace(config, runtimes=tuple((spec_id, kinds.get(spec_id, KINDS[0])) for spec_id in pending))


def recorded(store: Store, spec_ids: list[str]) -> dict[str, str]:
    """Return the kind of runtime that computed the stored vectors of each spec, where there are any.

    Looks into one file of each spec; reading the column of a million vectors would take longer than it is worth.
    """
    snapshot = store.snapshot("embeddings")
    one = {f.partition["spec_id"]: f for f in snapshot.files if f.partition["spec_id"] in spec_ids and f.rows}
    return {spec_id: _most_common_kind(store, file.path) for spec_id, file in one.items()}


def _most_common_kind(store: Store, path: str) -> str:
    names = read_parquet(store.location, f"embeddings/{path}", columns=["runtime"])["runtime"].to_pylist()
    return kind_of(Counter(name or "" for name in names).most_common(1)[0][0])


def _choose(config: WorkerConfig, pending: Mapping[str, int], workers: Workers) -> tuple[Choice, ...]:
    if not pending or workers.has_gpu:
        return ()  # compiled forms are for the CPU
    return workers.call(probe, replace(config, threads=workers.threads), dict(pending), ()).choices
