"""What `cxr pretrain` is asked, and what it answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from classifiers.cnn.recipe import Recipe, get_preset
from featurestore.backbones.weights import weights_name


@dataclass(frozen=True)
class PretrainRequest:
    """What to train on what; a field that is None is the preset's.

    Parameters
    ----------
    dataset : str
    split : str, optional
        A holdout split; absent, `classifiers.source_split` makes one named ``pretrain``.
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
        Of the weights; absent, data set and preset.
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
    def run_name(self) -> str:
        """Return the name of the run and its weights."""
        return self.name or f"{self.dataset}_{self.preset}"

    def recipe(self) -> Recipe:
        """Return the preset with what was asked for otherwise."""
        asked = {
            key: getattr(self, key) for key in ("weights", "uncertainty", "conditional", "augment", "size", "epochs")
        }
        given = {key: value for key, value in asked.items() if value is not None}
        return replace(get_preset(self.preset), seed=self.seed, **given)

    def for_the_record(self) -> dict[str, object]:
        """Return the fields with weights and label map by name: a path says more than a report should."""
        label_map = Path(self.label_map).name if self.label_map else None
        weights = weights_name(self.recipe().weights, self.backbones)
        return asdict(self) | {"label_map": label_map, "weights": weights, "name": self.run_name}


@dataclass(frozen=True)
class Pretrained:
    """One trained network.

    Parameters
    ----------
    name, backbone, sha256, source : str
        Of the weights, as registered.
    epochs : int
        Of all phases.
    seconds : float
        Training and validation, of all attempts that left an epoch.
    images_per_second : float
        Training alone.
    val_auc : float or None
        Mean over the labels that have an AUC on the validation images, after the last epoch.
    val_auc_by_label : dict of str to (float or None)
    notes : dict of str to str
        By label: why it has no AUC or no interval.
    peak_mib : dict of str to float
    """

    name: str
    backbone: str
    sha256: str
    source: str
    epochs: int
    seconds: float
    images_per_second: float
    val_auc: float | None
    val_auc_by_label: dict[str, float | None]
    notes: dict[str, str]
    peak_mib: dict[str, float]
