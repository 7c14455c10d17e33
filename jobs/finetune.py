"""The fine-tuning job: source networks carried to local labels, the best trial kept, every image scored.

It is the paper's third arm, and its rows stand beside the others': the same frozen split, a row of `models` for each
network, its probabilities in `scores`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from classifiers.cnn.recipe import Recipe
from classifiers.cnn.records import RunState, best_epoch, best_trial, folder
from classifiers.cnn.request import Training, TrainingRequest
from classifiers.cnn.targets import POLICIES, truth
from classifiers.cnn.training_set import TrainingSet, check_set, read_training_set
from featurestore.backbones.registry import FINETUNED, RegisteredWeights, check_free, register, registered
from featurestore.backbones.requests import Requested, requested
from featurestore.errors import HarmError, UsageError
from featurestore.store import Store
from featurestore.store.training_sources import source_table
from jobs.extract import ExtractRequest, Summary, extract
from jobs.finetune_request import Finetuned, FinetuneRequest
from jobs.pretrain import check_sizes, check_workers, label_groups
from jobs.runlog import Run, library_versions, record_run, utc_now
from jobs.score_vectors import score_vectors
from jobs.specs import ResolvedSpec, resolve_specs
from jobs.specs import register as register_specs
from jobs.training_job import (
    Say,
    TrainingJob,
    check_unchanged,
    initial_weights,
    known_patients,
    rate,
    seconds,
)
from jobs.workers import Workers

APPROACH = "finetune"
_AS_LABEL_POLICY = dict(zip(POLICIES, ("zeros", "ones", "ignore", "ones"), strict=True))


def finetune(store: Store, request: FinetuneRequest, workers: Workers, say: Say = lambda text: None) -> list[Finetuned]:
    """Train new heads, and as many layers below as a trial says; what an earlier call finished is not trained again.

    Parameters
    ----------
    store : Store
    request : FinetuneRequest
    workers : Workers
    say : callable
        Told a sentence an epoch.

    Returns
    -------
    list of Finetuned
        One a backbone.

    Raises
    ------
    UsageError
        For a request that cannot be met: a constant label, no label with both classes in validation, a name taken.
    HarmError
        If every trial of a network diverged, or an extraction it needs lost images.
    StoppedError
        If workers keep dying; the same request goes on from the last epoch.
    """
    store.require_dataset(request.dataset)
    recipes = request.recipes()
    chosen = requested(store, request.backbones, recipes[0].weights)
    check_sizes(chosen, recipes[0].size)
    check_free(store, request.run_name, [])
    check_workers(request.workers, workers)
    groups = _groups(store, request)
    data = read_training_set(store, request.dataset, request.split, dict(groups))
    check_set(data, recipes[0].uncertainty)
    _check_validation(data, recipes[0].uncertainty, say)
    _tell_preprocessing(chosen, recipes[0], say)
    initial = initial_weights(store, request.backbones, recipes[0], workers)
    planned = _request(store, request, groups, chosen, recipes, {})
    check_unchanged(store, planned, data, initial)
    vectors = _vectors(store, request, recipes, workers)
    with record_run(store, APPROACH, request.dataset, request.for_the_record()) as run:
        asked = replace(_request(store, request, groups, chosen, recipes, vectors), run_id=run.run_id)
        job = TrainingJob(store, asked, data, run, say)
        job.run(workers, request.workers)
        # A trial that diverged has lost; a network none of whose trials ended well has nothing to keep.
        job.raise_failures([one.backbone.name for one in chosen if not finished(job, one.backbone.name)])
        arm = _Arm(store, request, job, data, run)
        kept = [arm.keep(one.backbone.name) for one in chosen]
        run.counts["budget"] = {one.weights.backbone: one.budget for one in kept}
    return _score(store, request, kept, workers, run.run_id)


def _groups(store: Store, request: FinetuneRequest) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return label_groups(store, request.dataset, request.label_map, request.labels)


def _request(
    store: Store,
    request: FinetuneRequest,
    groups: tuple[tuple[str, tuple[str, ...]], ...],
    chosen: Sequence[Requested],
    recipes: Sequence[Recipe],
    vectors: Mapping[str, str],
) -> TrainingRequest:
    """Return every trial of every network; a trial of the head alone on the vectors of its network, where given."""
    trainings = tuple(
        Training(
            f"{request.run_name}/{recipe.depth} at {recipe.rate.start:g}", asked.backbone, asked.request, recipe,
            vectors.get(asked.backbone.name, "") if recipe.depth == "head" else "",
        )
        for recipe in recipes
        for asked in chosen
    )  # fmt: skip
    return TrainingRequest(store.uri, "", request.run_name, request.dataset, request.split, groups, trainings)


def finished(job: TrainingJob, backbone: str) -> list[tuple[Training, RunState]]:
    """Return a backbone's trials that ended with a network."""
    return [(training, state) for training, state in job.of(backbone) if state.weights]


def _check_validation(data: TrainingSet, policy: str, say: Say) -> None:
    """Refuse, or tell, labels that validation cannot judge: training stops by their mean AUC."""
    y = truth(data.codes[data.val], policy)
    single = [label for i, label in enumerate(data.labels) if not {0.0, 1.0} <= set(y[:, i].tolist())]
    if len(single) == len(data.labels):
        message = (
            f"none of {', '.join(data.labels)} has both a positive and a negative image among the {len(data.val)} of "
            f"part val of split {data.split!r}, so no epoch could be chosen; make a split with more validation images"
        )
        raise UsageError(message)
    if single:
        say(f"validation shows one class only of {', '.join(single)}: they are trained, and do not choose the epoch")


def _tell_preprocessing(chosen: Sequence[Requested], recipe: Recipe, say: Say) -> None:
    ours = f"{recipe.preprocess} at {recipe.size} px"
    theirs = {asked.registered.preprocess for asked in chosen if asked.registered and asked.registered.preprocess}
    if theirs - {ours}:
        say(f"the weights were trained on {', '.join(sorted(theirs))}; they are fine-tuned on {ours}")


def _vectors(store: Store, request: FinetuneRequest, recipes: Sequence[Recipe], workers: Workers) -> dict[str, str]:
    """Return the specs whose stored vectors a head is trained on, extracted where they are missing."""
    if all(recipe.depth != "head" or recipe.augment != "none" for recipe in recipes):
        return {}
    recipe = recipes[0]
    asked = ExtractRequest(
        request.dataset, request.backbones, recipe.weights, preprocess=recipe.preprocess, size=recipe.size
    )
    return _without_loss(extract(store, asked, workers), "vectors").specs


def _without_loss(done: Summary, what: str) -> Summary:
    """Refuse to go on where an extraction lost pairs: what follows would silently be without them."""
    if done.lost:
        message = f"{done.lost} {what} were lost in extraction; mend the cause it told and run the same command again"
        raise HarmError(message)
    return done


@dataclass(frozen=True)
class _Kept:
    """The trial of a backbone that won."""

    weights: RegisteredWeights
    training: Training
    tried: list[tuple[Training, RunState]]
    budget: list[dict[str, object]]
    model_id: str
    model_row: dict[str, Any]
    state: RunState

    @property
    def best(self) -> int:
        return best_epoch(self.state.history)


class _Arm:
    """Chooses among a backbone's trials and registers the winner."""

    def __init__(self, store: Store, request: FinetuneRequest, job: TrainingJob, data: TrainingSet, run: Run) -> None:
        self._store, self._request, self._job, self._data, self._run = store, request, job, data, run

    def keep(self, backbone: str) -> _Kept:
        """Register the best trial of a backbone; the others' files are removed."""
        tried, whole = self._job.of(backbone), finished(self._job, backbone)
        training, state = whole[best_trial([state for _, state in whole])]
        weights = self._describe(training, state)
        path = f"{folder(training.name, backbone)}/{state.weights}"
        if self._store.location.size(path) is not None:
            self._job.write_metrics(APPROACH, training, state)
            self._job.reject(state)
            sources = source_table(self._request.dataset, self._data.pixel_hashes, known_patients(self._data.patients))
            register(self._store, weights, self._store.location.read_bytes(path), sources)
        for one, other in whole:
            file = f"{folder(one.name, backbone)}/{other.weights}"
            if self._store.location.size(file) is not None:
                self._store.location.remove(file)
        (weights,) = registered(self._store, self._request.run_name, backbone)
        budget = [_budget(one, other) for one, other in tried]
        row = self._model_row(training, tried, budget)
        return _Kept(weights, training, tried, budget, row["model_id"], row, state)

    def _describe(self, training: Training, state: RunState) -> RegisteredWeights:
        recipe = training.recipe
        source = (
            f"{FINETUNED.format(dataset=self._request.dataset)}split {self._request.split}, "
            f"{len(self._data.train)} images, preset {recipe.preset}, {recipe.depth} at {recipe.rate.start:g}, "
            f"epoch {best_epoch(state.history)} of {len(state.history)}, {recipe.uncertainty}) from "
            f"{training.weights.name}"
        )
        return RegisteredWeights(
            self._request.run_name,
            training.backbone.name,
            training.backbone.variant,
            state.weights_sha256,
            list(self._data.labels),
            source,
            preprocess=f"{recipe.preprocess} at {recipe.size} px",
        )

    def _model_row(
        self, training: Training, tried: Sequence[tuple[Training, RunState]], budget: list[dict[str, object]]
    ) -> dict[str, Any]:
        recipe, data = training.recipe, self._data
        states = [state for _, state in tried]
        policy = {"uncertain": _AS_LABEL_POLICY[recipe.uncertainty], "blank": "zero"}
        params = {
            "policy": policy,
            "labels": list(data.labels),
            "failed": {},
            "trials": budget,
            "label_map": dict(_groups(self._store, self._request)),
            "extract_spec": next((one.vectors for one, _ in tried if one.vectors), ""),
            "name": self._request.run_name,
        }
        row = {
            "dataset": data.dataset,
            "approach": APPROACH,
            "head": recipe.preset,
            "backbone": training.backbone.name,
            "weights": training.weights.name,
            "split": data.split,
            "fold": None,
            "seed": recipe.seed,
            "labels": list(data.labels),
            "digest": data.digest,
        }
        identity = row | {"states": [state.signature | {"initial": state.initial} for state in states]}
        model_id = "m" + hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]
        return row | {
            "model_id": model_id,
            "params": json.dumps(params),
            "n_train": len(data.train),
            "fit_seconds": seconds(states),
            "versions": json.dumps(library_versions()),
            "tables": json.dumps(self._store.versions()),
            "run_id": self._run.run_id,
            "created_at": utc_now(),
        }


def _budget(training: Training, state: RunState) -> dict[str, object]:
    best = best_epoch(state.history)
    return {
        "depth": training.recipe.depth,
        "rate": training.recipe.rate.start,
        "epochs": len(state.history),
        "val_auc": state.history[best - 1].mean_auc if best else None,
        "seconds": state.seconds,
        "failed": state.failed,
    }


def _score(
    store: Store, request: FinetuneRequest, kept: Sequence[_Kept], workers: Workers, run_id: str
) -> list[Finetuned]:
    """Score every image of the data set with what was kept, then say in `models` that all of it is there."""
    recipe = kept[0].training.recipe
    specs = {
        spec.backbone.name: spec
        for spec in resolve_specs(store, request.backbones, request.run_name, recipe.preprocess, recipe.size, workers)
    }
    register_specs(store, list(specs.values()))
    deep = [one for one in kept if not one.training.vectors]
    spent = _score_images(store, request, deep, workers)
    for one in kept:
        if one.training.vectors:
            spent[one.weights.backbone] = _score_stored(store, one, specs[one.weights.backbone], workers, run_id)
    rows = [
        one.model_row | {"spec_id": specs[name].spec.spec_id, "predict_seconds": spent[name]}
        for one in kept
        for name in [one.weights.backbone]
    ]
    store.append("models", pa.Table.from_pylist(rows))
    return [_finetuned(store, one, specs[one.weights.backbone].spec.spec_id) for one in kept]


def _score_images(store: Store, request: FinetuneRequest, kept: Sequence[_Kept], workers: Workers) -> dict[str, float]:
    """Run the images through fine-tuned networks, as `cxr extract` does; return the cold seconds by backbone."""
    if not kept:
        return {}
    recipe, names = kept[0].training.recipe, ",".join(one.weights.backbone for one in kept)
    backbones = names if request.backbones == "all" else _among(request.backbones, {o.weights.backbone for o in kept})
    asked = ExtractRequest(request.dataset, backbones, request.run_name, preprocess=recipe.preprocess, size=recipe.size)
    done = _without_loss(extract(store, asked, workers), "scores")
    return _extract_seconds(store, request.dataset, done.specs)


def _among(backbones: str, names: set[str]) -> str:
    """Return those of ``--backbones`` with these names; a user's own keep their dotted path."""
    from featurestore.backbones.catalogue import parse_backbones

    parts = [part.strip() for part in backbones.split(",")]
    return ",".join(part for part in parts if parse_backbones(part)[0].name in names)


def _extract_seconds(store: Store, dataset: str, specs: dict[str, str]) -> dict[str, float]:
    """Return the cold seconds of scoring, over all runs that took part in it."""
    rows = store.query("SELECT seconds FROM runs WHERE command = 'extract' AND dataset = ?", [dataset]).to_pylist()
    by_spec = [json.loads(row["seconds"] or "{}").get("by_spec") or {} for row in rows]
    return {name: float(sum(spent.get(spec_id, 0.0) for spent in by_spec)) for name, spec_id in specs.items()}


def _score_stored(store: Store, one: _Kept, spec: ResolvedSpec, workers: Workers, run_id: str) -> float:
    """Score the stored vectors, where the head alone was trained; return the seconds."""
    start = perf_counter()
    ids, probabilities = workers.call(score_vectors, store.uri, one.training.vectors, spec.backbone, spec.request)
    labels = list(spec.labels)
    store.append(
        "scores",
        pa.table(
            {
                "backbone": pa.repeat(pa.scalar(spec.backbone.name), len(ids) * len(labels)),
                "spec_id": pa.repeat(pa.scalar(spec.spec.spec_id), len(ids) * len(labels)),
                "image_id": np.repeat(np.asarray(ids, dtype=object), len(labels)),
                "label": np.tile(np.asarray(labels, dtype=object), len(ids)),
                "probability": probabilities.ravel(),
                "run_id": pa.repeat(pa.scalar(run_id), len(ids) * len(labels)),
            }
        ),
    )
    return perf_counter() - start


def _timed(tried: Sequence[tuple[Training, RunState]]) -> list[RunState]:
    """Return the trainings whose speed is told: those on images, if there are any."""
    on_images = [state for training, state in tried if state.history and not training.vectors]
    return on_images or [state for _, state in tried if state.history]


def _finetuned(store: Store, one: _Kept, spec_id: str) -> Finetuned:
    scored = store.query("SELECT count(DISTINCT image_id) AS n FROM scores WHERE spec_id = ?", [spec_id])
    best = one.best
    recipe = one.training.recipe
    return Finetuned(
        one.weights.name,
        one.weights.backbone,
        one.weights.sha256,
        one.weights.source,
        one.model_id,
        spec_id,
        f"{recipe.depth} at {recipe.rate.start:g}",
        best,
        seconds([state for _, state in one.tried]),
        rate(_timed(one.tried)),
        one.state.history[best - 1].mean_auc,
        one.budget,
        scored["n"][0].as_py(),
    )
