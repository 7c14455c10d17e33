"""A training set of bright and dark squares: what a label means can be seen in a corner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from classifiers.cnn.image_cache import CachedImages
from classifiers.cnn.recipe import Rate, Recipe
from classifiers.cnn.training_set import ImageFile, TrainingSet

LABELS = ("Lung Opacity", "Edema")


@pytest.fixture
def squares() -> tuple[TrainingSet, CachedImages]:
    """Return 64 images of 32 px, 48 to train on: bright above for the first label, to the left for the other."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2, (64, 2)).astype(np.int8)
    pixels = rng.integers(0, 60, (64, 32, 32)).astype(np.uint8)
    pixels[codes[:, 0] == 1, :12] += 150
    pixels[codes[:, 1] == 1, :, :8] += 40
    files = [ImageFile(f"i{k:02d}", f"/nowhere/{k}", "") for k in range(64)]
    patients = [f"p{k // 2}" for k in range(64)]
    hashes = [f"h{k}" for k in range(64)]
    rows = np.arange(64)
    data = TrainingSet("x", "s", LABELS, files, patients, hashes, codes, rows[:48], rows[48:], "digest")
    return data, CachedImages(pixels, {})


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    """Return a function that makes a recipe for small squares."""
    base = Recipe("test", "random:0", 32, 8, 2, Rate(3e-3, 0.3), Rate(1e-3, 0.3))
    return lambda **changes: replace(base, **changes)
