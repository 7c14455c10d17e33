"""The fastest runtime for so many images on this machine, by trial; what a trial found is kept in the cache."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from time import perf_counter

import torch

from featurestore.backbones.network import Network
from featurestore.backbones.runtimes import KINDS, Choice
from featurestore.backbones.runtimes.base import Runtime, Setting, Unavailable
from featurestore.backbones.runtimes.build import build_runtime, trial_images
from featurestore.backbones.runtimes.machine import machine_id

_TRIAL_SECONDS = {"openvino": 20.0, "compiled": 120.0}
"""What a trial takes on two cores; with `_HOPED_GAIN` it says from how many images on one is worth while."""
_HOPED_GAIN = 1 / 4
"""Share of the time so far that one more runtime may save; a fifth was measured for five of the seven networks."""
_REPEATS = 3


@dataclass(frozen=True)
class Trial:
    """What trying a runtime found.

    Parameters
    ----------
    seconds : float or None
        Per image, in the fastest of some batches; None where it is unavailable.
    cold_seconds, warm_seconds : float
        Building it without and with its cache.
    reason : str
        Why it is unavailable.
    """

    seconds: float | None
    cold_seconds: float = 0.0
    warm_seconds: float = 0.0
    reason: str = ""

    def total(self, images: int) -> float:
        """Return the seconds from here to the end of so many images; what the trial took is spent either way."""
        return float("inf") if self.seconds is None else self.warm_seconds + images * self.seconds


def choose_runtime(network: Network, spec_id: str, device: torch.device, setting: Setting, images: int) -> Choice:
    """Find the runtime that brings so many images to their end first.

    Parameters
    ----------
    network : Network
        On ``device``.
    spec_id : str
    device : torch.device
    setting : Setting
    images : int
        Pending ones. Where they are too few to win the time of a trial back, there is none.

    Returns
    -------
    Choice
    """
    memory = setting.cache / f"trials-{machine_id(setting)}.json"
    trials = _read(memory)
    if "eager" not in trials:
        trials["eager"] = _try("eager", network, device, setting)
    for kind in KINDS[1:]:
        best = min(trial.total(images) for trial in trials.values())
        if kind not in trials and best * _HOPED_GAIN > _TRIAL_SECONDS[kind]:
            trials[kind] = _try(kind, network, device, setting)
    _write(memory, trials)
    fastest = min(trials, key=lambda kind: trials[kind].total(images))
    return _choice(network.spec.name, spec_id, fastest, trials)


def _try(kind: str, network: Network, device: torch.device, setting: Setting) -> Trial:
    try:
        start = perf_counter()
        build_runtime(kind, network, device, setting)
        cold = perf_counter() - start
        torch.compiler.reset()
        start = perf_counter()
        runtime = build_runtime(kind, network, device, setting)
        warm = perf_counter() - start
    except Unavailable as error:
        return Trial(None, reason=str(error))
    return Trial(seconds_per_image(runtime, setting), cold, warm)


def seconds_per_image(runtime: Runtime, setting: Setting) -> float:
    """Return the seconds an image takes in the fastest of some batches: a neighbour's minute must not decide."""
    grey = trial_images(setting.batch, setting.size)
    runtime(grey)
    seconds = []
    for _ in range(_REPEATS):
        start = perf_counter()
        runtime(grey)
        seconds.append(perf_counter() - start)
    return min(seconds) / setting.batch


def _choice(backbone: str, spec_id: str, kind: str, trials: dict[str, Trial]) -> Choice:
    eager, chosen = trials["eager"].seconds or 0.0, trials[kind].seconds or 0.0
    saved = eager - chosen
    notes = tuple(f"{other}: {trial.reason}" for other, trial in trials.items() if trial.reason)
    pays_from = ceil(trials[kind].cold_seconds / saved) if saved > 0 else None
    return Choice(backbone, spec_id, kind, eager, chosen, trials[kind].cold_seconds, pays_from, notes)


def _read(path: Path) -> dict[str, Trial]:
    if not path.exists():
        return {}
    return {kind: Trial(**fields) for kind, fields in json.loads(path.read_text()).items()}


def _write(path: Path, trials: dict[str, Trial]) -> None:
    draft = path.with_name(f"{uuid.uuid4().hex}.json")
    draft.write_text(json.dumps({kind: asdict(trial) for kind, trial in trials.items()}))
    draft.replace(path)
