"""The evaluation job: the AUC table into `metrics`, and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from classifiers.evaluation import Evaluation, write_metrics
from classifiers.evaluation import evaluate as evaluate_stored
from featurestore.store import Store
from jobs.cli.output import table
from jobs.runlog import record_run

FIELDS = (
    "approach", "head", "backbone", "weights", "ensemble", "label", "part", "fold", "seed", "auc", "auc_lo", "auc_hi",
    "n", "n_positive", "n_positive_patients", "extract_seconds", "fit_seconds", "predict_seconds", "note",
)  # fmt: skip
_ARM, _POSITIVE = ("approach", "head"), ("n_positive", "n_positive_patients")


def evaluate(store: Store, dataset: str, split: str, part: str, **wanted: Any) -> Evaluation:
    """Evaluate what is stored and write it to `metrics`; see `classifiers.evaluation.evaluate` for ``wanted``."""
    arguments = {"split": split, "part": part, **wanted}
    with record_run(store, "evaluate", dataset, arguments) as run:
        start = perf_counter()
        evaluation = evaluate_stored(store, dataset, split, part, **wanted)
        run.counts = {"rows": len(evaluation.rows), "metrics": write_metrics(store, evaluation, run.run_id)}
        run.seconds["evaluate"] = perf_counter() - start
    return evaluation


def rows_for_json(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the rows with the fields of ``cxr evaluate --json``."""
    return [{field: row.get(field) for field in FIELDS} for row in evaluation.rows]


def text_tables(evaluation: Evaluation) -> str:
    """Return two tables for a terminal: macro AUC of every backbone and ensemble, and each label's best-known arm.

    Of a k-fold split the means over folds are shown.
    """
    rows = [row for row in evaluation.rows if row["fold"] is None]
    macro = [row for row in rows if row["label"] == "macro"]
    labels = [row for row in rows if row["label"] != "macro" and row["ensemble"] == "simple"]
    return "\n\n".join(
        [
            f"Mean AUC over labels with at least 10 positive patients, part {evaluation.part}:",
            _table(macro, (*_ARM, "backbone", "weights", "ensemble", "seed", "auc", "n", "fit_seconds", "note")),
            "AUC by label, simple average of the backbones" + _about_intervals(evaluation),
            _table(labels, (*_ARM, "label", "seed", "auc", "auc_lo", "auc_hi", "n", *_POSITIVE, "note")),
            *evaluation.notes,
        ]
    )


def _about_intervals(evaluation: Evaluation) -> str:
    if any(row["fold"] is not None for row in evaluation.rows):
        return ", mean over the folds (no interval: folds are not independent):"
    return ", with patient-clustered 95 % intervals:"


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    shown = [c for c in columns if c not in ("approach", "seed", "note") or len({row.get(c) for row in rows}) > 1]
    return table(rows, shown)
