"""From stored probabilities to the AUC table: every backbone, both ensembles, every label and the macro mean."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from classifiers.approaches import BASELINE
from classifiers.label_map import LabelMap, made_of
from classifiers.labels import LabelPolicy, check_labels, dataset_labels
from classifiers.scored import Scored, collect
from classifiers.selection import Model, Wanted, select_models, truth_groups
from classifiers.splits import Split, load_split
from classifiers.statistics import MIN_POSITIVE_PATIENTS, AucResult, clustered_auc
from featurestore.errors import UsageError
from featurestore.store.schema import TABLES

if TYPE_CHECKING:
    from featurestore.store import Store

MACRO = "macro"


@dataclass(frozen=True)
class Evaluation:
    """An evaluation.

    Parameters
    ----------
    dataset, split, part : str
    rows : list of dict
        The fields of ``cxr evaluate --json``, and ``fold``, ``seed``, ``note``. A kfold split has a row per fold and,
        with ``fold`` None, their mean. Seconds are the cell's: a forest over seven labels says the same in each row.
    scored : list of Scored
        What the rows were computed from.
    notes : list of str
        What holds for every row.
    """

    dataset: str
    split: str
    part: str
    rows: list[dict[str, Any]]
    scored: list[Scored]
    notes: list[str]


def evaluate(
    store: Store,
    dataset: str,
    split: str,
    part: str = "test",
    labels: Sequence[str] | None = None,
    heads: Sequence[str] | None = None,
    backbones: Sequence[str] | None = None,
    seed: int | None = None,
    specs: Mapping[str, str] | None = None,
    policy: LabelPolicy | None = None,
    unit: str = "image",
    model_ids: Collection[str] | None = None,
    label_map: LabelMap | None = None,
    finetuned: Collection[str] | None = None,
) -> Evaluation:
    """Compute the AUC of every fitted head, and of the ensembles over its backbones, on one part of a split.

    Parameters
    ----------
    store : Store
    dataset, split : str
    part : {"test", "val"}
    labels, heads, backbones : sequence of str, optional
        Default: all that were fitted. Of a cell fitted several times the newest counts.
    seed : int, optional
        Default: every seed, each with its own rows.
    specs : mapping of str to str, optional
        ``{backbone: spec_id}``.
    policy : LabelPolicy, optional
        Default: the one each head was fitted under. The truth is read under the same policy.
    unit : {"image"}
        The unit of analysis; intervals are patient-clustered.
    model_ids : collection of str, optional
        Exactly these fits and no newer ones.
    label_map : LabelMap, optional
        For the networks' own scores: each label the maximum over a group of theirs.
    finetuned : collection of str, optional
        Names of fine-tuned weights; default all.

    Returns
    -------
    Evaluation

    Raises
    ------
    UsageError
        Nothing fitted matches, or a name is unknown; the message names what there is.
    """
    if unit != "image":
        raise UsageError(f"unit of analysis {unit!r}: only 'image' is built so far")
    frozen = load_split(store, dataset, split)
    _check_part(frozen, part)
    if labels is not None:
        offered = dataset_labels(store, dataset)
        members = [m for name in labels for m in made_of(name, label_map or {}, offered) or (name,)]
        check_labels(store, dataset, list(dict.fromkeys(members)))
    models = select_models(
        store, frozen, Wanted(labels, heads, backbones, seed, specs, policy, label_map, finetuned, model_ids)
    )
    names = list(labels) if labels is not None else _fitted_labels(store, dataset, models)
    groups = truth_groups(models, names, dataset_labels(store, dataset))
    scored = [one for group in collect(store, frozen, part, models, names, groups) for one in group]
    folds = len(frozen.fold_numbers())
    rows = [row for results in _by_result(scored) for row in _rows(results, part, folds)]
    return Evaluation(dataset, split, part, rows, scored, _notes(frozen))


def write_metrics(store: Store, evaluation: Evaluation, run_id: str) -> int:
    """Write an evaluation's rows to `metrics` and return how many were new.

    Raises
    ------
    UsageError
        Two rows have the same key in `metrics`, so that one of them would be lost.
    """
    now = datetime.now(UTC).replace(tzinfo=None)
    same = ("approach", "head", "backbone", "weights", "ensemble", "part", "fold", "seed", "label", "note")
    counts = ("n", "n_positive", "n_positive_patients")
    about = {"run_id": run_id, "dataset": evaluation.dataset, "split": evaluation.split, "metric": "auc"}
    rows = [
        {key: row[key] for key in same + counts}
        | about
        | {"value": row["auc"], "lo": row["auc_lo"], "hi": row["auc_hi"], "created_at": now}
        for row in evaluation.rows
    ]
    keys = {tuple(row.get(column) for column in TABLES["metrics"].key) for row in rows}
    if len(keys) < len(rows):
        raise UsageError("two rows have one key in metrics (several weights at once?); evaluate them in separate runs")
    return store.append("metrics", pa.Table.from_pylist(rows, schema=TABLES["metrics"].schema))


def _check_part(split: Split, part: str) -> None:
    there = sorted(set(split.parts) - {"train"})
    if part not in there:
        raise UsageError(
            f"part {part!r} of split {split.name!r} has no predictions; it has: {', '.join(there) or 'none'}"
        )


def _fitted_labels(store: Store, dataset: str, models: Sequence[Model]) -> list[str]:
    """Name what heads were fitted for, in the data set's order, then labels a map made; else all that is offered."""
    fitted = [model for model in models if model.approach != BASELINE] or models
    offered = dataset_labels(store, dataset)
    known = [(label, model.groups) for model in fitted for label in model.labels]
    found = dict.fromkeys(label for label, groups in known if made_of(label, groups, offered))
    return [*(label for label in offered if label in found), *(label for label in found if label not in offered)]


def _notes(split: Split) -> list[str]:
    if split.patients_known:
        return []
    return [
        "Patient ids are not known for every image: such an image counts as its own patient, overlap is unknowable."
    ]


def _by_result(scored: Sequence[Scored]) -> list[list[Scored]]:
    """Bring a result's folds together, results in the order they first appear."""
    found: dict[tuple[object, ...], list[Scored]] = {}
    for one in scored:
        key = (one.approach, one.head, one.weights, one.seed, one.ensemble, one.backbone)
        found.setdefault(key, []).append(one)
    arms = groupby(found.items(), key=lambda item: item[0][:4])
    # Backbones that a first fold lacks still stand before the ensembles.
    return [folds for _, arm in arms for _, folds in sorted(arm, key=lambda item: item[0][5] == "all")]


def _rows(by_fold: Sequence[Scored], part: str, folds: int) -> list[dict[str, Any]]:
    """Return one result's rows: per label and macro; of a kfold split their means, then each fold's."""
    results = [{label: _result(one, i) for i, label in enumerate(one.labels)} for one in by_fold]
    labels = by_fold[0].labels
    pooled = {label: _mean([result[label] for result in results], folds) for label in labels}
    enough = [label for i, label in enumerate(labels) if _positive_patients(by_fold, i) >= MIN_POSITIVE_PATIENTS]
    macros = [_macro(result, enough, len(one.ids)) for one, result in zip(by_fold, results, strict=True)]
    each = [
        _row(one, label, part, result)
        for one, per_label, macro in zip(by_fold, results, macros, strict=True)
        for label, result in {**per_label, MACRO: macro}.items()
    ]
    if by_fold[0].fold is None:
        return each
    over_folds = replace(
        by_fold[0],
        fold=None,
        fit_seconds=sum(one.fit_seconds for one in by_fold),
        predict_seconds=sum(one.predict_seconds for one in by_fold),
    )
    means = {**pooled, MACRO: _mean(macros, folds)}
    return [_row(over_folds, label, part, result) for label, result in means.items()] + each


def _positive_patients(by_fold: Sequence[Scored], column: int) -> int:
    """Count them by the truth: a label without a probability is not therefore rare."""
    return sum(len(set(np.asarray(one.patients)[one.y[:, column] == 1].tolist())) for one in by_fold)


def _result(one: Scored, column: int) -> AucResult:
    """Return one label's AUC on the images that have a probability, saying how many have none."""
    have = ~np.isnan(one.p[:, column])
    patients = np.asarray(one.patients)[have]
    result = clustered_auc(one.y[have, column], one.p[have, column], patients)
    lost = int((~have & ~np.isnan(one.y[:, column])).sum())
    without = f"{lost} images without a probability" if lost else ""
    notes = [one.notes.get(one.labels[column], ""), without, result.note]
    return replace(result, note="; ".join(note for note in notes if note))


def _mean(results: Sequence[AucResult], folds: int) -> AucResult:
    """Average the folds' AUCs, never pooling their probabilities: each fold's model has its own scale."""
    areas = [result.auc for result in results if result.auc is not None]
    return AucResult(
        auc=float(np.mean(areas)) if areas else None,
        lo=None,
        hi=None,
        n=sum(result.n for result in results),
        n_positive=sum(result.n_positive for result in results),
        n_positive_patients=sum(result.n_positive_patients for result in results),
        note=f"mean of {len(areas)} of {folds} folds: no interval",
    )


def _macro(results: Mapping[str, AucResult], enough: Sequence[str], images: int) -> AucResult:
    """Average the labels with enough positive patients, saying which are left out; None where none is left."""
    left_out = [label for label in results if label not in enough]
    undefined = [label for label in enough if results[label].auc is None]
    areas = [area for label in enough if (area := results[label].auc) is not None]
    notes = [
        f"mean of {len(areas)} labels" if areas else "no label to average",
        f"left out, under {MIN_POSITIVE_PATIENTS} positive patients: {', '.join(left_out)}" if left_out else "",
        f"left out, no AUC: {', '.join(undefined)}" if undefined else "",
    ]
    note = "; ".join(note for note in notes if note)
    return AucResult(
        auc=float(np.mean(areas)) if areas else None,
        lo=None,
        hi=None,
        n=images,
        n_positive=0,
        n_positive_patients=0,
        note=note,
    )


def _row(one: Scored, label: str, part: str, result: AucResult) -> dict[str, Any]:
    macro = label == MACRO
    return {
        "approach": one.approach,
        "head": one.head,
        "backbone": one.backbone,
        "weights": one.weights,
        "ensemble": one.ensemble,
        "label": label,
        "part": part,
        "fold": one.fold,
        "seed": one.seed,
        "auc": result.auc,
        "auc_lo": result.lo,
        "auc_hi": result.hi,
        "n": result.n,
        # Of a mean over labels there is no one count of positives.
        "n_positive": None if macro else result.n_positive,
        "n_positive_patients": None if macro else result.n_positive_patients,
        "extract_seconds": one.extract_seconds,
        "fit_seconds": one.fit_seconds,
        "predict_seconds": one.predict_seconds,
        "note": result.note,
    }
