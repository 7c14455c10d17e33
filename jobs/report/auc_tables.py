"""The AUC tables: heads side by side, and backbone x label for each head."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.report import format as fmt
from jobs.report import names
from jobs.report.answer import is_too_few
from jobs.report.arms import MACRO, Arm, Model, Row, labels
from jobs.report.tables import Cell, Column, Table
from jobs.report.timing import arm_seconds

_STEPS = (0.5, 0.6, 0.7, 0.8, 0.9)
_FIELDS = (
    "approach", "head", "backbone", "weights", "ensemble", "label", "part", "fold", "auc", "auc_lo", "auc_hi", "n",
    "n_positive", "n_positive_patients", "extract_seconds", "fit_seconds", "predict_seconds", "note",
)  # fmt: skip


def auc_table(arm: Arm) -> Table:
    """Return one arm's AUC, a line per network and ensemble, the macro mean and then a column per label.

    A cell is the AUC with its interval beneath; the tint repeats the number, so nothing is lost without colour. Labels
    with too few positive patients say so and have neither interval nor tint.
    """
    columns_of = [MACRO, *labels(arm.rows)]
    best = {label: _best(arm, label) for label in columns_of}
    rows = [[_heading(m), *(_cell(arm.row(m, label), best[label]) for label in columns_of)] for m in arm.models]
    marked = frozenset(i for i, model in enumerate(arm.models) if model.ensemble != "none")
    columns = [Column("Network", "weights", numeric=False), *(_column(arm, label) for label in columns_of)]
    records = [{name: row.get(name) for name in _FIELDS} for row in arm.rows]
    return Table(f"auc-{arm.slug}", f"AUC, {arm.title}", columns, rows, records, css="heat", marked=marked)


def _heading(model: Model) -> Cell:
    return Cell(model.name, sub=model.weights)


def _column(arm: Arm, label: str) -> Column:
    if label == MACRO:
        return Column("Macro", "mean of\nlabels")
    row = next(r for r in arm.rows if r["label"] == label)
    return Column(names.hyphenated(label), f"{fmt.count(row['n_positive'])} of {fmt.count(row['n'])}\n{_patients(row)}")


def _patients(row: Row) -> str:
    n = row["n_positive_patients"]
    return f"{fmt.count(n)} patient{'' if n == 1 else 's'}"


def _best(arm: Arm, label: str) -> float | None:
    found = [arm.row(model, label) for model in arm.models]
    return max((r["auc"] for r in found if r is not None and fmt.known(r["auc"]) and not is_too_few(r)), default=None)


def _cell(row: Row | None, best: float | None) -> Cell:
    if row is None:
        return Cell(fmt.missing("not evaluated"))
    note = row.get("note") or ""
    if not fmt.known(row["auc"]):
        few = "too few" if is_too_few(row) else ""
        return Cell(fmt.missing(note or "no AUC"), sub=few, title=note, css="few")
    if is_too_few(row):
        return Cell(fmt.auc(row["auc"]), sub="too few", title=note, css="few")
    tint = f"h{sum(row['auc'] >= step for step in _STEPS)}"
    css = f"{tint} best" if row["auc"] == best else tint
    return Cell(fmt.auc(row["auc"]), sub=fmt.interval(row["auc_lo"], row["auc_hi"]), title=note, css=css)


def head_table(arms: Sequence[Arm]) -> Table:
    """Return the arms side by side: macro AUC of the single networks and of both ensembles, and their seconds."""
    columns = [Column("Approach and head", numeric=False), Column("Single networks", "lowest to highest")]
    columns += [Column("Simple average"), Column("Entropy-weighted"), Column("Fit"), Column("Predict")]
    rows = [_head_cells(arm) for arm in arms]
    return Table("heads", "Macro AUC by head", columns, rows, [_head_record(arm) for arm in arms])


def _head_cells(arm: Arm) -> list[Cell]:
    low, high = _single_range(arm)
    spread = f"{fmt.auc(low)}{fmt.DASH}{fmt.auc(high)}" if low is not None else fmt.missing("no macro AUC")
    ensembles = [_macro_cell(_ensemble_row(arm, name)) for name in ("simple", "entropy")]
    spent = [Cell(fmt.seconds(arm_seconds(arm, key))) for key in ("fit_seconds", "predict_seconds")]
    return [Cell(arm.title, sub=_sub(arm)), Cell(spread), *ensembles, *spent]


def _sub(arm: Arm) -> str:
    return arm.head if arm.head and names.head(arm.head) != arm.head else ""


def _macro_cell(row: Row | None) -> Cell:
    if row is None or not fmt.known(row["auc"]):
        return Cell(fmt.missing((row or {}).get("note") or "no macro AUC"))
    return Cell(fmt.auc(row["auc"]), sub=fmt.interval(row["auc_lo"], row["auc_hi"]))


def _ensemble_row(arm: Arm, name: str) -> Row | None:
    return next((arm.row(model, MACRO) for model in arm.models if model.ensemble == name), None)


def _single_range(arm: Arm) -> tuple[float | None, float | None]:
    rows = [arm.row(model, MACRO) for model in arm.models if model.ensemble == "none"]
    values = [row["auc"] for row in rows if row is not None and fmt.known(row["auc"])]
    return (min(values), max(values)) if values else (None, None)


def _head_record(arm: Arm) -> dict[str, object]:
    low, high = _single_range(arm)
    record: dict[str, object] = {
        "approach": arm.approach,
        "head": arm.head,
        "single_lowest": low,
        "single_highest": high,
    }
    for name in ("simple", "entropy"):
        row = _ensemble_row(arm, name) or {}
        record |= {f"{name}_{key}": row.get(key) for key in ("auc", "auc_lo", "auc_hi")}
    return record | {key: arm_seconds(arm, key) for key in ("fit_seconds", "predict_seconds")}
