"""How a network is carried to local labels: presets, each with the trials it may choose from on the validation part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from classifiers.cnn.depth import check_depth
from classifiers.cnn.recipe import Rate, Recipe
from featurestore.errors import UsageError


@dataclass(frozen=True)
class Trial:
    """One setting that is tried.

    Parameters
    ----------
    depth : str
        One of `classifiers.cnn.depth.DEPTHS`.
    rate : float
        Learning rate of the first epoch.
    """

    depth: str
    rate: float

    def __post_init__(self) -> None:
        check_depth(self.depth)

    @property
    def name(self) -> str:
        """Return what tells it from others: ``last-6 at 0.0001``."""
        return f"{self.depth} at {self.rate:g}"


@dataclass(frozen=True)
class Tuning:
    """A preset of `cxr finetune`.

    Parameters
    ----------
    recipe : Recipe
        What all trials have in common.
    trials : tuple of Trial
        The budget: all of them are run, and the best mean validation AUC wins.
    """

    recipe: Recipe
    trials: tuple[Trial, ...]

    def recipes(self, seed: int, **changes: Any) -> list[Recipe]:
        """Return each trial's recipe, with what was asked for otherwise."""
        given = {key: value for key, value in changes.items() if value is not None}
        shared = replace(self.recipe, seed=seed, **given)
        return [_tried(shared, trial) for trial in self.trials]


def _tried(recipe: Recipe, trial: Trial) -> Recipe:
    rate = replace(recipe.rate, start=trial.rate)
    return replace(recipe, depth=trial.depth, rate=rate, rate_without_norm=rate)


_RATE = Rate(1e-4, decay=0.1)
_PAPER = Recipe(
    "paper", "imagenet", 224, 8, 5, _RATE, _RATE, uncertainty="u-ones", depth="last-6", new_head=True, patience=3
)
TUNINGS = {
    # The published code: Adam, 1e-4 x 0.1^epoch, 5 epochs, batch 8, all but the last six layers frozen.
    "paper": Tuning(_PAPER, (Trial("last-6", 1e-4),)),
    # A rate that falls tenfold an epoch learns for about one; this one may learn, and chooses how deep and how fast.
    "fair": Tuning(
        replace(_PAPER, preset="fair", epochs=12, rate=replace(_RATE, decay=0.8)),
        (Trial("head", 1e-2), Trial("last-6", 1e-3), Trial("last-6", 1e-4), Trial("all", 1e-4)),
    ),
    # Seconds to a few minutes on two cores: shows that everything runs.
    "demo": Tuning(
        replace(_PAPER, preset="demo", size=96, epochs=2, rate=replace(_RATE, decay=0.5)),
        (Trial("last-6", 1e-3),),
    ),
}


def get_tuning(name: str) -> Tuning:
    """Return a preset, or raise `UsageError` listing those there are."""
    if name not in TUNINGS:
        raise UsageError(f"preset {name!r}: choose one of {', '.join(TUNINGS)}")
    return TUNINGS[name]
