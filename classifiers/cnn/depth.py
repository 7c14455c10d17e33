"""How deep a fine-tuning goes: names for "freeze everything but the end", the same for every backbone.

>>> trainable_layers("head", "densenet121"), trainable_layers("last-6", "xception"), trainable_layers("all", "vgg16")
(0, 3, None)
"""

from __future__ import annotations

from featurestore.errors import UsageError

DEPTHS = ("head", "last-6", "all")
"""The new head alone; what the paper's code trains (Keras ``layers[-6:]``, head included); everything."""
_LAST_SIX = {
    # Keras' last six layers, counted as ours that have parameters before the head.
    "densenet121": 2,  # conv5_block16_2_conv, concat, bn, relu, pool, dense
    "densenet169": 2,
    "densenet201": 2,
    "inception_resnet_v2": 2,  # block8_10, conv_7b, conv_7b_bn, conv_7b_ac, pool, dense
    "xception": 3,  # act, sepconv2 (two convolutions of timm's), its bn, act, pool, dense
    "vgg16": 3,  # block5_conv1 to 3, pool, pool, dense
    "vgg19": 3,  # block5_conv2 to 4, pool, pool, dense
}
_OTHERS = 2
"""Of a user's own backbone: a convolution and its normalisation."""


def check_depth(name: str) -> str:
    """Return ``name``, or raise `UsageError` listing the depths there are."""
    if name not in DEPTHS:
        raise UsageError(f"depth {name!r}: choose one of {', '.join(DEPTHS)}")
    return name


def trainable_layers(depth: str, backbone: str) -> int | None:
    """Return how many layers with parameters train before the head, as `classifiers.cnn.layers.freeze` takes it.

    Parameters
    ----------
    depth : str
        One of `DEPTHS`.
    backbone : str

    Returns
    -------
    int or None
        None is all of them.
    """
    return {"head": 0, "last-6": _LAST_SIX.get(backbone, _OTHERS), "all": None}[check_depth(depth)]
