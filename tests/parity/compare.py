"""One network, one naming: the file imported by our code, our network's answers beside Keras'."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from featurestore.backbones.catalogue import CATALOGUE
from featurestore.backbones.importing import import_file
from featurestore.images.sources.labels import CHEXPERT_LABELS
from tests.parity.keras_side import answers, save

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Row:
    """How far apart two implementations are: max |difference| over max |reference|."""

    backbone: str
    naming: str
    features_max_rel: float
    scores_max_rel: float

    @property
    def agrees(self) -> bool:
        return max(self.features_max_rel, self.scores_max_rel) <= TOLERANCE  # False for NaN


def compare(backbone: str, model: Any, naming: str, size: int, folder: Path, images: int = 3) -> Row:
    path = save(model, folder / backbone, naming)
    network = import_file(CATALOGUE[backbone], path).network
    path.unlink()
    assert network.labels == list(CHEXPERT_LABELS)
    grey = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (images, size, size), dtype=np.uint8))
    with torch.inference_mode():
        features, scores = network(grey)
        normal = network.normalise(grey).permute(0, 2, 3, 1).contiguous().numpy()
    reference, sigmoids = answers(model, normal)
    assert features.shape == reference.shape == (images, CATALOGUE[backbone].n_features)
    # Networks that answer the same to every image, or are silent, would agree about nothing.
    assert np.abs(reference[0] - reference[1]).max() > 0.01 * np.abs(reference).max() > 0
    assert 0.1 < np.median(sigmoids) < 0.9
    assert sigmoids.std() > 0.01
    return Row(backbone, naming, relative(features.numpy(), reference), relative(scores.numpy(), sigmoids))


def relative(found: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(found - reference).max() / np.abs(reference).max())
