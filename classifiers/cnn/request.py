"""What the workers of a training run are told: small, picklable and without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from classifiers.cnn.recipe import Recipe
from classifiers.cnn.training_set import TrainingSet
from featurestore.backbones.catalogue import BackboneSpec
from featurestore.backbones.weights import WeightsRequest

CACHE_LIMIT = 16 << 30
"""Bytes of decoded images on one machine's disk: 343,000 at 224 px."""


@dataclass(frozen=True)
class Training:
    """One network to train.

    Parameters
    ----------
    name : str
        Where its state and checkpoints lie: the name of the weights it makes, or a trial's below that.
    backbone : BackboneSpec
    weights : WeightsRequest
        Initial ones.
    recipe : Recipe
    vectors : str
        The spec_id of stored vectors that stand for the images, where the head alone trains; else empty.
    """

    name: str
    backbone: BackboneSpec
    weights: WeightsRequest
    recipe: Recipe
    vectors: str = ""


@dataclass(frozen=True)
class TrainingRequest:
    """One run: networks trained one after the other on the same images and labels.

    Parameters
    ----------
    store_uri, run_id : str
    name : str
        Of the run.
    dataset, split : str
    groups : tuple of (str, tuple of str)
        The labels to train, each the maximum over labels of the data set.
    trainings : tuple of Training
        All with one size and one preprocessing.
    cache_limit : int
        Bytes.
    """

    store_uri: str
    run_id: str
    name: str
    dataset: str
    split: str
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    trainings: tuple[Training, ...]
    cache_limit: int = CACHE_LIMIT


def signature(training: Training, data: TrainingSet) -> dict[str, Any]:
    """Return what decides the numbers of a training, as JSON-able data, beside the initial weights.

    Workers are left out: a run may go on with more or fewer.
    """
    recipe = asdict(training.recipe)
    # How the weights were named does not matter: what they are is compared.
    del recipe["weights"], recipe["preset"]
    return {
        "dataset": data.dataset,
        "split": data.split,
        "images": f"{len(data.files)} with digest {data.digest[:12]}",
        "labels": list(data.labels),
        "architecture": f"{training.backbone.timm_name} ({training.backbone.variant})",
        "recipe": recipe,
    }
