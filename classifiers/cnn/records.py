"""What a training run leaves in the store while it goes on: one small JSON file a backbone. Without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from featurestore.store.location import Location

FOLDER = "_training"
"""Below the store's root: ``_training/<name>/<backbone>/``."""


@dataclass
class EpochRecord:
    """One epoch.

    Parameters
    ----------
    number : int
        From 1, over all phases.
    phase : str
    rate : float
        Learning rate after any warm-up.
    train_loss, val_loss : float
        Mean over images, labels masked counting 0.
    auc : dict of str to dict
        By label: `classifiers.statistics.AucResult` on the validation images.
    seconds, train_seconds : float
        With and without validation and checkpoint.
    images : int
        Trained on.
    """

    number: int
    phase: str
    rate: float
    train_loss: float
    val_loss: float
    auc: dict[str, dict[str, Any]]
    seconds: float
    train_seconds: float
    images: int

    @property
    def mean_auc(self) -> float | None:
        """Return the mean over the labels that have an AUC."""
        areas = [result["auc"] for result in self.auc.values() if result["auc"] is not None]
        return sum(areas) / len(areas) if areas else None


@dataclass
class RunState:
    """Where the training of one backbone stands.

    Parameters
    ----------
    signature : dict
        What decides the numbers: data, labels, recipe, network.
    initial : str
        SHA-256 of the weights it started from.
    history : list of EpochRecord
    checkpoint : str
        File name of the last one beside this file; empty once finished.
    checkpoint_sha256 : str
    best : int
        Number of the epoch that is kept, where it is not the last; 0 otherwise.
    best_sha256 : str
        Of that epoch's checkpoint.
    weights : str
        File name of the trained network; empty until finished.
    weights_sha256 : str
        As `featurestore.backbones.network.fingerprint`.
    failed : str
        Why it ended without weights.
    facts : dict
        Peak memory, cache, workers, unusable images.
    seconds : float
        From loading the weights to the trained file, over all attempts.
    """

    signature: dict[str, Any]
    initial: str
    history: list[EpochRecord] = field(default_factory=list)
    checkpoint: str = ""
    checkpoint_sha256: str = ""
    best: int = 0
    best_sha256: str = ""
    weights: str = ""
    weights_sha256: str = ""
    failed: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def best_epoch(history: Sequence[EpochRecord]) -> int:
    """Return the number of the first epoch with the highest mean AUC, from 1; of none at all 0."""
    areas = [-1.0 if record.mean_auc is None else record.mean_auc for record in history]
    return areas.index(max(areas)) + 1 if areas else 0


def out_of_patience(history: Sequence[EpochRecord], patience: int | None) -> bool:
    """Return whether so many epochs have gone by without a better mean AUC; without a patience, never."""
    return patience is not None and len(history) - best_epoch(history) >= patience > 0 and bool(history)


def best_trial(states: Sequence[RunState]) -> int:
    """Return which of some finished trials has the highest mean validation AUC; of equal ones the first."""
    areas = [state.history[best_epoch(state.history) - 1].mean_auc for state in states]
    known = [-1.0 if area is None else area for area in areas]
    return known.index(max(known))


def folder(name: str, backbone: str) -> str:
    """Return a run's folder, relative to the store's root."""
    return f"{FOLDER}/{name}/{backbone}"


def read_state(location: Location, name: str, backbone: str) -> RunState | None:
    """Return where a run stands, None where it never began."""
    path = f"{folder(name, backbone)}/state.json"
    if location.size(path) is None:
        return None
    fields = json.loads(location.read_bytes(path))
    history = [EpochRecord(**record) for record in fields.pop("history")]
    return RunState(**fields, history=history)


def write_state(location: Location, name: str, backbone: str, state: RunState) -> None:
    """Write where a run stands, at once."""
    location.write_bytes(f"{folder(name, backbone)}/state.json", json.dumps(asdict(state)).encode())


def sha256(content: bytes) -> str:
    """Return the hex SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()
