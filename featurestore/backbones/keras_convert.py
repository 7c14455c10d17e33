"""From the layers of a Keras file to the tensors of a timm network, each checked. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featurestore.backbones.catalogue import BackboneSpec
from featurestore.backbones.keras_h5 import KerasFile
from featurestore.backbones.keras_layers import keras_names, parts
from featurestore.errors import UsageError

Weights = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class _Want:
    """One tensor: its name here, Keras' name of it, the axes that turn one into the other.

    Parameters
    ----------
    tensor, variable : str
    axes : tuple of int
        The transposition from Keras' to torch's order.
    optional : bool
        Whether Keras may leave it out (a batch norm without scale), so that the network keeps its own.
    """

    tensor: str
    variable: str
    axes: tuple[int, ...] = (0,)
    optional: bool = False


# HWIO -> OIHW; depthwise kernels are (H, W, I, 1) in Keras and (I, 1, H, W) here.
_CONV = (_Want("weight", "kernel", (3, 2, 0, 1)), _Want("bias", "bias"))
_SEPARABLE = (
    _Want("conv1.weight", "depthwise_kernel", (2, 3, 0, 1)),
    _Want("pointwise.weight", "pointwise_kernel", (3, 2, 0, 1)),
)
_NORM = (
    _Want("weight", "gamma", optional=True),
    _Want("bias", "beta"),
    _Want("running_mean", "moving_mean"),
    _Want("running_var", "moving_variance"),
)


@dataclass(frozen=True)
class Converted:
    """A network's state, and what stood behind its pool.

    Parameters
    ----------
    state : dict of str to Tensor
    head : (Tensor, Tensor) or None
        Weight ``(n_labels, n_features)`` and bias ``(n_labels,)`` of the sigmoid layer.
    left_out : str
        For a person: layers behind the features that are no such head; empty where there are none.
    """

    state: dict[str, Tensor]
    head: tuple[Tensor, Tensor] | None
    left_out: str


def convert(spec: BackboneSpec, model: nn.Module, file: KerasFile, what: str) -> Converted:
    """Convert every layer.

    Parameters
    ----------
    spec : BackboneSpec
    model : torch.nn.Module
        The network, in Keras' variant.
    file : KerasFile
    what : str
        For a person: the file.

    Raises
    ------
    UsageError
        Naming the first layer that differs, and how.
    """
    layers = keras_names(spec, model, list(file.layers))
    state, problems = dict(model.state_dict()), list[str]()
    for part, module in parts(model):
        problems += _convert_part(part, module, layers[part], file.layers.get(layers[part]), state)
    rest = {name: file.layers[name] for name in file.layers if name not in set(layers.values())}
    problems += [f"layer {name!r} has no place in it" for name, weights in rest.items() if not _is_dense(weights)]
    if problems:
        more = f" ({len(problems) - 1} more differ)" if len(problems) > 1 else ""
        raise UsageError(f"{what} does not fit {spec.name}: {problems[0]}{more}")
    head, left_out = _head(spec, rest, file.activations)
    return Converted(state, head, left_out)


def _convert_part(
    part: str, module: nn.Module, layer: str, weights: Weights | None, state: dict[str, Tensor]
) -> Iterator[str]:
    """Put one layer's tensors into ``state``; yield what differs."""
    if weights is None:
        yield f"layer {layer!r} is missing"
        return
    wanted = [want for want in _wanted(module) if f"{part}.{want.tensor}" in state]
    for variable in sorted(weights.keys() - {want.variable for want in wanted}):
        yield f"layer {layer!r} has a weight {variable!r} of shape {weights[variable].shape}, expected none"
    for want in wanted:
        name = f"{part}.{want.tensor}"
        if want.variable not in weights:
            if not want.optional:
                yield f"layer {layer!r} lacks the weight {want.variable!r}"
            continue
        values, expected = weights[want.variable], _keras_shape(state[name], want.axes)
        if values.shape != expected:
            yield f"layer {layer!r}: {want.variable!r} has shape {values.shape}, expected {expected}"
        elif not np.isfinite(values).all():
            yield f"layer {layer!r}: {want.variable!r} holds NaN or infinite numbers"
        else:
            state[name] = _tensor(values, want.axes)


def _wanted(module: nn.Module) -> tuple[_Want, ...]:
    if isinstance(module, nn.Conv2d):
        return _CONV
    return _NORM if isinstance(module, nn.BatchNorm2d) else _SEPARABLE


def _keras_shape(tensor: Tensor, axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(tensor.shape[axes.index(axis)] for axis in range(len(axes)))


def _tensor(values: NDArray[Any], axes: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values.transpose(axes), dtype=np.float32))


def _is_dense(weights: Weights) -> bool:
    return "kernel" in weights and weights["kernel"].ndim == 2


def _head(
    spec: BackboneSpec, rest: Mapping[str, Weights], activations: Mapping[str, str]
) -> tuple[tuple[Tensor, Tensor] | None, str]:
    """Return the layer right behind the pool if it is the only one and a sigmoid; else why it was left out."""
    if not rest:
        return None, ""
    shapes = ", ".join(f"{name} {weights['kernel'].shape}" for name, weights in rest.items())
    (name, dense), *others = rest.items()
    if others or dense["kernel"].shape[0] != spec.n_features:
        return None, f"{shapes}: not one layer on the {spec.n_features} pooled features"
    if activations.get(name, "sigmoid") != "sigmoid":
        return None, f"{shapes}: its activation is {activations[name]}, a head here is a sigmoid"
    bias = dense.get("bias", np.zeros(dense["kernel"].shape[1]))
    return (_tensor(dense["kernel"], (1, 0)), _tensor(bias, (0,))), ""
