"""The training job: fit every cell that is not stored yet, commit each as it is done."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter

from classifiers.approaches import EMBEDDINGS
from classifiers.cells import Cell
from classifiers.label_map import LabelMap
from classifiers.labels import LabelPolicy
from classifiers.training import CellResult, commit_cells, plan_cells, run_cell
from featurestore.store import Store
from jobs.progress import progress
from jobs.runlog import record_run


@dataclass(frozen=True)
class TrainRequest:
    """What to fit; see `classifiers.training.plan_cells`."""

    dataset: str
    split: str
    heads: Sequence[str]
    specs: Mapping[str, tuple[str, str]]
    labels: Sequence[str] | None = None
    seeds: Sequence[int] = (0,)
    policy: LabelPolicy = field(default_factory=LabelPolicy)
    approach: str = EMBEDDINGS
    concatenate: bool = False
    in_sample: bool = False
    label_map: LabelMap | None = None


@dataclass(frozen=True)
class TrainSummary:
    """What a training did.

    Parameters
    ----------
    models, cached, failed : int
        Cells fitted now, found in the store, and without any model.
    seconds : float
    images_read : int
        Always 0: heads are fitted on stored vectors.
    model_ids : list of str
        Of every cell that has a model, fitted now or before.
    problems : list of str
        One sentence for each label of a cell that has no model.
    """

    models: int
    cached: int
    failed: int
    seconds: float
    images_read: int
    model_ids: list[str]
    problems: list[str]


def train(store: Store, request: TrainRequest) -> TrainSummary:
    """Fit heads on stored vectors. A cell that fails is marked; the others go on.

    Raises
    ------
    featurestore.errors.UsageError
        For a data set, split, head or label that is not there.
    """
    start = perf_counter()
    cells = plan_cells(
        store,
        request.dataset,
        request.split,
        request.heads,
        request.specs,
        labels=request.labels,
        seeds=request.seeds,
        policy=request.policy,
        approach=request.approach,
        concatenate=request.concatenate,
        in_sample=request.in_sample,
        label_map=request.label_map,
    )
    with record_run(store, "train", request.dataset, asdict(request)) as run:
        results: list[CellResult] = []
        with progress("train", len(cells), "heads") as bar:
            for cell in cells:
                results.append(run_cell(store, cell, n_jobs=os.cpu_count() or 1, run_id=run.run_id))
                commit_cells(store, results[-1:])
                bar.update(1)
        summary = _summary(results, perf_counter() - start)
        run.counts = {"models": summary.models, "cached": summary.cached, "failed": summary.failed}
        run.seconds |= _seconds(results)
    return summary


def _summary(results: Sequence[CellResult], seconds: float) -> TrainSummary:
    broken = [r for r in results if not r.model_row.num_rows]
    cached = sum(r.cached for r in results)
    return TrainSummary(
        models=len(results) - len(broken) - cached,
        cached=cached,
        failed=len(broken),
        seconds=seconds,
        images_read=0,
        model_ids=[r.model_row["model_id"][0].as_py() for r in results if r.model_row.num_rows],
        problems=[f"{_name(r.cell)}, {label}: {why}" for r in results for label, why in r.failed.items()],
    )


def _seconds(results: Sequence[CellResult]) -> dict[str, float]:
    fresh = [r.model_row for r in results if r.model_row.num_rows and not r.cached]
    return {stage: sum(row[f"{stage}_seconds"][0].as_py() for row in fresh) for stage in ("fit", "predict")}


def _name(cell: Cell) -> str:
    fold = "" if cell.fold is None else f", fold {cell.fold}"
    return f"{cell.head} on {cell.backbone}{fold}, seed {cell.seed}"
