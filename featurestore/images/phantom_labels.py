"""Which findings a phantom shows, how often, and what a reader would write down about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from featurestore.images.sources.labels import CHEXPERT_LABELS

LABELS = CHEXPERT_LABELS
"""CheXpert's 14 labels in CheXpert's order."""

PARENT = {
    "Cardiomegaly": "Enlarged Cardiomediastinum",
    "Lung Lesion": "Lung Opacity",
    "Edema": "Lung Opacity",
    "Consolidation": "Lung Opacity",
    "Atelectasis": "Lung Opacity",
}
"""CheXpert's hierarchy (Irvin et al., AAAI 2019, figure 1) among the labels a phantom shows."""

NOT_SHOWN = ("Pneumonia",)
"""A clinical diagnosis: on the film it is a consolidation. A phantom has no clinic, so the label stays unmentioned."""

FAINT = 0.3
"""Below this strength a reader hedges: the label is uncertain more often than not."""

_HEDGE, _BLANK = 0.6, 0.3
_SICK = 0.65


@dataclass(frozen=True)
class Prior:
    """How often patients have a finding.

    Parameters
    ----------
    label : str
        One of `LABELS`.
    prevalence : float
        Share of patients aged 60 that have it, in (0, 1).
    age_slope : float
        Relative change of that share over 40 years.
    """

    label: str
    prevalence: float
    age_slope: float

    def among_sick(self, age: float) -> float:
        """Return the probability for a patient known to have something, at ``age`` in years."""
        return min(0.9, max(0.0, self.prevalence / _SICK * (1.0 + self.age_slope * (age - 60.0) / 40.0)))


PRIORS = (  # in the order of planting: what reshapes the chest first, what lies on top of it last
    Prior("Enlarged Cardiomediastinum", 0.13, 0.3),
    Prior("Cardiomegaly", 0.20, 0.5),
    Prior("Pneumothorax", 0.17, -0.4),
    Prior("Edema", 0.18, 0.4),
    Prior("Consolidation", 0.17, 0.1),
    Prior("Lung Opacity", 0.12, 0.1),
    Prior("Lung Lesion", 0.16, 0.3),
    Prior("Atelectasis", 0.18, 0.2),
    Prior("Pleural Effusion", 0.22, 0.3),
    Prior("Pleural Other", 0.16, 0.3),
    Prior("Fracture", 0.16, 0.3),
    Prior("Support Devices", 0.28, 0.2),
)
"""One row per finding that is planted by itself."""


def draw_findings(age: float, rng: np.random.Generator) -> dict[str, float]:
    """Draw what one patient has: strengths in [0.1, 1] by label, in the order of `PRIORS`.

    About a third of the patients are healthy and carry at most a device.
    """
    sick = rng.random() < _SICK
    chance, strength = rng.random(len(PRIORS)), 0.1 + 0.9 * rng.beta(1.6, 1.3, len(PRIORS))
    return {
        prior.label: float(s)
        for prior, c, s in zip(PRIORS, chance, strength, strict=True)
        if (sick or prior.label == "Support Devices") and c < prior.among_sick(age) * (1.0 if sick else 0.5)
    }


def read_labels(strengths: Mapping[str, float], rng: np.random.Generator) -> dict[str, int | None]:
    """Write the labels a reader gives a study.

    Parameters
    ----------
    strengths : mapping of str to float
        What was planted, in (0, 1].
    rng : numpy.random.Generator
        Decides which faint findings are hedged and which absent ones go unmentioned.

    Returns
    -------
    dict of str to (1, 0, -1, None)
        All of `LABELS`, in that order. A parent is 1 where a child is; No Finding is 1 where nothing but devices is
        present or uncertain, 0 where something is present, None where things are only uncertain.
    """
    value: dict[str, int | None] = dict.fromkeys(LABELS)
    for prior, u in zip(PRIORS, rng.random(len(PRIORS)), strict=True):
        value[prior.label] = _read(strengths.get(prior.label, 0.0), float(u))
    for child, parent in PARENT.items():
        value[parent] = _or(value[parent], value[child])
    seen = {value[prior.label] for prior in PRIORS if prior.label != "Support Devices"}
    value["No Finding"] = 0 if 1 in seen else None if -1 in seen else 1
    return value


def _read(strength: float, u: float) -> int | None:
    if strength <= 0.0:
        return None if u < _BLANK else 0
    return -1 if strength < FAINT and u < _HEDGE else 1


def _or(parent: int | None, child: int | None) -> int | None:
    for value in (1, -1):
        if value in (parent, child):
            return value
    return parent
