"""Truth and probabilities side by side: what an AUC is computed from and a ROC curve drawn from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from classifiers.approaches import TOGETHER
from classifiers.ensembles import entropy_weighted, simple
from classifiers.grouped_labels import truth_matrix
from classifiers.labels import positions
from classifiers.selection import Model, total

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from classifiers.splits import Split
    from featurestore.store import Store


@dataclass(frozen=True)
class Scored:
    """One model's, or one ensemble's, probabilities for one part (kfold: one fold), beside the truth.

    Parameters
    ----------
    approach, head, weights : str
    backbone : str
        ``all`` for an ensemble.
    ensemble : {"none", "simple", "entropy"}
    seed : int
    fold : int or None
    labels : tuple of str, of length n_labels
    ids, patients : list of str, of length n_images
    y : numpy.ndarray of shape (n_images, n_labels), float64
        1, 0, or nan where the label is ignored.
    p : numpy.ndarray of shape (n_images, n_labels), float64
        In [0, 1]; nan where there is no probability.
    extract_seconds : float or None
    fit_seconds, predict_seconds : float
        An ensemble's are its members' sums.
    notes : mapping of str to str
        By label: why it has no probability, or fewer models than the ensemble's others.
    """

    approach: str
    head: str
    backbone: str
    weights: str
    ensemble: str
    seed: int
    fold: int | None
    labels: tuple[str, ...]
    ids: list[str]
    patients: list[str]
    y: NDArray[np.float64]
    p: NDArray[np.float64]
    extract_seconds: float | None
    fit_seconds: float
    predict_seconds: float
    notes: Mapping[str, str]


def collect(
    store: Store,
    split: Split,
    part: str,
    models: Sequence[Model],
    labels: Sequence[str],
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[list[Scored]]:
    """Yield, per arm and fold, the Scored of every backbone, then of the simple and the entropy-weighted ensemble.

    Parameters
    ----------
    store : Store
    split : Split
    part : str
    models : sequence of Model
        As `select_models` orders them.
    labels : sequence of str
    groups : mapping of str to sequence of str, optional
        Which labels of the data set each label's truth is the maximum of.
    """
    for (_, fold), members in groupby(models, key=lambda model: (model.arm, model.fold)):
        yield _score(store, split, part, fold, list(members), tuple(labels), groups or {})


def _score(
    store: Store,
    split: Split,
    part: str,
    fold: int | None,
    members: list[Model],
    labels: tuple[str, ...],
    groups: Mapping[str, Sequence[str]],
) -> list[Scored]:
    rows = [i for i, here in enumerate(split.parts) if here == part and (fold is None or split.folds[i] == fold)]
    ids = [split.ids[i] for i in rows]
    y = truth_matrix(store, split.dataset, ids, labels, members[0].policy, groups)
    if members[0].scores is None:
        P = _probabilities(store, part, members, ids, labels)
    else:
        P = _from_scores(store, split, part, members, ids, labels)
    patients = [split.patients[i] for i in rows]
    singles = [_single(model, ids, patients, labels, y, p) for model, p in zip(members, P, strict=True)]
    # A head that saw all backbones is no member of an ensemble over them.
    return singles if members[0].backbone in TOGETHER else [*singles, *_ensembles(singles, P)]


def _single(
    model: Model,
    ids: list[str],
    patients: list[str],
    labels: tuple[str, ...],
    y: NDArray[np.float64],
    p: NDArray[np.float64],
) -> Scored:
    untrained = {label: "no model was asked for this label" for label in labels if label not in model.labels}
    return Scored(
        approach=model.approach,
        head=model.head,
        backbone=model.backbone,
        weights=model.weights,
        ensemble="none",
        seed=model.seed,
        fold=model.fold,
        labels=labels,
        ids=ids,
        patients=patients,
        y=y,
        p=p,
        extract_seconds=model.extract_seconds,
        fit_seconds=model.fit_seconds,
        predict_seconds=model.predict_seconds,
        notes={**model.failed, **untrained},
    )


def _ensembles(singles: Sequence[Scored], P: NDArray[np.float64]) -> list[Scored]:
    shared = replace(
        singles[0],
        backbone="all",
        extract_seconds=total(single.extract_seconds for single in singles),
        fit_seconds=sum(single.fit_seconds for single in singles),
        predict_seconds=sum(single.predict_seconds for single in singles),
        notes=_left_out(singles),
    )
    averages = {"simple": simple, "entropy": entropy_weighted}
    return [replace(shared, ensemble=name, p=average(P)) for name, average in averages.items()]


def _left_out(singles: Sequence[Scored]) -> dict[str, str]:
    notes = {}
    for column, label in enumerate(singles[0].labels):
        absent = [single.backbone for single in singles if np.isnan(single.p[:, column]).all()]
        if absent:
            notes[label] = f"{len(singles) - len(absent)} of {len(singles)} backbones (without {', '.join(absent)})"
    return notes


def _probabilities(
    store: Store, part: str, members: Sequence[Model], ids: Sequence[str], labels: Sequence[str]
) -> NDArray[np.float64]:
    """Return stored probabilities of shape (n_models, n_images, n_labels), nan where there is none."""
    names = [model.model_id for model in members]
    sql = """
        SELECT model_id, image_id, label, probability FROM predictions
        WHERE part = ? AND list_contains(?, model_id)
    """
    table = store.query(sql, [part, names])
    places = [
        positions(table[column], among) for column, among in (("model_id", names), ("image_id", ids), ("label", labels))
    ]
    kept = np.logical_and.reduce([place >= 0 for place in places])
    P = np.full((len(names), len(ids), len(labels)), np.nan)
    P[tuple(place[kept] for place in places)] = table["probability"].to_numpy()[kept]
    return P


def _from_scores(
    store: Store, split: Split, part: str, members: Sequence[Model], ids: Sequence[str], labels: Sequence[str]
) -> NDArray[np.float64]:
    """Return networks' own probabilities as `_probabilities` does, each label's the maximum over its scored labels."""
    specs = [model.spec_id for model in members]
    sql = """
        SELECT s.spec_id, s.image_id, s.label, s.probability FROM scores s
        JOIN splits d ON d.image_id = s.image_id AND d.dataset = ? AND d.split = ? AND d.part = ?
        WHERE list_contains(?, s.spec_id)
    """
    table = store.query(sql, [split.dataset, split.name, part, specs])
    scored = pc.unique(table["label"]).to_pylist()
    places = [
        positions(table[column], among) for column, among in (("spec_id", specs), ("image_id", ids), ("label", scored))
    ]
    kept = places[1] >= 0  # of another fold
    S = np.full((len(specs), len(ids), len(scored)), np.nan)
    S[tuple(place[kept] for place in places)] = table["probability"].to_numpy()[kept]
    P = np.full((len(specs), len(ids), len(labels)), np.nan)
    for i, model in enumerate(members):
        for k, label in enumerate(labels):
            columns = [scored.index(name) for name in (model.scores or {}).get(label, ()) if name in scored]
            if columns:
                P[i, :, k] = S[i][:, columns].max(axis=1)
    return P
