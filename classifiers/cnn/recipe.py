"""How a network is trained: frozen data, and the presets that are shipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from classifiers.cnn.depth import check_depth, trainable_layers
from classifiers.cnn.hierarchy import check_hierarchy
from classifiers.cnn.targets import check_policy
from featurestore.errors import UsageError

AUGMENTATIONS = ("none", "shift-v1")


@dataclass(frozen=True)
class Rate:
    """Step size of Adam (betas 0.9 and 0.999) and what keeps it from running away.

    Parameters
    ----------
    start : float
        Learning rate of a phase's first epoch.
    decay : float
        Factor from epoch to epoch.
    warmup : int
        Batches over which a phase's rate rises linearly to ``start``.
    clip : float or None
        Largest norm of all gradients together.
    """

    start: float
    decay: float = 0.1
    warmup: int = 0
    clip: float | None = None

    def at(self, epoch: int, batch: int) -> float:
        """Return the rate at an epoch and batch of a phase, both from 0."""
        rise = min(1.0, (batch + 1) / (self.warmup + 1)) if epoch == 0 else 1.0
        return self.start * self.decay**epoch * rise


@dataclass(frozen=True)
class Phase:
    """Epochs that train the same weights on the same rows.

    Parameters
    ----------
    name : str
    epochs : int
    trainable : int or None
        Layers before the head that train: None all, 0 the head only, k the last k with parameters.
    conditional : bool
        Train on images that show a parent label, each label only where its ancestors are present.
    """

    name: str
    epochs: int
    trainable: int | None = None
    conditional: bool = False


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training run learns, beside its data and initial weights.

    Parameters
    ----------
    preset : str
        Where the defaults came from.
    weights : str
        Initial weights, as on the command line.
    size : int
        Side of the input in pixels.
    batch : int
        Images per step, over all workers together.
    epochs : int
        Of each phase.
    rate : Rate
    rate_without_norm : Rate
        For networks without any normalisation (the VGGs, unless one is put in).
    fold_norm : bool
        Train such networks, where they start from random weights, with a batch normalisation behind every convolution,
        and fold it into these at the end.
    calibrate : int
        Images that running statistics are taken of anew after each epoch; 0 leaves them as training left them.
    uncertainty : str
    conditional : str or None
        A hierarchy's name; None trains every label on every image.
    augment : str
        One of `AUGMENTATIONS`.
    preprocess : str
    seed : int
    depth : str
        Which layers train (`classifiers.cnn.depth`).
    new_head : bool
        Put a new head on, whatever the weights end in.
    patience : int or None
        Epochs without a better mean validation AUC after which training ends (conditional training, which has a second
        phase to come to, does not); the best epoch's network is kept. None trains every epoch and keeps the last.
    """

    preset: str
    weights: str
    size: int
    batch: int
    epochs: int
    rate: Rate
    rate_without_norm: Rate
    fold_norm: bool = False
    calibrate: int = 0
    uncertainty: str = "u-ones-lsr"
    conditional: str | None = None
    augment: str = "none"
    preprocess: str = "bilinear-v1"
    seed: int = 0
    depth: str = "all"
    new_head: bool = False
    patience: int | None = None

    def __post_init__(self) -> None:
        check_policy(self.uncertainty)
        check_depth(self.depth)
        if self.conditional is not None:
            check_hierarchy(self.conditional)
        if self.augment not in AUGMENTATIONS:
            raise UsageError(f"augmentation {self.augment!r}: choose one of {', '.join(AUGMENTATIONS)}")
        if min(self.epochs, self.size) < 1 or self.batch < 2:
            raise UsageError(f"{self.epochs} epochs, {self.size} px, batches of {self.batch}: expected 1, 1, 2 or more")

    def phases(self, backbone: str) -> tuple[Phase, ...]:
        """Return what of a backbone is trained after what."""
        layers = trainable_layers(self.depth, backbone)
        if self.conditional is None:
            return (Phase(self.depth, self.epochs, layers),)
        return (Phase("conditional", self.epochs, layers, conditional=True), Phase("head", self.epochs, trainable=0))


def places(phases: Sequence[Phase]) -> list[tuple[Phase, int]]:
    """Return (phase, epoch within it) of every epoch of a run."""
    return [(phase, epoch) for phase in phases for epoch in range(phase.epochs)]


def changed(was: dict[str, object], now: dict[str, object]) -> list[str]:
    """Return in which keys two descriptions differ, with both values, nested ones by dotted path."""
    found: list[str] = []
    for key in sorted(was.keys() | now.keys()):
        old, new = was.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += [f"{key}.{inner}" for inner in changed(old, new)]
        elif old != new:
            found.append(f"{key}: was {old}, now {new}")
    return found


_PAPER = Recipe("paper", "imagenet", 224, 64, 5, Rate(1e-4), Rate(1e-4))
PRESETS = {
    # Gozzi et al.: ImageNet initialisation, Adam, batch 64, 1e-4 x 0.1^epoch, 5 epochs.
    "paper": _PAPER,
    # All seven from random weights on some 240 phantoms, in minutes on two cores (docs/adr/0011).
    "demo": replace(
        _PAPER,
        preset="demo",
        weights="random:0",
        size=96,
        batch=8,
        epochs=2,
        rate=Rate(1e-3, decay=0.3),
        rate_without_norm=Rate(1e-4, decay=0.3, warmup=5, clip=1.0),
        fold_norm=True,
        calibrate=64,
    ),
}


def get_preset(name: str) -> Recipe:
    """Return a preset, or raise `UsageError` listing those there are."""
    if name not in PRESETS:
        raise UsageError(f"preset {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
