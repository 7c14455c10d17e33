"""The evaluation's rows, sorted into the arms the tables and curves are about."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jobs.report import format as fmt
from jobs.report import names

Row = Mapping[str, Any]
MACRO = "macro"


@dataclass(frozen=True)
class Model:
    """One line of the AUC table: a network with its weights, or an ensemble over the networks."""

    backbone: str
    weights: str
    ensemble: str

    @property
    def name(self) -> str:
        """What the line is called."""
        return names.model(self.backbone, self.ensemble)


@dataclass(frozen=True)
class Arm:
    """One approach with one head, under one set of weights and one seed: the rows of its models, macro AUC included.

    Parameters
    ----------
    approach : str
    head : str or None
    weights : str
    seed : int or None
    rows : sequence of mapping
        Rows of `classifiers.evaluation.Evaluation`; over folds, the means.
    told_apart : tuple of str
        What else the title must say because several arms share approach and head: ``weights``, ``seed``.
    """

    approach: str
    head: str | None
    weights: str
    seed: int | None
    rows: Sequence[Row]
    told_apart: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The arm in words."""
        more = [f"{what} {getattr(self, what)}" for what in self.told_apart]
        return ", ".join([names.arm(self.approach, self.head), *more])

    @property
    def slug(self) -> str:
        """The arm as part of an id or a file name."""
        more = [f"{what}-{getattr(self, what)}" for what in self.told_apart]
        return re.sub(r"[^\w-]+", "-", "-".join([self.approach, self.head or "none", *more]))

    def owns(self, approach: str, head: str | None, weights: str, seed: int | None) -> bool:
        """Return whether probabilities of this origin belong to the arm."""
        return (approach, head, weights, seed) == (self.approach, self.head, self.weights, self.seed)

    @property
    def models(self) -> list[Model]:
        """Networks first, then the ensembles, each in the order of the rows."""
        found = dict.fromkeys(Model(r["backbone"], r["weights"] or "", r["ensemble"] or "none") for r in self.rows)
        return sorted(found, key=lambda model: ("none", "simple", "entropy").index(model.ensemble))

    def row(self, model: Model, label: str) -> Row | None:
        """Return the row of a model and a label (or ``macro``), None where it was not evaluated."""
        key = (model.backbone, model.weights, model.ensemble, label)
        return self._index.get(key)

    @cached_property
    def _index(self) -> dict[tuple[str, str, str, str], Row]:
        return {(r["backbone"], r["weights"] or "", r["ensemble"] or "none", r["label"]): r for r in self.rows}


def arms(rows: Sequence[Row]) -> list[Arm]:
    """Return one arm per (approach, head, weights, seed), in the order of the rows."""
    grouped: dict[tuple[Any, ...], list[Row]] = {}
    for row in headline_rows(rows):
        grouped.setdefault(_origin(row), []).append(row)
    told_apart = tuple(what for what, at in (("weights", 2), ("seed", 3)) if len({key[at] for key in grouped}) > 1)
    return [Arm(a, h, w, s, own, told_apart) for (a, h, w, s), own in grouped.items()]


def _origin(row: Row) -> tuple[Any, ...]:
    return (row["approach"], row["head"], row["weights"] or "", row.get("seed"))


def first_seeds(found: Sequence[Arm]) -> list[Arm]:
    """Return the arms of the first seed of each approach, head and weights."""
    firsts = {(arm.approach, arm.head, arm.weights): arm for arm in reversed(found)}
    return [arm for arm in found if firsts[(arm.approach, arm.head, arm.weights)] is arm]


def headline_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that stand for the whole part: over folds the means, else all of them."""
    overall = [r for r in rows if r.get("fold") is None]
    return overall or list(rows)


def labels(rows: Sequence[Row]) -> list[str]:
    """Return the labels evaluated, in order, without ``macro``."""
    return [label for label in dict.fromkeys(r["label"] for r in rows) if label != MACRO]


def best_ensemble(found: Sequence[Arm]) -> tuple[Arm, Model, Row] | None:
    """Return the ensemble with the highest macro AUC, None where no macro AUC exists."""
    candidates = [
        (arm, model, row)
        for arm in found
        for model in arm.models
        if model.ensemble != "none" and (row := arm.row(model, MACRO)) is not None and fmt.known(row["auc"])
    ]
    return max(candidates, key=lambda candidate: float(candidate[2]["auc"]), default=None)
