"""One cell at a time: a head fitted on one backbone's stored vectors, and its probabilities for held-out images.

A cell that is stored already is not fitted again, and keeps the seconds it took. Nothing is written while fitting:
`run_cell` may run in any worker, and the driver alone commits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from classifiers.approaches import ALL, CONCATENATED, EMBEDDINGS, STACKING_B
from classifiers.cells import Cell, cell_id
from classifiers.design import design
from classifiers.heads import FittedHead, fit_head, head_spec
from classifiers.label_map import LabelMap, made_of
from classifiers.labels import LabelPolicy, check_labels, dataset_labels
from classifiers.rows import CellRows, load_rows
from classifiers.splits import load_split
from featurestore.errors import UsageError
from featurestore.store.schema import TABLES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurestore.store import Store

_LIBRARIES = ("numpy", "scipy", "scikit-learn", "lightgbm")
_MAX_SEED = 2**32 - 1
_IN_PARAMS = ("policy", "labels", "several", "in_sample", "groups")


@dataclass(frozen=True)
class CellResult:
    """What came of a cell.

    Parameters
    ----------
    cell : Cell
    model_row : pyarrow.Table
        One row of `models`; none where every label failed.
    predictions : pyarrow.Table
        Rows of `predictions`: every held-out image x fitted label.
    failed : mapping of str to str
        Why a label has no model.
    cached : bool
        Whether the store had it already.
    """

    cell: Cell
    model_row: pa.Table
    predictions: pa.Table
    failed: Mapping[str, str]
    cached: bool = False


def plan_cells(
    store: Store,
    dataset: str,
    split: str,
    heads: Sequence[str],
    specs: Mapping[str, tuple[str, str]],
    labels: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    policy: LabelPolicy | None = None,
    approach: str = EMBEDDINGS,
    *,
    concatenate: bool = False,
    in_sample: bool = False,
    label_map: LabelMap | None = None,
) -> list[Cell]:
    """List the cells of heads x backbones x seeds (x folds), having checked that they can be fitted.

    Parameters
    ----------
    store : Store
    dataset, split, heads
        See `Cell`.
    specs : mapping of str to (str, str)
        ``{backbone: (spec_id, weights)}``.
    labels : sequence of str, optional
        Default: every label the data set offers.
    seeds : sequence of int
    policy : LabelPolicy, optional
    approach : {"embeddings", "stacking-a", "stacking-b"}
    concatenate : bool
        Of embeddings: one head on all backbones' vectors side by side.
    in_sample : bool
        Of stacking B: see `Cell`.
    label_map : LabelMap, optional
        Whose labels are learnt, each the maximum over a group of the data set's; ``labels`` may choose among them.

    Returns
    -------
    list of Cell

    Raises
    ------
    UsageError
        An unknown data set, split, head or label, a seed out of range, no backbone, or images of the split without a
        vector that were not rejected either; the message names what there is.
    """
    offered, groups = dataset_labels(store, dataset), label_map or {}
    names = list(labels if labels is not None else groups or offered)
    members = [m for name in names for m in made_of(name, groups, offered) or (name,)]
    check_labels(store, dataset, list(dict.fromkeys(members)) if label_map else names)
    grouped = tuple((name, made_of(name, groups, offered)) for name in names if name in groups)
    for seed in seeds:
        if not 0 <= seed <= _MAX_SEED:
            raise UsageError(f"seed {seed}: expected 0 to {_MAX_SEED}")
    for head in heads:
        head_spec(head)
    if not specs:
        raise UsageError("no backbone to fit heads on; run `cxr extract` first")
    folds = load_split(store, dataset, split).fold_numbers()
    several: tuple[tuple[str, str], ...] = ()
    if approach != EMBEDDINGS or concatenate:
        several = tuple((backbone, spec_id) for backbone, (spec_id, _) in specs.items())
        specs = {CONCATENATED if approach == EMBEDDINGS else ALL: _joined(specs)}
    asked = policy or LabelPolicy()
    cells = [
        Cell(dataset, split, head, name, *spec, tuple(names), fold, seed, asked, approach, several, in_sample, grouped)
        for head in heads
        for seed in seeds
        for name, spec in specs.items()
        for fold in folds
    ]
    for cell in {cell.spec_id: cell for cell in cells}.values():
        load_rows(store, cell)
    return cells


def _joined(specs: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    weights = dict.fromkeys(name for _, name in specs.values())
    return "+".join(spec_id for spec_id, _ in specs.values()), "+".join(weights)


def run_cell(store: Store, cell: Cell, n_jobs: int = 1, run_id: str | None = None) -> CellResult:
    """Fit one cell and predict every val and test image (kfold: the held-out fold). Writes nothing.

    Parameters
    ----------
    store : Store
    cell : Cell
    n_jobs : int
        Threads for fitting. Prediction takes one, so that its numbers are the same everywhere.
    run_id : str, optional
        The job that fits; a cached cell keeps the one that fitted it.

    Returns
    -------
    CellResult
        Also where the cell fails: then without rows, and with the reason for every label. One bad cell never stops
        the others.
    """
    try:
        return _run(store, cell, n_jobs, run_id)
    except Exception as error:  # noqa: BLE001 - a head is anyone's code; whatever it raises is this cell's result
        reason = str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
        return CellResult(cell, _empty("models"), _empty("predictions"), dict.fromkeys(cell.labels, reason))


def fit_cell(store: Store, cell: Cell, n_jobs: int = 1) -> FittedHead:
    """Fit a cell's head again, exactly as `run_cell` did: heads are cheap and deterministic, so none is pickled."""
    rows = load_rows(store, cell)
    return _fit(cell, rows, design(store, cell, rows, n_jobs).train, n_jobs)


def commit_cells(store: Store, results: Sequence[CellResult]) -> int:
    """Write fitted cells and return how many models were new.

    Predictions go first: a model's row says that all of it is there, so a crash in between leaves a cell that is
    fitted again, never one that is taken for whole.
    """
    fresh = [result for result in results if not result.cached and result.model_row.num_rows]
    if not fresh:
        return 0
    store.append("predictions", pa.concat_tables([result.predictions for result in fresh]))
    return store.append("models", pa.concat_tables([result.model_row for result in fresh]))


def _run(store: Store, cell: Cell, n_jobs: int, run_id: str | None) -> CellResult:
    tables = store.versions()
    rows = load_rows(store, cell)
    model_id = cell_id(cell, rows.digest)
    stored = store.query("SELECT * FROM models WHERE model_id = ?", [model_id])
    if stored.num_rows:
        return _cached(store, cell, stored)
    below = head_spec(cell.head)
    below.factory(seed=0, n_jobs=1, **below.params_for(cell.backbone))  # import the library off the clock
    start = perf_counter()
    X = design(store, cell, rows, n_jobs)
    if cell.approach != STACKING_B:  # there the heads below are fitted meanwhile, else vectors are read
        start = perf_counter()
    head = _fit(cell, rows, X.train, n_jobs)
    fitted = perf_counter()
    if not head.blocks:
        return CellResult(cell, _empty("models"), _empty("predictions"), head.failed)
    probabilities = head.predict(X.held)
    seconds = {"fit_seconds": fitted - start, "predict_seconds": perf_counter() - fitted}
    about = {"model_id": model_id, "tables": json.dumps(tables), "run_id": run_id, **seconds}
    return CellResult(
        cell, _model_row(cell, rows, head, about), _prediction_rows(rows, head, probabilities, model_id), head.failed
    )


def _fit(cell: Cell, rows: CellRows, X: NDArray[np.float32], n_jobs: int) -> FittedHead:
    spec, Y = cell.fitted_head, rows.train_labels
    return fit_head(spec, X, Y, cell.labels, seed=cell.seed, n_jobs=n_jobs, backbone=cell.backbone)


def _cached(store: Store, cell: Cell, stored: pa.Table) -> CellResult:
    model_id = stored["model_id"][0].as_py()
    predictions = store.query("SELECT * FROM predictions WHERE model_id = ?", [model_id])
    failed = json.loads(stored["params"][0].as_py())["failed"]
    return CellResult(cell, stored, predictions, failed, cached=True)


def _model_row(cell: Cell, rows: CellRows, head: FittedHead, about: Mapping[str, Any]) -> pa.Table:
    params = {
        "head": head.spec.params_for(cell.backbone),
        "factory": cell.head,
        "policy": asdict(cell.policy),
        "labels": list(cell.labels),
        "failed": dict(head.failed),
        "without_vector": rows.without_vector,
        "several": [list(pair) for pair in cell.several],
        "label_map": dict(cell.groups),
    }
    described = {key: value for key, value in asdict(cell).items() if key not in _IN_PARAMS}
    row = {
        **described,
        **about,
        "head": cell.head_name,
        "labels": list(head.labels_ok),
        "params": json.dumps(params),
        "digest": rows.digest,
        "n_train": len(rows.train_ids),
        "versions": json.dumps({library: version(library) for library in _LIBRARIES}),
        "created_at": datetime.now(UTC).replace(tzinfo=None),
    }
    return pa.Table.from_pylist([row], schema=TABLES["models"].schema)


def _prediction_rows(rows: CellRows, head: FittedHead, probabilities: NDArray[np.float64], model_id: str) -> pa.Table:
    """Lay (n_held, n_labels) out as rows, image by image."""
    columns = [head.labels.index(label) for label in head.labels_ok]
    images, labels = len(rows.held_ids), len(columns)
    table = {
        "model_id": pa.repeat(pa.scalar(model_id), images * labels),
        "image_id": np.repeat(np.asarray(rows.held_ids, dtype=object), labels),
        "label": np.tile(np.asarray(head.labels_ok, dtype=object), images),
        "part": np.repeat(np.asarray(rows.held_parts, dtype=object), labels),
        "fold": pa.repeat(pa.scalar(rows.fold, type=pa.int16()), images * labels),
        "probability": probabilities[:, columns].ravel(),
    }
    return pa.table(table, schema=TABLES["predictions"].schema)


def _empty(table: str) -> pa.Table:
    return TABLES[table].schema.empty_table()
