"""What `cxr finetune` is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

from classifiers.cnn.recipe import Recipe
from classifiers.cnn.tuning import get_tuning
from jobs.network_request import NetworkRequest


@dataclass(frozen=True)
class FinetuneRequest(NetworkRequest):
    """What to carry to which labels.

    Parameters
    ----------
    split : str
        A holdout split, the same that the other approaches are compared on.
    labels : tuple of str, optional
        Some of the data set's, or of the label map's; absent, all of them.
    """

    split: str
    labels: tuple[str, ...] | None = None

    @property
    def run_name(self) -> str:
        """Return the name given, else data set and preset."""
        return self.name or f"{self.dataset}_finetuned_{self.preset}"

    def recipes(self) -> list[Recipe]:
        """Return the trials of the preset, with what was asked for otherwise."""
        return get_tuning(self.preset).recipes(self.seed, **self.given)

    def for_the_record(self) -> dict[str, object]:
        """Return what stands in `runs`."""
        return self.recorded(self.recipes()[0].weights, self.run_name)


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
