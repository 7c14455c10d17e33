"""ROC curves: a panel per label, the networks thin, the ensembles thick."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from jobs.report import format as fmt
from jobs.report import names
from jobs.report.answer import is_too_few
from jobs.report.arms import Arm, Model, Row
from jobs.report.svg import PAINT, inline

if TYPE_CHECKING:
    from classifiers.scored import Scored

_LIMIT = 400
_GRID = np.linspace(0.0, 1.0, 201)


@dataclass(frozen=True)
class Curve:
    """One ROC curve.

    Parameters
    ----------
    model : Model
    fpr, tpr : ndarray of shape (n_points,), float64, 0..1
        From (0, 0) to (1, 1).
    """

    model: Model
    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """One label's panel: the drawing, its heading and what stands beneath it."""

    label: str
    svg: str
    caption: str
    few: bool


def roc_points(
    y: NDArray[np.float64], p: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return scikit-learn's ROC points of one label.

    Parameters
    ----------
    y : ndarray of shape (n,), float64
        1, 0, or NaN for an image that is not counted.
    p : ndarray of shape (n,), float64
        NaN where the model has no probability; not counted either.

    Returns
    -------
    fpr, tpr : ndarray, float64
        None in place of both where one class is missing.
    """
    known = ~np.isnan(y) & ~np.isnan(p)
    if len(np.unique(y[known])) < 2:
        return None
    fpr, tpr, _ = roc_curve(y[known], p[known])
    return np.asarray(fpr, np.float64), np.asarray(tpr, np.float64)


def curves(scored: Sequence[Scored], label: str) -> list[Curve]:
    """Return a label's curves, one per model, networks first.

    Folds are never pooled: a model evaluated on several has the mean of their true positive rates at each false
    positive rate (vertical averaging; Fawcett, Pattern Recognition Letters 2006, 27(8), 861-874, section 8.1).
    """
    models = dict.fromkeys(Model(s.backbone, s.weights or "", s.ensemble or "none") for s in scored)
    found = [(model, _model_points(scored, model, label)) for model in models]
    lines = [Curve(model, *points) for model, points in found if points is not None]
    return sorted(lines, key=lambda line: line.model.ensemble != "none")


def _model_points(
    scored: Sequence[Scored], model: Model, label: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    folds = [
        s
        for s in scored
        if (s.backbone, s.weights or "", s.ensemble or "none") == (model.backbone, model.weights, model.ensemble)
    ]
    points = [_label_points(s, label) for s in folds if label in s.labels]
    found = [point for point in points if point is not None]
    if len(found) < 2:
        return found[0] if found else None
    return _GRID, np.asarray(np.mean([np.interp(_GRID, fpr, tpr) for fpr, tpr in found], axis=0), np.float64)


def _label_points(s: Scored, label: str) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    column = list(s.labels).index(label)
    return roc_points(np.asarray(s.y, np.float64)[:, column], np.asarray(s.p, np.float64)[:, column])


def panels(arm: Arm, scored: Sequence[Scored], labels: Sequence[str]) -> list[Panel]:
    """Return a panel for each label that has both classes in the evaluated part."""
    own = [s for s in scored if arm.owns(s.approach, s.head, s.weights, s.seed)]
    found = [(number, label, curves(own, label)) for number, label in enumerate(labels)]
    return [_panel(arm, number, label, lines) for number, label, lines in found if lines]


def _panel(arm: Arm, number: int, label: str, lines: Sequence[Curve]) -> Panel:
    rows = [row for line in lines if (row := arm.row(line.model, label)) is not None]
    few = any(is_too_few(row) for row in rows)
    svg = inline(_draw(lines), f"roc{number}", _describe(arm, label, lines))
    return Panel(label, svg, _caption(rows, few), few)


def _caption(rows: Sequence[Row], few: bool) -> str:
    if not rows:
        return ""
    counts = f"{fmt.count(rows[0]['n_positive'])} positive of {fmt.count(rows[0]['n'])}"
    if few:
        return f"{counts}: too few positive patients to read anything into"
    ensembles = [f"{row['ensemble']} {fmt.auc(row['auc'])}" for row in rows if row["ensemble"] in ("simple", "entropy")]
    return "\n".join(filter(None, (" · ".join(ensembles), counts)))


def _describe(arm: Arm, label: str, lines: Sequence[Curve]) -> str:
    named = [(line.model.name, arm.row(line.model, label)) for line in lines]
    said = [f"{name} {fmt.auc(row['auc'])}" for name, row in named if row is not None and fmt.known(row["auc"])]
    return f"ROC curves for {label}, {arm.title}. AUC: {', '.join(said) or 'none'}."


def _draw(lines: Sequence[Curve]) -> Figure:
    figure = Figure(figsize=(3.0, 3.0), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=PAINT["muted"], linewidth=0.8, dashes=(2, 3))
    others = sorted({line.model.backbone for line in lines})
    for line in lines:
        style = names.line(line.model.backbone, line.model.ensemble, others)
        fpr, tpr = thin(line.fpr, line.tpr)
        (drawn,) = axes.plot(fpr, tpr, color=PAINT[style.colour], linewidth=style.width)
        if style.dash:
            drawn.set_dashes(style.dash)
    _dress(axes)
    return figure


def _dress(axes: Axes) -> None:
    ticks = [0, 0.25, 0.5, 0.75, 1]
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xticks=ticks, yticks=ticks, aspect="equal")
    axes.set_xticklabels(["0", "", "0.5", "", "1"])
    axes.set_yticklabels(["0", "", "0.5", "", "1"])
    axes.set_xlabel("False positive rate", color=PAINT["ink"], fontsize=10)
    axes.set_ylabel("True positive rate", color=PAINT["ink"], fontsize=10)
    axes.tick_params(color=PAINT["rule"], labelcolor=PAINT["ink"], labelsize=9, length=3)
    axes.grid(color=PAINT["rule"], linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PAINT["rule"])


def thin(fpr: NDArray[np.float64], tpr: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return at most 400 of a curve's points, its ends among them: more cannot be seen at this size."""
    if len(fpr) <= _LIMIT:
        return fpr, tpr
    kept = np.unique(np.linspace(0, len(fpr) - 1, _LIMIT).round().astype(int))
    return fpr[kept], tpr[kept]
