"""The networks themselves: timm's, or what Keras builds under the same name. Imports torch.

Weights of `keras.applications` give other features in timm's networks, in silence. What differs is little, and written
down here; both are compared on random weights by ``make parity``. Keras' DenseNet pads its first pool with zeros where
torch pads with minus infinity, which after a ReLU is the same; InceptionResNetV2 and VGG compute the same in both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
from timm.layers.pool2d_same import MaxPool2dSame
from torch import nn

from featurestore.backbones.catalogue import BackboneSpec
from featurestore.dotted import load_attribute
from featurestore.errors import UsageError


def build(spec: BackboneSpec, *, pretrained: bool = False) -> nn.Module:
    """Return the features of a network: no classifier, nothing behind the tap.

    Parameters
    ----------
    spec : BackboneSpec
    pretrained : bool
        With the ImageNet weights of timm's hub.

    Returns
    -------
    torch.nn.Module
        With ``forward_features``.

    Raises
    ------
    UsageError
        For an architecture that timm does not have, a function that gives no such module, or a Keras variant of a
        network that `keras.applications` and the paper do not share.
    """
    model = _own(spec) if ":" in spec.timm_name else _timm(spec, pretrained)
    if spec.variant == "keras":
        _keras(spec, model)
    return _features_only(model)


def _timm(spec: BackboneSpec, pretrained: bool) -> nn.Module:
    if not timm.is_model(spec.timm_name):
        message = f"backbone {spec.name!r}: timm {timm.__version__} has no model {spec.timm_name!r}"
        raise UsageError(message + "; see timm.list_models(), or give module:function")
    model: nn.Module = timm.create_model(spec.timm_name, pretrained=pretrained, num_classes=0, in_chans=spec.in_chans)
    return model


def _own(spec: BackboneSpec) -> nn.Module:
    function: Any = load_attribute(spec.timm_name, "network")
    model = function() if callable(function) and not isinstance(function, nn.Module) else function
    if not isinstance(model, nn.Module) or not hasattr(model, "forward_features"):
        message = (
            f"network {spec.timm_name!r} of backbone {spec.name!r} gives a {type(model).__name__}; expected a "
            "torch.nn.Module with forward_features"
        )
        raise UsageError(message)
    return model


def _features_only(model: nn.Module) -> nn.Module:
    """Drop what comes after the tap: timm's VGG keeps 120 million parameters there even without classes."""
    for name in ("pre_logits", "head"):
        if hasattr(model, name):
            setattr(model, name, nn.Identity())
    return model


def _keras(spec: BackboneSpec, model: nn.Module) -> None:
    if spec.timm_name not in _DIFFERENCES:
        message = f"{spec.name}: there is no Keras variant of {spec.timm_name}; there is of {', '.join(_DIFFERENCES)}"
        raise UsageError(message)
    for change in _DIFFERENCES[spec.timm_name]:
        change(model)


def _epsilon(value: float) -> Callable[[nn.Module], None]:
    """Return what gives every batch norm this epsilon."""

    def change(model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = value

    return change


def _same_pools(model: nn.Module) -> None:
    """Pad strided pools as TensorFlow's "same": 28 -> 14 takes one column on the right and none on the left."""
    for parent in list(model.modules()):
        for name, pool in list(parent.named_children()):
            if isinstance(pool, nn.MaxPool2d):
                setattr(parent, name, MaxPool2dSame(pool.kernel_size, pool.stride))


_DENSENET = (_epsilon(1.001e-5),)
_DIFFERENCES: dict[str, tuple[Callable[[nn.Module], None], ...]] = {
    "densenet121": _DENSENET,
    "densenet169": _DENSENET,
    "densenet201": _DENSENET,
    "inception_resnet_v2": (),
    "legacy_xception": (_epsilon(1e-3), _same_pools),
    "vgg16": (),
    "vgg19": (),
}
