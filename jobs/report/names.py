"""What the report calls things, and the line each network is drawn with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_BACKBONES = {
    "densenet121": "DenseNet-121",
    "densenet169": "DenseNet-169",
    "densenet201": "DenseNet-201",
    "inception_resnet_v2": "Inception-ResNet-v2",
    "xception": "Xception",
    "vgg16": "VGG-16",
    "vgg19": "VGG-19",
}
_HEADS = {
    "rf": "random forest",
    "rf100": "random forest of 100 trees",
    "extra_trees": "extremely randomised trees",
    "lightgbm": "LightGBM",
    "rf_stacking": "random forest of 1,400 trees",
}
_ENSEMBLES = {"simple": "simple average", "entropy": "entropy-weighted average"}
_APPROACHES = {
    "baseline": "the networks' own scores",
    "embeddings": "embeddings",
    "stacking-a": "stacking A",
    "stacking-b": "stacking B",
    "finetune": "fine-tuning",
}


@dataclass(frozen=True)
class Line:
    """How one curve is drawn.

    Parameters
    ----------
    colour : str
        The name of a CSS variable (``s1`` .. ``s5``, ``ink``), which has one value for light and one for dark.
    dash : tuple of float
        On and off lengths in units of the width; empty for a solid line.
    width : float
        Points.
    """

    colour: str
    dash: tuple[float, ...] = ()
    width: float = 1.0


# Four hues for the four families of networks (Okabe and Ito's palette), line styles within a family: seven hues
# would be told apart by nobody, and hue alone by fewer.
_LINES = {
    "densenet121": Line("s1"),
    "densenet169": Line("s1", (4, 2)),
    "densenet201": Line("s1", (1.2, 1.6)),
    "inception_resnet_v2": Line("s2"),
    "xception": Line("s3"),
    "vgg16": Line("s4"),
    "vgg19": Line("s4", (4, 2)),
}
_SPARE = tuple(Line(colour, (6, 1.5, 1.2, 1.5)) for colour in ("s1", "s2", "s3", "s4"))
_ENSEMBLE_LINES = {"simple": Line("ink", (), 2.2), "entropy": Line("s5", (3, 1.4), 2.2)}


def backbone(name: str) -> str:
    """Return the network's usual name; one the catalogue does not ship keeps its own."""
    return _BACKBONES.get(name, name)


def hyphenated(label: str) -> str:
    """Return a label that may break inside its long words, so that a column need not be as wide as they are."""
    return re.sub(r"(?i)(cardio|media|pneumo|atelec|consoli|infil)(?=[a-z]{4})", "\\1\u00ad", label)


def head(name: str | None) -> str:
    """Return the head's name in words."""
    return _HEADS.get(name or "", name or "no head")


def ensemble(name: str) -> str:
    """Return the ensemble's name in words."""
    return _ENSEMBLES.get(name, name)


def arm(approach: str, head_name: str | None) -> str:
    """Return what was compared, such as ``random forest on embeddings``."""
    words = _APPROACHES.get(approach, approach)
    if approach == "baseline":
        return words
    if approach == "finetune":
        return f"{words} ({head_name})"
    return f"{head(head_name)} on {words}" if head_name else words


def model(backbone_name: str, ensemble_name: str) -> str:
    """Return the name of a row: a network, or an ensemble over all of them."""
    return backbone(backbone_name) if ensemble_name == "none" else ensemble(ensemble_name)


def line(backbone_name: str, ensemble_name: str, others: Sequence[str] = ()) -> Line:
    """Return the curve's style; `others` numbers the networks outside the catalogue."""
    if ensemble_name != "none":
        return _ENSEMBLE_LINES.get(ensemble_name, Line("ink", (1, 1), 2.2))
    if backbone_name in _LINES:
        return _LINES[backbone_name]
    return _SPARE[list(others).index(backbone_name) % len(_SPARE)] if backbone_name in others else _SPARE[0]
