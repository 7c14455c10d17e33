"""Which Keras layer each part of a timm network is. Imports torch.

Layers that `keras.applications` names are found by name. Those it only counts (``conv2d_17``) are taken in the order of
their numbers, which is the order in which Keras builds them and timm declares them; where the count starts depends on
what else was built in that session.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from torch import nn

from featurestore.backbones.catalogue import BackboneSpec
from featurestore.errors import UsageError

Part = tuple[str, nn.Module]
"""Name within the network, and a convolution, batch norm, or pair of depthwise and pointwise convolution."""
_AUTOMATIC = re.compile(r"(conv2d|batch_normalization)(?:_v1)?(?:_(\d+))?")
COUNTED_CONV, COUNTED_NORM = "conv2d", "batch_normalization"
"""Stand for the next layer that Keras counted instead of naming it."""


def parts(model: nn.Module) -> Iterator[Part]:
    """Yield what Keras has a layer for, in the order of declaration."""
    inside = ""
    for name, module in model.named_modules():
        if inside and name.startswith(inside):
            continue
        if hasattr(module, "pointwise"):  # two convolutions, which are one SeparableConv2D in Keras
            inside = f"{name}."
            yield name, module
        elif isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            yield name, module


def keras_names(spec: BackboneSpec, model: nn.Module, layers: Sequence[str]) -> dict[str, str]:
    """Return the Keras layer of every part of a network.

    Parameters
    ----------
    spec : BackboneSpec
    model : torch.nn.Module
    layers : sequence of str
        Of the file; decide what the counted ones are.

    Returns
    -------
    dict of str to str
        Layer by part. A name that the file does not have is Keras' name for what is missing.
    """
    if spec.timm_name not in _NAMING:
        message = f"{spec.name}: Keras files are read for {', '.join(_NAMING)}, and not for {spec.timm_name}"
        raise UsageError(message)
    rule = _NAMING[spec.timm_name]
    counted = {kind: iter(_counted(layers, kind)) for kind in (COUNTED_CONV, COUNTED_NORM)}
    named = {part: rule(part) for part, _ in parts(model)}
    return {part: _next(counted[name], name) if name in counted else name for part, name in named.items()}


def _next(counted: Iterator[str], kind: str) -> str:
    return next(counted, f"{kind}_N")


def _counted(layers: Sequence[str], kind: str) -> list[str]:
    matches = [(match, name) for name in layers if (match := _AUTOMATIC.fullmatch(name)) and match[1] == kind]
    return [name for _, name in sorted((int(match[2] or 0), name) for match, name in matches)]


def _densenet(part: str) -> str:
    first = {"features.conv0": "conv1_conv", "features.norm0": "conv1_bn", "features.norm5": "bn"}
    if part in first:
        return first[part]
    if match := re.fullmatch(r"features\.transition(\d)\.(norm|conv)", part):
        return f"pool{int(match[1]) + 1}_{_bn_or_conv(match[2])}"
    match = _match(r"features\.denseblock(\d)\.denselayer(\d+)\.(norm|conv)(\d)", part)
    number = int(match[4]) - 1 if match[3] == "norm" else int(match[4])
    return f"conv{int(match[1]) + 1}_block{match[2]}_{number}_{_bn_or_conv(match[3])}"


def _bn_or_conv(kind: str) -> str:
    return "bn" if kind == "norm" else "conv"


def _xception(part: str) -> str:
    entry = {"conv1": "block1_conv1", "bn1": "block1_conv1_bn", "conv2": "block1_conv2", "bn2": "block1_conv2_bn"}
    exit_flow = {f"conv{k}": f"block14_sepconv{k - 2}" for k in (3, 4)}
    exit_flow |= {f"bn{k}": f"block14_sepconv{k - 2}_bn" for k in (3, 4)}
    if part in entry | exit_flow:
        return (entry | exit_flow)[part]
    match = _match(r"block(\d+)\.(skip|skipbn|rep\.(\d+))", part)
    if match[3] is None:
        return COUNTED_CONV if match[2] == "skip" else COUNTED_NORM
    return _xception_block(int(match[1]), int(match[3]))


def _xception_block(block: int, place: int) -> str:
    # Each unit is ReLU, separable convolution, batch norm; the first block's first ReLU is left out.
    unit, kind = divmod(place + (1 if block == 1 else 0), 3)
    return f"block{block + 1}_sepconv{unit + 1}{'_bn' if kind == 2 else ''}"


_BLOCKS = {"repeat": ("block35", 1), "repeat_1": ("block17", 1), "repeat_2": ("block8", 1)}


def _inception_resnet_v2(part: str) -> str:
    if match := re.fullmatch(r"(repeat(?:_\d)?)\.(\d+)\.conv2d", part):
        return f"{_BLOCKS[match[1]][0]}_{int(match[2]) + 1}_conv"
    whole = {"block8.conv2d": "block8_10_conv", "conv2d_7b.conv": "conv_7b", "conv2d_7b.bn": "conv_7b_bn"}
    return whole.get(part) or (COUNTED_CONV if part.endswith(".conv") else COUNTED_NORM)


def _vgg(convolutions: Sequence[int]) -> Callable[[str], str]:
    names, place = {}, 0
    for block, number in enumerate(convolutions, 1):
        for k in range(1, number + 1):
            names[f"features.{place}"] = f"block{block}_conv{k}"
            place += 2  # a ReLU between
        place += 1  # a pool
    return names.__getitem__


def _match(pattern: str, part: str) -> re.Match[str]:
    match = re.fullmatch(pattern, part)
    if match is None:
        message = (
            f"this version of timm has a layer {part!r} that is not known here; install the version in constraints"
        )
        raise UsageError(message)
    return match


_NAMING: dict[str, Callable[[str], str]] = {
    "densenet121": _densenet,
    "densenet169": _densenet,
    "densenet201": _densenet,
    "inception_resnet_v2": _inception_resnet_v2,
    "legacy_xception": _xception,
    "vgg16": _vgg((2, 2, 3, 3, 3)),
    "vgg19": _vgg((2, 2, 4, 4, 4)),
}
