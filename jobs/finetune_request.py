"""What `cxr finetune` is asked, and what it answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from classifiers.cnn.recipe import Recipe
from classifiers.cnn.tuning import get_tuning
from featurestore.backbones.weights import weights_name

_ASKED = ("weights", "uncertainty", "conditional", "augment", "size", "epochs")


@dataclass(frozen=True)
class FinetuneRequest:
    """What to carry to which labels; a field that is None is the preset's.

    Parameters
    ----------
    dataset : str
    split : str
        A holdout split, the same that the other approaches are compared on.
    backbones : str
    weights : str, optional
        The source networks, as `cxr extract` takes them.
    labels : tuple of str, optional
        Of the data set; absent, every label it offers is trained.
    label_map : str, optional
        A shipped map's name or a YAML file, instead of labels.
    uncertainty : str, optional
    conditional : str, optional
        A hierarchy's name, for training in two phases.
    augment : str, optional
    size, epochs : int, optional
    preset : str
    seed : int
    workers : int, optional
    name : str, optional
        Of the weights this makes; absent, data set and preset.
    """

    dataset: str
    split: str
    backbones: str = "all"
    weights: str | None = None
    labels: tuple[str, ...] | None = None
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
    def run_name(self) -> str:
        """Return the name of the run and its weights."""
        return self.name or f"{self.dataset}_finetuned_{self.preset}"

    def recipes(self) -> list[Recipe]:
        """Return the trials of the preset, with what was asked for otherwise."""
        asked = {key: getattr(self, key) for key in _ASKED}
        return get_tuning(self.preset).recipes(self.seed, **asked)

    def for_the_record(self) -> dict[str, object]:
        """Return the fields with weights and label map by name: a path says more than a report should."""
        label_map = Path(self.label_map).name if self.label_map else None
        weights = weights_name(self.recipes()[0].weights, self.backbones)
        return asdict(self) | {"label_map": label_map, "weights": weights, "name": self.run_name}


@dataclass(frozen=True)
class Finetuned:
    """One network carried to local labels.

    Parameters
    ----------
    name, backbone, sha256, source : str
        Of the weights, as registered.
    model_id : str
        Of the row in `models`.
    spec_id : str
        Of its scores.
    chosen : str
        The trial that won on the validation images, as depth and rate.
    epochs : int
        Of the chosen trial, up to the epoch that was kept.
    seconds : float
        Cold, of all trials: loading, reading images, training, validation.
    images_per_second : float
        Training alone.
    val_auc : float or None
        Mean over the labels that have an AUC on the validation images, of the epoch that was kept.
    trials : list of dict
        The budget: ``depth, rate, epochs, val_auc, seconds`` each.
    scored : int
        Images with scores.
    """

    name: str
    backbone: str
    sha256: str
    source: str
    model_id: str
    spec_id: str
    chosen: str
    epochs: int
    seconds: float
    images_per_second: float
    val_auc: float | None
    trials: list[dict[str, object]]
    scored: int
