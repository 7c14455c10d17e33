"""What `cxr pretrain` is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from classifiers.cnn.recipe import Recipe, get_preset
from jobs.network_request import NetworkRequest


@dataclass(frozen=True)
class PretrainRequest(NetworkRequest):
    """What to train on what; without a split `classifiers.source_split` makes one named ``pretrain``."""

    @property
    def run_name(self) -> str:
        """Return the name given, else data set and preset."""
        return self.name or f"{self.dataset}_{self.preset}"

    def recipe(self) -> Recipe:
        """Return the preset with what was asked for otherwise."""
        return replace(get_preset(self.preset), seed=self.seed, **self.given)

    def for_the_record(self) -> dict[str, object]:
        """Return what stands in `runs`."""
        return self.recorded(self.recipe().weights, self.run_name)


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
