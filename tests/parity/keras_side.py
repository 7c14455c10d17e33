"""Keras' half of the comparison: random networks, saved as Keras 3 saves them and as Keras 2 did."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"  # before anybody imports keras

import h5py
import keras
import numpy as np

BUILDERS: dict[str, Callable[..., Any]] = {
    "densenet121": keras.applications.DenseNet121,
    "densenet169": keras.applications.DenseNet169,
    "densenet201": keras.applications.DenseNet201,
    "inception_resnet_v2": keras.applications.InceptionResNetV2,
    "xception": keras.applications.Xception,
    "vgg16": keras.applications.VGG16,
    "vgg19": keras.applications.VGG19,
}
NAMINGS = ("keras3", "keras2")
N_LABELS = 14


def random_model(backbone: str, size: int, seed: int) -> Any:
    """Build the authors' form of a network: `keras.applications` -> global average pool -> 14 sigmoids.

    All weights are random, small enough for each epsilon to count. Batch norms take the statistics of random images,
    then each its own error, so that no activation dies or explodes over two hundred layers.
    """
    keras.utils.set_random_seed(seed)
    base = BUILDERS[backbone](include_top=False, weights=None, input_shape=(size, size, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(base.output)
    model = keras.Model(base.input, keras.layers.Dense(N_LABELS, activation="sigmoid")(pooled))
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(_random(_last(weight.path), tuple(weight.shape), generator, backbone))
    images = generator.normal(0, 1, (4, size, size, 3)).astype(np.float32)
    _take_statistics(model, images)
    for weight in model.weights:
        if _last(weight.path) in ("moving_mean", "moving_variance"):
            weight.assign(keras.ops.convert_to_numpy(weight) * generator.lognormal(0, 0.3, tuple(weight.shape)))
    _spread(model, images)
    return model


def _random(variable: str, shape: tuple[int, ...], generator: np.random.Generator, backbone: str) -> np.ndarray:
    if "kernel" in variable:
        fan_in = np.prod(shape[:2]) if variable == "depthwise_kernel" else np.prod(shape[:-1])
        small = 1 if backbone.startswith("vgg") else 0.3  # nothing there would make it large again
        return generator.normal(0, small * np.sqrt(2 / fan_in), shape)
    if variable in ("gamma", "moving_variance"):
        return generator.uniform(0.5, 1.5, shape)
    return generator.normal(0, 0.1, shape)


def _take_statistics(model: Any, images: np.ndarray) -> None:
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0
    model(images, training=True)
    for norm in norms:
        norm.momentum = 0.99


def _spread(model: Any, images: np.ndarray) -> None:
    """Scale the head so that its sigmoids lie between the extremes, where differences show."""
    pooled, _ = answers(model, images)
    kernel, bias = model.layers[-1].get_weights()
    logits = pooled @ kernel
    model.layers[-1].set_weights([kernel / logits.std(), bias - logits.mean(axis=0) / logits.std()])


def answers(model: Any, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pooled features ``(n, n_features)`` and sigmoids ``(n, 14)`` of normalised images ``(n, h, w, 3)``."""
    both = keras.Model(model.input, [model.layers[-2].output, model.output])
    pooled, scores = both.predict(normal, verbose=0, batch_size=len(normal))
    return pooled, scores


def save(model: Any, path: Path, naming: str) -> Path:
    """Save a model whole, as Keras 3 does, or as Keras 2 did."""
    new = path.with_suffix(".keras3.h5")
    model.save(new, include_optimizer=False)
    if naming == "keras3":
        return new
    old = path.with_suffix(".hdf5")
    with h5py.File(new, "r") as source, h5py.File(old, "w") as target:
        _copy_as_keras2(source, target)
    new.unlink()
    return old


def _copy_as_keras2(source: h5py.File, target: h5py.File) -> None:
    """Rewrite names and order: groups in the model's order, ``kernel:0``, DenseNet's first layers with a slash."""
    for key, value in source.attrs.items():
        target.attrs[key] = _slashed(value) if key == "model_config" else value
    target.attrs["keras_version"] = "2.3.0-tf"
    old, new = source["model_weights"], target.create_group("model_weights")
    names = [_text(name) for name in old.attrs["layer_names"]]
    new.attrs["layer_names"] = [_slash(name).encode() for name in names]
    for name in names:
        group = new.create_group(_slash(name))
        paths = [_text(path) for path in old[name].attrs["weight_names"]]
        group.attrs["weight_names"] = [f"{_slash(name)}/{_last(path)}:0".encode() for path in paths]
        for path in paths:
            group.create_dataset(f"{_slash(name)}/{_last(path)}:0", data=old[name][path])


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _slash(name: str) -> str:
    return {"conv1_conv": "conv1/conv", "conv1_bn": "conv1/bn", "conv1_relu": "conv1/relu"}.get(name, name)


def _slashed(config: Any) -> str:
    text = _text(config)

    def rename(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rename(item) for key, item in value.items()}
        if isinstance(value, list):
            return [rename(item) for item in value]
        return _slash(value) if isinstance(value, str) else value

    return json.dumps(rename(json.loads(text)))
