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
class TrainingRequest:
    """One run.

    Parameters
    ----------
    store_uri, run_id : str
    name : str
        Of the run and of the weights it makes.
    dataset, split : str
    groups : tuple of (str, tuple of str)
        The labels to train, each the maximum over labels of the data set.
    recipe : Recipe
    backbones : tuple of (BackboneSpec, WeightsRequest)
    cache_limit : int
        Bytes.
    """

    store_uri: str
    run_id: str
    name: str
    dataset: str
    split: str
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    recipe: Recipe
    backbones: tuple[tuple[BackboneSpec, WeightsRequest], ...]
    cache_limit: int = CACHE_LIMIT


def signature(request: TrainingRequest, backbone: BackboneSpec, data: TrainingSet) -> dict[str, Any]:
    """Return what decides the numbers of a training, as JSON-able data, beside the initial weights.

    Workers are left out: a run may go on with more or fewer.
    """
    recipe = asdict(request.recipe)
    # How the weights were named does not matter: what they are is compared.
    del recipe["weights"], recipe["preset"]
    return {
        "dataset": request.dataset,
        "split": request.split,
        "images": f"{len(data.files)} with digest {data.digest[:12]}",
        "labels": list(data.labels),
        "architecture": f"{backbone.timm_name} ({backbone.variant})",
        "recipe": recipe,
    }
