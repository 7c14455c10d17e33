"""What every job that trains networks is asked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featurestore.backbones.weights import weights_name

_OF_THE_RECIPE = ("weights", "uncertainty", "conditional", "augment", "size", "epochs")


@dataclass(frozen=True)
class NetworkRequest:
    """Which networks to train on what; a field that is None is the preset's.

    Parameters
    ----------
    dataset : str
    split : str, optional
    backbones : str
    weights : str, optional
        Initial weights, as `cxr extract` takes them.
    label_map : str, optional
        A shipped map's name or a YAML file; absent, every label the data set offers is trained.
    uncertainty : str, optional
    conditional : str, optional
        A hierarchy's name, for training in two phases.
    augment : str, optional
    size, epochs : int, optional
    preset : str
    seed : int
    workers : int, optional
    name : str, optional
        Of the run and the weights it makes.
    """

    dataset: str
    split: str | None = None
    backbones: str = "all"
    weights: str | None = None
    label_map: str | None = None
    uncertainty: str | None = None
    conditional: str | None = None
    augment: str | None = None
    size: int | None = None
    epochs: int | None = None
    preset: str = "paper"
    seed: int = 0
    workers: int | None = None
    name: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        """Return what was asked for otherwise than the preset has it, by the recipe's fields."""
        asked = {key: getattr(self, key) for key in _OF_THE_RECIPE}
        return {key: value for key, value in asked.items() if value is not None}

    def recorded(self, initial: str, run_name: str) -> dict[str, object]:
        """Return the fields with initial weights and label map by name: a path says more than a report should."""
        label_map = Path(self.label_map).name if self.label_map else None
        weights = weights_name(initial, self.backbones)
        return asdict(self) | {"label_map": label_map, "weights": weights, "name": run_name}
