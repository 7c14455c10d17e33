"""Layers with their weights out of a Keras HDF5 file, by Keras 1, 2 or 3, with h5py alone.

A full model has its weights in the group ``model_weights``, a weights-only file at the root. The attribute
``layer_names`` gives the layers in the model's order (the groups themselves are alphabetical), ``weight_names`` of each
group its weights: ``kernel:0`` by Keras 2, ``kernel`` by Keras 3. Attributes too long for HDF5 are cut into
``layer_names0``, ``layer_names1``, ... A network that was put into another one as a layer has one group for all of it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from featurestore.errors import UsageError

_MAGIC = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class KerasFile:
    """What a file holds.

    Parameters
    ----------
    layers : dict of str to dict of str to ndarray
        Weights by layer and by variable (``kernel``, ``gamma``, ...), in the model's order, only layers with weights. A
        layer's name is Keras 3's: ``conv1_conv`` also where Keras 2 wrote ``conv1/conv``.
    activations : dict of str to str
        Of each layer that has one; empty where the file holds weights only.
    """

    layers: dict[str, dict[str, NDArray[Any]]]
    activations: dict[str, str]


def read_keras(path: Path) -> KerasFile:
    """Read a whole file.

    Raises
    ------
    UsageError
        For a file that is no HDF5, not whole, or not written by Keras' ``model.save`` or ``save_weights``.
    """
    with path.open("rb") as file:
        magic = file.read(len(_MAGIC))
    if magic != _MAGIC:
        message = f"{path.name} is no HDF5 file (it starts with {magic[:4]!r}); expected what Keras' model.save wrote"
        raise UsageError(message)
    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)
            layers = _layers(root, path.name)
            return KerasFile(layers, _activations(file))
    except (OSError, RuntimeError) as error:  # h5py's answers to a file that ends too early
        message = f"{path.name} is damaged or cut off, HDF5 cannot read it ({error}); fetch it again"
        raise UsageError(message) from error


def _layers(root: h5py.Group, what: str) -> dict[str, dict[str, NDArray[Any]]]:
    names = _attribute(root, "layer_names")
    if not names:
        newer = "layers" in root or "_layer_checkpoint_dependencies" in root
        found = "Keras 3's .weights.h5, which does not name its layers" if newer else "no attribute 'layer_names'"
        message = f"{what} holds {found}; expected a model saved by model.save('NAME.h5') or Keras 2's save_weights"
        raise UsageError(message)
    found_layers: dict[str, dict[str, NDArray[Any]]] = {}
    for layer, variable, values in (entry for name in names for entry in _weights(root, name, what)):
        weights = found_layers.setdefault(layer, {})
        if variable in weights:
            raise UsageError(f"{what} has two weights {variable!r} of layer {layer!r}; expected one network's layers")
        weights[variable] = values
    return found_layers


def _weights(root: h5py.Group, name: str, what: str) -> Iterator[tuple[str, str, NDArray[Any]]]:
    """Yield layer, variable and values of one group, be it one layer's or a whole network's."""
    if name not in root:
        raise UsageError(f"{what} names a layer {name!r} but holds nothing of it; it is damaged: fetch it again")
    group = root[name]
    names = _attribute(group, "weight_names")
    variables = Counter(_variable(weight) for weight in names)
    nested = bool(variables) and max(variables.values()) > 1
    for weight in names:
        if weight not in group:
            raise UsageError(
                f"{what} names a weight {name}/{weight} but does not hold it; it is damaged: fetch it again"
            )
        layer = weight.rpartition("/")[0].removeprefix(f"{name}/") if nested else name
        yield layer.replace("/", "_"), _variable(weight), np.asarray(group[weight])


def _variable(weight: str) -> str:
    return weight.rpartition("/")[2].partition(":")[0]


def _attribute(group: h5py.Group, name: str) -> list[str]:
    if name in group.attrs:
        return [_text(value) for value in group.attrs[name]]
    parts: list[str] = []
    for k in count():
        if f"{name}{k}" not in group.attrs:
            return parts
        parts += [_text(value) for value in group.attrs[f"{name}{k}"]]
    return parts


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _activations(file: h5py.File) -> dict[str, str]:
    if "model_config" not in file.attrs:
        return {}
    config = json.loads(_text(file.attrs["model_config"]))
    return {name: activation for name, activation in _walk(config.get("config", {})) if isinstance(activation, str)}


def _walk(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and activation of every layer, also of networks inside networks."""
    layers = config if isinstance(config, list) else config.get("layers", [])  # Keras 1's Sequential is a list
    for layer in layers:
        inner = layer.get("config", {})
        if isinstance(inner, list) or "layers" in inner:
            yield from _walk(inner)
        elif "activation" in inner:
            yield inner.get("name", ""), inner["activation"]
