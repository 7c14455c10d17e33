"""What a training worker does: every training of a run, one after the other, each from its last checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from time import perf_counter
from typing import Any

import torch
from torch import nn

from classifiers.cnn.checkpoint import Checkpoints, check_finite
from classifiers.cnn.hierarchy import ancestors
from classifiers.cnn.image_cache import Images, Reader, open_images
from classifiers.cnn.layers import add_norm, can_fold_norm, fold_norm
from classifiers.cnn.loop import Diverged, Trainer
from classifiers.cnn.memory import Peak
from classifiers.cnn.place import Place
from classifiers.cnn.recipe import changed
from classifiers.cnn.records import RunState, best_epoch, out_of_patience
from classifiers.cnn.request import Training, TrainingRequest, signature
from classifiers.cnn.stored_vectors import HeadOnVectors, StoredVectors
from classifiers.cnn.training_set import TrainingSet, read_training_set
from featurestore.backbones.network import LoadedWeights, Network, fingerprint, load_network
from featurestore.backbones.weights_file import pack
from featurestore.errors import UsageError
from featurestore.store import Store

Report = Callable[[], object]


def run_session(request: TrainingRequest, place: Place, report: Report = lambda: None) -> None:
    """Do every training of a request; what becomes of each stands in its `RunState`.

    Parameters
    ----------
    request : TrainingRequest
    place : Place
    report : callable
        Called after every epoch, on the leading worker.
    """
    if place.device.type == "cpu":
        torch.set_num_threads(place.threads)
    store = Store(request.store_uri)
    data = read_training_set(store, request.dataset, request.split, dict(request.groups))

    @lru_cache(maxsize=1)  # of vectors those of one network at a time
    def images(vectors: str) -> Images:
        """Open the images when the first training needs them; every worker comes to it in the same order."""
        if vectors:
            return StoredVectors(store, vectors, data)
        recipe = request.trainings[0].recipe
        reader = Reader(data.files, recipe.preprocess, recipe.size, place.threads)
        return open_images(reader, place, request.run_id, request.cache_limit)

    for training in request.trainings:
        _Session(store, training, place, data, images, report).run()


class _Session:
    """One training of a run."""

    def __init__(
        self,
        store: Store,
        training: Training,
        place: Place,
        data: TrainingSet,
        images: Callable[[str], Images],
        report: Report,
    ) -> None:
        self._training, self._place, self._data, self._report = training, place, data, report
        self._open = images
        self._images: Images | None = None
        self._checkpoints = Checkpoints(store.location, training.name, training.backbone.name)
        self._peak = Peak(place.device)
        self._start = perf_counter()

    def run(self) -> None:
        """Train, or go on; an end that another attempt would only repeat is noted instead of raised."""
        signed = signature(self._training, self._data)
        state = self._checkpoints.state() or RunState(signed, "")
        if state.weights:
            return
        # Every worker has read the state before the first writes it.
        self._place.barrier()
        try:
            self._train(state, signed)
        except (UsageError, Diverged) as error:
            self._fail(state, error)

    def _train(self, state: RunState, signed: dict[str, Any]) -> None:
        loaded = load_network(self._training.backbone, self._training.weights)
        state.initial = state.initial or loaded.sha256
        _check_continues(state, signed, loaded.sha256, self._training.name)
        network = self._prepare(loaded)
        trained = HeadOnVectors(network) if self._training.vectors else network
        self._images = self._open(self._training.vectors)
        trainer = Trainer(trained, self._data, self._images, self._training.recipe, self._place)
        state.failed = ""
        if state.checkpoint:
            trainer.resume(state.history, *self._checkpoints.load(state))
        recipe = self._training.recipe
        patience = recipe.patience if recipe.conditional is None else None
        trainer.run(lambda trainer: self._save(state, trainer), lambda history: out_of_patience(history, patience))
        if state.best and self._place.leads:  # who writes the file; the others' state may be older
            trained.load_state_dict(self._checkpoints.load_best(state))
        self._finish(state, network)

    def _prepare(self, loaded: LoadedWeights) -> Network:
        recipe, network = self._training.recipe, loaded.network
        if recipe.new_head:
            network.head = None
        add_head(network, self._data.labels, recipe.seed, loaded.source)
        network.ancestors = {} if recipe.conditional is None else ancestors(self._data.labels, recipe.conditional)
        if recipe.fold_norm and self._training.weights.kind == "random" and can_fold_norm(network):
            add_norm(network)
        return network

    def _save(self, state: RunState, trainer: Trainer) -> None:
        state.history = trainer.history
        state.seconds += perf_counter() - self._start
        self._start = perf_counter()
        self._peak.look()
        self._check_finite(trainer.network)
        if self._place.leads:
            best = self._training.recipe.patience is not None and best_epoch(state.history) == len(state.history)
            self._checkpoints.save(state, trainer.network.state_dict(), trainer.optimiser_state(), best=best)
            self._report()
        self._place.barrier()

    def _check_finite(self, network: Network) -> None:
        broken = check_finite(network.state_dict())
        if broken:
            message = (
                f"{network.spec.name} diverged: NaN or infinite weights, first {broken[0]!r}; none were stored. Give a "
                "preset with a lower rate, warm-up or clipping"
            )
            raise Diverged(message)

    def _finish(self, state: RunState, network: Network) -> None:
        fold_norm(network)
        state.facts = self._facts()
        state.seconds += perf_counter() - self._start
        if self._place.leads:
            recipe, labels = self._training.recipe, list(self._data.labels)
            metadata = {
                "variant": self._training.backbone.variant,
                "preprocess": f"{recipe.preprocess} at {recipe.size} px",
            }
            content = pack(network.features.state_dict(), network.head, labels, metadata, network.ancestors)
            self._checkpoints.finish(state, content, fingerprint(network.state_dict(), labels, network.ancestors))
        self._place.barrier()

    def _fail(self, state: RunState, error: UsageError | Diverged) -> None:
        state.failed = str(error)
        state.facts = self._facts() | {"error": type(error).__name__}
        if self._place.leads:
            self._checkpoints.note(state)

    def _facts(self) -> dict[str, Any]:
        return {
            "peak_mib": self._peak.mib(),
            "cache_bytes": self._images.bytes if self._images else 0,
            "workers": self._place.world,
            "threads": self._place.threads,
            "device": self._place.device.type,
            "precision": "bfloat16 autocast" if self._place.mixed_precision else "float32",
            "unusable": [asdict(item) for item in self._images.unusable.values()] if self._images else [],
        }


def add_head(network: Network, labels: Sequence[str], seed: int, source: str) -> None:
    """Give a network a head for these labels; one it has already is kept.

    Parameters
    ----------
    network : Network
    labels : sequence of str
    seed : int
        Of a new head's random weights.
    source : str
        Where the network came from, for the error.

    Raises
    ------
    UsageError
        If it has a head for other labels.
    """
    if network.head is not None:
        if list(network.labels) == list(labels):
            return
        message = (
            f"weights of {network.spec.name} ({source}) end in a head for {', '.join(network.labels)}; this run trains "
            f"{', '.join(labels)}. Give a --label-map that names the same labels in the same order, or use cxr "
            "finetune, which puts a new head on"
        )
        raise UsageError(message)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.head = nn.Linear(network.spec.n_features, len(labels))
    network.labels = list(labels)


def _check_continues(state: RunState, signed: Mapping[str, Any], initial: str, name: str) -> None:
    now = {**signed, "initial weights": initial[:12]}
    differences = changed({**state.signature, "initial weights": state.initial[:12]}, now)
    if state.initial and state.history and differences:
        message = (
            f"run {name!r} has {len(state.history)} epochs of another training: {'; '.join(differences)}. Repeat the "
            "command that began it, or choose another --name"
        )
        raise UsageError(message)
