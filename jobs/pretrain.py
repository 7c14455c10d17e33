"""The pretraining job: a data set, a recipe, some backbones; their trained networks end as registered weights."""

from __future__ import annotations

from collections.abc import Sequence

from classifiers.cnn.records import RunState, folder
from classifiers.cnn.request import Training, TrainingRequest
from classifiers.cnn.training_set import TrainingSet, check_set, read_training_set
from classifiers.label_map import made_of, read_label_map
from classifiers.labels import check_labels, dataset_labels
from classifiers.source_split import make_source_split
from featurestore.backbones.registry import RegisteredWeights, check_free, register, registered
from featurestore.backbones.requests import Requested, requested
from featurestore.errors import UsageError
from featurestore.store import Store
from featurestore.store.training_sources import source_table
from jobs.pretrain_request import Pretrained, PretrainRequest
from jobs.runlog import Run, record_run
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

APPROACH = "pretrain"
DEFAULT_SPLIT = "pretrain"


def pretrain(
    store: Store, request: PretrainRequest, workers: Workers, say: Say = lambda text: None
) -> list[Pretrained]:
    """Train, or go on with what an earlier call of the same name left; what is finished is not trained again.

    Parameters
    ----------
    store : Store
    request : PretrainRequest
    workers : Workers
    say : callable
        Told a sentence an epoch.

    Returns
    -------
    list of Pretrained
        One a backbone.

    Raises
    ------
    UsageError
        For a request that cannot be met, a constant label, a name that is taken by other weights or another training.
    HarmError
        If a training diverged; the other networks are registered.
    StoppedError
        If workers keep dying; the same request goes on from the last epoch.
    """
    store.require_dataset(request.dataset)
    recipe = request.recipe()
    chosen = requested(store, request.backbones, recipe.weights)
    check_sizes(chosen, recipe.size)
    check_free(store, request.run_name, [])
    check_workers(request.workers, workers)
    with record_run(store, APPROACH, request.dataset, request.for_the_record()) as run:
        split = request.split or make_source_split(store, request.dataset, DEFAULT_SPLIT, request.seed).name
        groups = label_groups(store, request.dataset, request.label_map)
        initial = initial_weights(store, request.backbones, recipe, workers)
        data = read_training_set(store, request.dataset, split, dict(groups))
        check_set(data, recipe.uncertainty)
        trainings = tuple(Training(request.run_name, asked.backbone, asked.request, recipe) for asked in chosen)
        asked = TrainingRequest(store.uri, run.run_id, request.run_name, request.dataset, split, groups, trainings)
        check_unchanged(store, asked, data, initial)
        return _Pretraining(store, asked, data, run, say).run(workers, request.workers)


def check_sizes(chosen: Sequence[Requested], size: int) -> None:
    """Raise `UsageError` where a backbone needs larger images."""
    for asked in chosen:
        if size < asked.backbone.min_size:
            message = f"--size {size}: {asked.backbone.name} needs at least {asked.backbone.min_size} px"
            raise UsageError(message)


def check_workers(count: int | None, workers: Workers) -> None:
    """Raise `UsageError` for several workers without Ray."""
    if count not in (None, 1) and not workers.use_ray:
        message = f"--workers {count}: several workers need Ray; leave --no-ray out"
        raise UsageError(message)


def label_groups(
    store: Store, dataset: str, label_map: str | None, labels: Sequence[str] | None = None
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the labels to train, each with the data set's labels that it is the maximum of.

    Parameters
    ----------
    store : Store
    dataset : str
    label_map : str or None
        A shipped map's name or a file.
    labels : sequence of str, optional
        Some of the map's labels, or without a map of the data set's.

    Raises
    ------
    UsageError
        For a label that neither the data set offers nor the map makes of what it offers.
    """
    offered, groups = dataset_labels(store, dataset), read_label_map(label_map) if label_map else {}
    names = list(labels if labels is not None else groups or offered)
    found = tuple((name, made_of(name, groups, offered)) for name in names)
    members = [member for name, made in found for member in made or groups.get(name, (name,))]
    check_labels(store, dataset, list(dict.fromkeys(members)))
    return found


class _Pretraining:
    """Settles each network when it is finished: metrics, then the registry."""

    def __init__(self, store: Store, request: TrainingRequest, data: TrainingSet, run: Run, say: Say) -> None:
        self._store, self._request, self._data = store, request, data
        self._job = TrainingJob(store, request, data, run, say, self._settle)

    def run(self, workers: Workers, count: int | None) -> list[Pretrained]:
        """Train what is not trained yet."""
        self._job.run(workers, count)
        self._job.raise_failures()
        return [self._row(training) for training in self._request.trainings]

    def _settle(self, training: Training, state: RunState) -> None:
        path = f"{folder(training.name, training.backbone.name)}/{state.weights}"
        if self._store.location.size(path) is not None:
            self._job.write_metrics(APPROACH, training, state)
            self._job.reject(state)
            sources = source_table(self._request.dataset, self._data.pixel_hashes, known_patients(self._data.patients))
            register(self._store, self._describe(training, state), self._store.location.read_bytes(path), sources)
            self._store.location.remove(path)

    def _describe(self, training: Training, state: RunState) -> RegisteredWeights:
        recipe, backbone = training.recipe, training.backbone
        order = f", conditional ({recipe.conditional} hierarchy)" if recipe.conditional else ""
        augmented = "" if recipe.augment == "none" else f", augmentation {recipe.augment}"
        source = (
            f"trained on {self._request.dataset} (split {self._request.split}, {len(self._data.train)} images, "
            f"{len(state.history)} epochs, {recipe.uncertainty}{order}{augmented}) from {training.weights.name}"
        )
        return RegisteredWeights(
            self._request.name,
            backbone.name,
            backbone.variant,
            state.weights_sha256,
            list(self._data.labels),
            source,
            preprocess=f"{recipe.preprocess} at {recipe.size} px",
        )

    def _row(self, training: Training) -> Pretrained:
        ((_, state),) = self._job.of(training.backbone.name)
        (weights,) = registered(self._store, self._request.name, training.backbone.name)
        last = state.history[-1]
        return Pretrained(
            weights.name,
            weights.backbone,
            weights.sha256,
            weights.source,
            len(state.history),
            seconds([state]),
            rate([state]),
            last.mean_auc,
            {label: result["auc"] for label, result in last.auc.items()},
            {label: result["note"] for label, result in last.auc.items() if result["note"]},
            state.facts["peak_mib"],
        )
