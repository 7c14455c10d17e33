"""Preprocessing against plain NumPy, and the shipped template against a new one."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from featurestore.errors import UsageError
from featurestore.images.crop import build_template, crop_chest, load_template, reference_images, resize
from featurestore.images.decode import DEPTH_RULE
from featurestore.images.preprocess import PREPROCESSES, get_preprocess


@pytest.fixture(scope="module")
def phantoms() -> list[np.ndarray]:
    return list(reference_images())


def triangle_weights(n_in: int, n_out: int) -> np.ndarray:
    """Return the matrix of an antialiased bilinear resize in one direction, shape (n_out, n_in)."""
    scale = n_in / n_out
    support = max(scale, 1.0)
    centres = (np.arange(n_out) + 0.5) * scale
    distance = np.abs(np.arange(n_in) + 0.5 - centres[:, None]) / support
    weights = np.clip(1 - distance, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("shape", "size"), [((300, 250), 96), ((64, 64), 224), ((28, 28), 96), ((1024, 900), 224)])
def test_bilinear_is_the_antialiased_triangle_filter(shape: tuple[int, int], size: int) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
    expected = triangle_weights(shape[0], size) @ pixels.astype(float) @ triangle_weights(shape[1], size).T
    result = get_preprocess("bilinear-v1").apply(pixels, size)
    assert (result.shape, result.dtype) == ((size, size), np.uint8)
    assert np.abs(result - expected).max() <= 1.01  # two roundings to whole grey levels


def test_crop_is_a_window_of_the_resized_image(phantoms: list[np.ndarray]) -> None:
    resized = resize(phantoms[0], 256)
    window = get_preprocess("chest-crop-v1").apply(phantoms[0], 224)
    views = np.lib.stride_tricks.sliding_window_view(resized, (224, 224))
    assert (views == window).all(axis=(2, 3)).sum() == 1


def test_crop_is_the_best_correlation_by_brute_force(phantoms: list[np.ndarray]) -> None:
    resized = resize(phantoms[3], round(96 * 256 / 224))
    template = resize(load_template(), 96).astype(float).ravel()
    views = np.lib.stride_tricks.sliding_window_view(resized, (96, 96)).reshape(-1, 96 * 96).astype(float)
    scores = [np.corrcoef(view, template)[0, 1] for view in views]
    chosen = crop_chest(phantoms[3], 96).astype(float).ravel()
    assert np.corrcoef(chosen, template)[0, 1] == pytest.approx(max(scores), abs=1e-5)


@pytest.mark.parametrize(("rows", "columns"), [(10, -8), (-10, 8)])
def test_crop_follows_a_chest_that_moves(phantoms: list[np.ndarray], rows: int, columns: int) -> None:
    where = []
    for moved in (phantoms[0], np.roll(phantoms[0], (rows, columns), axis=(0, 1))):
        views = np.lib.stride_tricks.sliding_window_view(resize(moved, 256), (224, 224))
        where.append(np.argwhere((views == crop_chest(moved, 224)).all(axis=(2, 3)))[0])
    step = where[1] - where[0]
    assert np.abs(step - [rows, columns]).max() <= 3


def test_a_blank_image_gives_its_centre() -> None:
    blank = np.full((256, 256), 90, np.uint8)
    blank[0, 0] = blank[-1, -1] = 91  # in no window near the centre
    assert np.array_equal(crop_chest(blank, 224), np.full((224, 224), 90))


@pytest.mark.parametrize("name", PREPROCESSES)
@pytest.mark.parametrize("size", [75, 96, 224, 299])
def test_every_preprocessing_gives_its_size(name: str, size: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 120), np.uint8)
    result = PREPROCESSES[name].apply(pixels, size)
    assert (result.shape, result.dtype) == ((size, size), np.uint8)


@pytest.mark.parametrize("name", PREPROCESSES)
def test_description_is_json_and_names_what_changes_a_vector(name: str) -> None:
    description = get_preprocess(name).describe(96)
    assert json.loads(json.dumps(description)) == description
    assert (description["name"], description["size"], description["depth"]) == (name, 96, DEPTH_RULE)
    assert description != get_preprocess(name).describe(224)


def test_description_holds_the_templates_hash() -> None:
    digest = hashlib.sha256(load_template().tobytes()).hexdigest()
    assert get_preprocess("chest-crop-v1").describe(224)["crop"]["template_sha256"] == digest
    assert get_preprocess("bilinear-v1").describe(224)["crop"] is None


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UsageError, match="no preprocessing 'bicubic'; there are bilinear-v1, chest-crop-v1"):
        get_preprocess("bicubic")


def test_template_is_the_mean_of_central_windows() -> None:
    images = [np.full((256, 256), level, np.uint8) for level in (10, 21)]
    assert np.array_equal(build_template(images), np.full((224, 224), 16))  # 15.5, half to even
    picture = np.zeros((256, 256), np.uint8)
    picture[16, 16] = 200
    assert build_template([picture])[0, 0] == 200
    with pytest.raises(UsageError, match="at least one image"):
        build_template([])


def test_the_shipped_template_can_be_made_again(phantoms: list[np.ndarray]) -> None:
    assert len(phantoms) == 64
    shipped = load_template()
    assert (shipped.shape, shipped.dtype) == ((224, 224), np.uint8)
    assert np.abs(build_template(phantoms).astype(float) - shipped).mean() <= 2


def test_the_template_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        load_template()[0, 0] = 1
    assert Image.fromarray(load_template()).size == (224, 224)
