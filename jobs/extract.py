"""The extraction job: resolve weights, plan, run shards, commit. The driver never imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from time import perf_counter

import pyarrow as pa

from featurestore.backbones.weights import weights_name
from featurestore.extraction.plan import Plan, PlannedSpec, make_plan
from featurestore.extraction.result import RejectedPair, ShardResult, Timing
from featurestore.extraction.worker_config import WorkerConfig
from featurestore.store import Store
from featurestore.store.commit import Committer
from featurestore.store.schema import TABLES
from jobs.progress import progress
from jobs.runlog import Run, record_run, utc_now
from jobs.runners.outcome import Finished, Outcome
from jobs.specs import ResolvedSpec, register, resolve_specs
from jobs.workers import Workers


@dataclass(frozen=True)
class ExtractRequest:
    """What to extract.

    Parameters
    ----------
    dataset : str
    backbones : str
        ``all`` or a comma-separated list.
    weights : str
        ``imagenet``, ``random:SEED`` or a path.
    preprocess : str
    size : int
        Pixels.
    retry_rejects : bool
    shard_images : int
        Images per shard: the unit of commit, and the most that a kill can cost.
    deadline : float
        Seconds one shard may take before its worker is taken for hung.
    """

    dataset: str
    backbones: str = "all"
    weights: str = "imagenet"
    preprocess: str = "bilinear-v1"
    size: int = 224
    retry_rejects: bool = False
    shard_images: int = 64
    deadline: float = 1800.0

    def for_the_record(self) -> dict[str, object]:
        """Return the fields with weights by name: a path says more than a report should."""
        return asdict(self) | {"weights": weights_name(self.weights, self.backbones)}


@dataclass
class Summary:
    """What an extraction did.

    Parameters
    ----------
    run_id : str
    specs : dict of str to str
        spec_id by backbone.
    written, skipped, rejected, lost : int
        Pairs of image and spec: stored now, stored before, unusable (now or before), neither.
    seconds : float
    images_per_second : float or None
        Images through all their networks per second, model loading and planning left out; None where none ran.
    """

    run_id: str
    specs: dict[str, str]
    written: int = 0
    skipped: int = 0
    rejected: int = 0
    lost: int = 0
    seconds: float = 0.0
    images_per_second: float | None = None


def plan(store: Store, request: ExtractRequest, workers: Workers) -> Plan:
    """Return what `extract` would do, without doing it."""
    store.require_dataset(request.dataset)
    return _plan(store, request, _resolve(store, request, workers))


def extract(
    store: Store, request: ExtractRequest, workers: Workers, announce: Callable[[Plan], object] = lambda plan: None
) -> Summary:
    """Run the pending pairs and store them, each exactly once.

    Parameters
    ----------
    store : Store
    request : ExtractRequest
    workers : Workers
    announce : callable
        Told the plan before anything runs.

    Raises
    ------
    featurestore.errors.UsageError
        For a data set, backbone or weights that cannot be had.
    featurestore.errors.StoppedError
        If workers keep dying; what was finished is stored.
    """
    store.require_dataset(request.dataset)
    with record_run(store, "extract", request.dataset, request.for_the_record()) as run:
        timing, start = Timing(), perf_counter()
        with timing.stage("resolve"):
            specs = _resolve(store, request, workers)
            register(store, specs)
        with timing.stage("plan"):
            todo = _plan(store, request, specs)
        announce(todo)
        job = _Job(store, todo, run, timing)
        if todo.images_to_decode:
            job.run_shards(workers.run(_config(store, request, specs, run), todo, request.deadline))
        return _summary(store, todo, job, perf_counter() - start)


def _summary(store: Store, todo: Plan, job: _Job, seconds: float) -> Summary:
    """Count from a fresh snapshot: what is planned still, after everything was done, is lost."""
    after = make_plan(store, todo.dataset, todo.specs, shard_images=todo.shard_images)
    pairs = after.images * len(todo.specs)
    return Summary(
        run_id=job.run_id,
        specs={s.backbone: s.spec_id for s in todo.specs},
        written=job.written,
        skipped=pairs - job.written - after.rejected - after.pending_pairs,
        rejected=after.rejected,
        lost=after.pending_pairs,
        seconds=seconds,
        images_per_second=job.images / job.run_seconds if job.images else None,
    )


def _resolve(store: Store, request: ExtractRequest, workers: Workers) -> list[ResolvedSpec]:
    return resolve_specs(store, request.backbones, request.weights, request.preprocess, request.size, workers)


def _plan(store: Store, request: ExtractRequest, specs: list[ResolvedSpec]) -> Plan:
    planned = [PlannedSpec(s.backbone.name, s.spec.spec_id, s.backbone.n_features) for s in specs]
    return make_plan(
        store, request.dataset, planned, shard_images=request.shard_images, retry_rejects=request.retry_rejects
    )


def _config(store: Store, request: ExtractRequest, specs: list[ResolvedSpec], run: Run) -> WorkerConfig:
    backbones = tuple((s.backbone, s.request, s.spec.weights_sha256, s.spec.spec_id) for s in specs)
    return WorkerConfig(store.uri, run.run_id, backbones, request.preprocess, request.size)


class _Job:
    """Commits outcomes as they come and keeps the counts.

    Scores are committed before embeddings: only embeddings make a pair count as done, so a death in between
    repeats the pair instead of losing its scores.
    """

    def __init__(self, store: Store, plan: Plan, run: Run, timing: Timing) -> None:
        self._store, self._plan, self._run, self._timing = store, plan, run, timing
        known = {"embeddings": plan.known_files, "scores": ()}
        self._committers = {name: Committer(store.location, TABLES[name], files) for name, files in known.items()}
        self._devices: dict[str, dict[str, str]] = {}
        self.run_id = run.run_id
        self.written = self.rejected = self.images = 0
        self.run_seconds = 0.0

    def run_shards(self, outcomes: Iterator[Outcome]) -> None:
        """Take every outcome to its end."""
        start = perf_counter()
        try:
            with progress("extract", self._plan.images_to_decode, "images") as bar:
                for outcome in outcomes:
                    self._settle(outcome)
                    bar.update(len(outcome.shard.items))
        finally:
            self.run_seconds = perf_counter() - start
            self._log()

    def _settle(self, outcome: Outcome) -> None:
        if isinstance(outcome, Finished):
            self._commit(outcome.result, len(outcome.shard.spec_ids))
        else:
            item = outcome.shard.items[0]
            pair = RejectedPair(item.image_id, item.uri, "model", outcome.reason, True)
            self._reject([pair], len(outcome.shard.spec_ids))

    def _commit(self, result: ShardResult, n_specs: int) -> None:
        with self._timing.stage("commit"):
            self._committers["scores"].commit(result.scores)
            self.written += self._committers["embeddings"].commit(result.embeddings)
        self._reject(result.rejects, n_specs)
        self.images += result.images
        self._timing.merge(result.timing)
        self._devices[result.worker["pid"]] = result.worker

    def _reject(self, pairs: list[RejectedPair], n_specs: int) -> None:
        if not pairs:
            return
        self.rejected += sum(1 if pair.spec_id else n_specs for pair in pairs)
        now = utc_now()
        rows = [
            asdict(pair) | {"dataset": self._plan.dataset, "run_id": self._run.run_id, "rejected_at": now}
            for pair in pairs
        ]
        self._store.append("rejects", pa.Table.from_pylist(rows))

    def _log(self) -> None:
        self._run.seconds |= {
            **self._timing.stages,
            "run": self.run_seconds,
            "by_backbone": self._timing.backbones,
        }
        self._run.device = list(self._devices.values())
        self._run.counts = {"written": self.written, "rejected": self.rejected, "images": self.images}
