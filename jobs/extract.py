"""The extraction job: resolve weights, plan, run shards, commit. The driver never imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any

import pyarrow as pa

from featurestore import failpoints
from featurestore.backbones.weights import weights_name
from featurestore.extraction.plan import Plan, PlannedSpec, make_plan
from featurestore.extraction.result import RejectedPair, ShardResult, Timing
from featurestore.extraction.worker_config import WorkerConfig
from featurestore.store import Store
from featurestore.store.commit import Committer
from featurestore.store.schema import TABLES
from jobs.efficiency import Efficiency, measure
from jobs.estimate import estimate_hours, probe_hours
from jobs.progress import progress
from jobs.runlog import Run, record_run, utc_now
from jobs.runners.outcome import Finished, Outcome
from jobs.runtimes import with_runtimes
from jobs.specs import ResolvedSpec, register, resolve_specs
from jobs.workers import Workers

CPU_SHARD, GPU_SHARD = 64, 256


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
        Images per shard: the unit of commit, and the most that a kill can cost. 0 takes 64, on GPUs 256: with several
        batches in a shard the next ones are decoded while one is computed.
    deadline : float
        Seconds one shard may take before its worker is taken for hung.
    precision : str
        Of the forward pass: ``float32``, or ``float16`` and ``bfloat16``, which are other specs.
    runtime : str
        What computes the networks: ``auto``, or one of `featurestore.backbones.runtimes.KINDS`.
    decode_workers : int
        Ray tasks that decode for the actors; 0 lets each actor decode for itself.
    """

    dataset: str
    backbones: str = "all"
    weights: str = "imagenet"
    preprocess: str = "bilinear-v1"
    size: int = 224
    retry_rejects: bool = False
    shard_images: int = 0
    deadline: float = 1800.0
    precision: str = "float32"
    runtime: str = "auto"
    decode_workers: int = 0

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
    efficiency : Efficiency or None
        How close to the machine that is.
    """

    run_id: str
    specs: dict[str, str]
    written: int = 0
    skipped: int = 0
    rejected: int = 0
    lost: int = 0
    seconds: float = 0.0
    images_per_second: float | None = None
    efficiency: Efficiency | None = None


def plan(store: Store, request: ExtractRequest, workers: Workers) -> tuple[Plan, float]:
    """Return what `extract` would do, without doing it, and the hours it would take.

    The hours follow from earlier runs on this store; where there are none, the networks and the decoding of a few
    images are timed now.
    """
    store.require_dataset(request.dataset)
    specs = _resolve(store, request, workers)
    todo = _plan(store, request, specs)
    hours = estimate_hours(store, todo)
    return todo, probe_hours(_config(store, request, specs, ""), todo, workers) if hours is None else hours


def extract(
    store: Store,
    request: ExtractRequest,
    workers: Workers,
    announce: Callable[[Plan], object] = lambda plan: None,
    say: Callable[[str], object] = lambda sentence: None,
) -> Summary:
    """Run the pending pairs and store them, each exactly once.

    Parameters
    ----------
    store : Store
    request : ExtractRequest
    workers : Workers
    announce : callable
        Told the plan before anything runs.
    say : callable
        Told which runtimes were chosen by trial.

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
        failpoints.reach("driver.after-plan")
        job = _Job(store, todo, run, timing, workers)
        if todo.images_to_decode:
            if workers.has_gpu and not request.shard_images:
                todo = replace(todo, shard_images=GPU_SHARD)
            with timing.stage("choose"):
                config = _config(store, request, specs, run.run_id)
                config = with_runtimes(config, store, todo, request.runtime, workers, say)
            job.run_shards(workers.run(config, todo, request.deadline, request.decode_workers))
        failpoints.reach("driver.before-run-row")
        return _summary(store, todo, job, perf_counter() - start)


def _summary(store: Store, todo: Plan, job: _Job, seconds: float) -> Summary:
    """Count from a fresh snapshot: what was planned and is pending still is lost; what came meanwhile is not."""
    lost = make_plan(store, todo.dataset, todo.specs, shard_images=todo.shard_images).still_pending(todo)
    rejected = todo.rejected + job.rejected
    return Summary(
        run_id=job.run_id,
        specs={s.backbone: s.spec_id for s in todo.specs},
        written=job.written,
        skipped=todo.images * len(todo.specs) - job.written - rejected - lost,
        rejected=rejected,
        lost=lost,
        seconds=seconds,
        images_per_second=job.efficiency.images_per_second if job.efficiency else None,
        efficiency=job.efficiency,
    )


def _resolve(store: Store, request: ExtractRequest, workers: Workers) -> list[ResolvedSpec]:
    return resolve_specs(
        store, request.backbones, request.weights, request.preprocess, request.size, workers, request.precision
    )


def _plan(store: Store, request: ExtractRequest, specs: list[ResolvedSpec]) -> Plan:
    planned = [PlannedSpec(s.backbone.name, s.spec.spec_id, s.backbone.n_features) for s in specs]
    return make_plan(
        store,
        request.dataset,
        planned,
        shard_images=request.shard_images or CPU_SHARD,
        retry_rejects=request.retry_rejects,
    )


def _config(store: Store, request: ExtractRequest, specs: list[ResolvedSpec], run_id: str) -> WorkerConfig:
    backbones = tuple((s.backbone, s.request, s.spec.weights_sha256, s.spec.spec_id) for s in specs)
    return WorkerConfig(store.uri, run_id, backbones, request.preprocess, request.size, request.precision)


class _Job:
    """Commits outcomes as they come and keeps the counts.

    Scores are committed before embeddings: only embeddings make a pair count as done, so a death in between
    repeats the pair instead of losing its scores.
    """

    def __init__(self, store: Store, plan: Plan, run: Run, timing: Timing, workers: Workers) -> None:
        self._store, self._plan, self._run, self._timing, self._workers = store, plan, run, timing, workers
        known, images = {"embeddings": plan.known_files, "scores": ()}, plan.pending["image_id"]
        self._committers = {
            name: Committer(store.location, TABLES[name], files, images) for name, files in known.items()
        }
        self._devices: dict[str, dict[str, str]] = {}
        self.run_id = run.run_id
        self.written = self.rejected = self.images = 0
        self._spec_ids = {spec.backbone: spec.spec_id for spec in plan.specs}
        self.efficiency: Efficiency | None = None
        self._run.counts = self._counts()
        self._first_start: float | None = None

    def run_shards(self, outcomes: Iterator[Outcome]) -> None:
        """Take every outcome to its end."""
        start = perf_counter()
        try:
            with progress("extract", self._plan.images_to_decode, "images") as bar:
                for outcome in outcomes:
                    self._settle(outcome)
                    bar.update(len(outcome.shard.items))
        finally:
            self._log(perf_counter() - start)

    def _settle(self, outcome: Outcome) -> None:
        if isinstance(outcome, Finished):
            self._commit(outcome.result, len(outcome.shard.spec_ids))
        else:
            # For the specs that ran and no others: another network may well bear the image.
            item = outcome.shard.items[0]
            pairs = [
                RejectedPair(item.image_id, item.uri, "model", outcome.reason, True, spec_id)
                for spec_id in outcome.shard.spec_ids
            ]
            self._reject(pairs, len(pairs))

    def _commit(self, result: ShardResult, n_specs: int) -> None:
        if self._first_start is None:
            self._first_start = perf_counter() - result.seconds
        with self._timing.stage("commit"):
            failpoints.reach("driver.before-commit")
            self._committers["scores"].commit(result.scores)
            failpoints.reach("driver.between-commits")
            self.written += self._committers["embeddings"].commit(result.embeddings)
        self._reject(result.rejects, n_specs)
        self.images += result.images
        self._timing.merge(result.timing)
        self._devices[f"{result.worker['host']} {result.worker['pid']}"] = result.worker

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

    def _log(self, seconds: float) -> None:
        """Fill the run's row; ``seconds`` counts from the moment that workers were asked for."""
        working = perf_counter() - self._first_start if self._first_start else seconds
        self.efficiency = measure(self._timing, self.images, working, self._workers.actors)
        self._run.seconds |= {
            **self._timing.stages,
            "run": seconds,
            "start": seconds - working,
            "by_backbone": self._timing.backbones,
            "by_spec": {self._spec_ids[name]: spent for name, spent in self._timing.backbones.items()},
        }
        self._run.device = list(self._devices.values())
        self._run.counts = self._counts()
        if self.efficiency:
            self._run.counts["efficiency"] = self.efficiency.document()

    def _counts(self) -> dict[str, Any]:
        passed = {self._spec_ids[name]: images for name, images in self._timing.passed.items()}
        return {"written": self.written, "rejected": self.rejected, "images": self.images, "by_spec": passed}
