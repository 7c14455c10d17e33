"""What a training worker does: every backbone of a run, one after the other, each from its last checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from classifiers.cnn.checkpoint import Checkpoints, check_finite
from classifiers.cnn.image_cache import Images, Reader, open_images
from classifiers.cnn.layers import add_norm, can_fold_norm, fold_norm
from classifiers.cnn.loop import Diverged, Trainer
from classifiers.cnn.memory import Peak
from classifiers.cnn.place import Place
from classifiers.cnn.recipe import changed
from classifiers.cnn.records import RunState
from classifiers.cnn.request import TrainingRequest, signature
from classifiers.cnn.training_set import TrainingSet, read_training_set
from featurestore.backbones.catalogue import BackboneSpec
from featurestore.backbones.network import LoadedWeights, Network, fingerprint, load_network
from featurestore.backbones.weights import WeightsRequest
from featurestore.backbones.weights_file import pack
from featurestore.errors import UsageError
from featurestore.store import Store

Report = Callable[[str, RunState], object]
"""Told a backbone's name and where its run stands, after every epoch, on the leading worker."""


def run_session(request: TrainingRequest, place: Place, report: Report = lambda backbone, state: None) -> None:
    """Train every backbone of a request; what becomes of each stands in its `RunState`.

    Parameters
    ----------
    request : TrainingRequest
    place : Place
    report : callable
    """
    if place.device.type == "cpu":
        torch.set_num_threads(place.threads)
    data = read_training_set(Store(request.store_uri), request.dataset, request.split, dict(request.groups))
    reader = Reader(data.files, request.recipe.preprocess, request.recipe.size, place.threads)
    images = open_images(reader, place, request.run_id, request.cache_limit)
    for backbone, weights in request.backbones:
        _Session(request, place, data, images, backbone, weights, report).run()


class _Session:
    """One backbone of a run."""

    def __init__(
        self,
        request: TrainingRequest,
        place: Place,
        data: TrainingSet,
        images: Images,
        backbone: BackboneSpec,
        weights: WeightsRequest,
        report: Report,
    ) -> None:
        self._request, self._place, self._data, self._images = request, place, data, images
        self._backbone, self._weights, self._report = backbone, weights, report
        self._checkpoints = Checkpoints(Store(request.store_uri).location, request.name, backbone.name)
        self._peak = Peak(place.device)

    def run(self) -> None:
        """Train, or go on; an end that another attempt would only repeat is noted instead of raised."""
        state = self._checkpoints.state()
        if state is not None and state.weights:
            return
        signed = signature(self._request, self._backbone, self._data)
        # Every worker has read the state before the first writes it.
        self._place.barrier()
        try:
            self._train(state, signed)
        except (UsageError, Diverged) as error:
            self._fail(state or RunState(signed, ""), error)

    def _train(self, state: RunState | None, signed: dict[str, Any]) -> None:
        loaded = load_network(self._backbone, self._weights)
        state = state or RunState(signed, loaded.sha256)
        _check_continues(state, signed, loaded.sha256, self._request.name)
        network = self._prepare(loaded)
        trainer = Trainer(network, self._data, self._images, self._request.recipe, self._place)
        state.failed = ""
        if state.checkpoint:
            trainer.resume(state.history, *self._checkpoints.load(state))
        trainer.run(lambda trainer: self._save(state, trainer))
        self._finish(state, network)

    def _prepare(self, loaded: LoadedWeights) -> Network:
        recipe, network = self._request.recipe, loaded.network
        add_head(network, self._data.labels, recipe.seed, loaded.source)
        if recipe.fold_norm and self._weights.kind == "random" and can_fold_norm(network):
            add_norm(network)
        return network

    def _save(self, state: RunState, trainer: Trainer) -> None:
        state.history = trainer.history
        self._peak.look()
        self._check_finite(trainer.network)
        if self._place.leads:
            self._checkpoints.save(state, trainer.network.state_dict(), trainer.optimiser_state())
            self._report(self._backbone.name, state)
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
        if self._place.leads:
            recipe, labels = self._request.recipe, list(self._data.labels)
            metadata = {
                "variant": self._backbone.variant,
                "hierarchy": recipe.conditional or "",
                "preprocess": f"{recipe.preprocess} at {recipe.size} px",
            }
            content = pack(network.features.state_dict(), network.head, labels, metadata)
            self._checkpoints.finish(state, content, fingerprint(network.state_dict(), labels))
        self._place.barrier()

    def _fail(self, state: RunState, error: UsageError | Diverged) -> None:
        state.failed = str(error)
        state.facts = self._facts() | {"error": type(error).__name__}
        if self._place.leads:
            self._checkpoints.note(state)

    def _facts(self) -> dict[str, Any]:
        return {
            "peak_mib": self._peak.mib(),
            "cache_bytes": self._images.bytes,
            "workers": self._place.world,
            "threads": self._place.threads,
            "device": self._place.device.type,
            "precision": "bfloat16 autocast" if self._place.mixed_precision else "float32",
            "unusable": [asdict(item) for item in self._images.unusable.values()],
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
