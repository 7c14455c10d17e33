"""What every job that trains networks does: refuse what was something else, tell epochs, hand finished ones over."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa

from classifiers.cnn.recipe import Recipe, changed
from classifiers.cnn.records import EpochRecord, RunState, read_state
from classifiers.cnn.request import Training, TrainingRequest, signature
from classifiers.cnn.training_set import TrainingSet
from featurestore.backbones.registry import check_free
from featurestore.errors import HarmError, UsageError
from featurestore.store import Store
from jobs.runlog import Run, utc_now
from jobs.specs import resolve_specs
from jobs.workers import Workers

Say = Callable[[str], object]
Settle = Callable[[Training, RunState], object]


class TrainingJob:
    """Watches the trainings of a request.

    Parameters
    ----------
    store : Store
    request : TrainingRequest
    data : TrainingSet
    run : Run
        Its counts, seconds and device are filled here.
    say : callable
        Told a sentence an epoch.
    settle : callable
        Given each training once it is finished, also where an earlier call finished it.
    """

    def __init__(
        self,
        store: Store,
        request: TrainingRequest,
        data: TrainingSet,
        run: Run,
        say: Say,
        settle: Settle = lambda training, state: None,
    ) -> None:
        self._store, self._request, self._data, self._run = store, request, data, run
        self._say, self._settle = say, settle
        self._told: dict[Training, int] = {}
        self._settled: set[Training] = set()

    def run(self, workers: Workers, count: int | None) -> None:
        """Train what is not trained yet; see `check_unchanged`, and afterwards `raise_failures`."""
        parts = f"{len(self._data.train)} images to train on, {len(self._data.val)} to validate"
        self._say(f"{self._request.dataset}, split {self._request.split}: {parts}, {len(self._data.labels)} labels")
        try:
            workers.train(self._request, count, self._watch)
        finally:
            self._watch()
            self._log()

    def state(self, training: Training) -> RunState | None:
        """Return where a training stands."""
        return read_state(self._store.location, training.name, training.backbone.name)

    def of(self, backbone: str) -> list[tuple[Training, RunState]]:
        """Return a backbone's trainings that were begun."""
        return begun(self._store, self._request, backbone)

    def _watch(self) -> None:
        for training in self._request.trainings:
            state = self.state(training)
            if state is None or training in self._settled:
                continue
            self._tell(training, state.history)
            if state.weights:
                self._settle(training, state)
                self._settled.add(training)

    def _tell(self, training: Training, history: Sequence[EpochRecord]) -> None:
        for record in history[self._told.get(training, 0) :]:
            auc = "none" if record.mean_auc is None else f"{record.mean_auc:.3f}"
            trial = f" at {training.recipe.rate.start:g}" if training.recipe.new_head else ""
            unit = "vectors" if training.vectors else "images"
            self._say(
                f"{training.backbone.name} epoch {record.number} ({record.phase}{trial}): "
                f"loss {record.train_loss:.4f}, validation {record.val_loss:.4f}, mean AUC {auc}, "
                f"{record.images / record.train_seconds:.1f} {unit}/s"
            )
        self._told[training] = len(history)

    def write_metrics(self, approach: str, training: Training, state: RunState) -> None:
        """Write every epoch's losses and AUCs, once for a name and backbone."""
        backbone, name = training.backbone.name, self._request.name
        written = self._store.query(
            "SELECT count(*) AS n FROM metrics "
            "WHERE approach = ? AND weights = ? AND backbone = ? AND epoch IS NOT NULL",
            [approach, name, backbone],
        )["n"][0].as_py()
        if not written:  # by an attempt that died before it registered the network
            rows = [row for record in state.history for row in self._metrics(record)]
            shared = {
                "run_id": self._run.run_id, "dataset": self._request.dataset, "approach": approach, "head": "cnn",
                "backbone": backbone, "weights": name, "ensemble": "none",
                "split": self._request.split, "seed": training.recipe.seed, "created_at": utc_now(),
            }  # fmt: skip
            self._store.append("metrics", pa.Table.from_pylist([shared | row for row in rows]))

    def _metrics(self, record: EpochRecord) -> list[dict[str, Any]]:
        losses = (("train", record.train_loss, record.images), ("val", record.val_loss, len(self._data.val)))
        rows: list[dict[str, Any]] = [
            {"part": part, "epoch": record.number, "label": "all", "metric": "loss", "value": value, "n": n}
            for part, value, n in losses
        ]
        for label, result in record.auc.items():
            known = {key: value for key, value in result.items() if key != "auc"}
            rows.append(
                {
                    "part": "val",
                    "epoch": record.number,
                    "label": label,
                    "metric": "auc",
                    "value": result["auc"],
                    **known,
                }
            )
        return rows

    def reject(self, state: RunState) -> None:
        """Note the images that a training went without."""
        now = utc_now()
        rows = [
            item | {"dataset": self._request.dataset, "run_id": self._run.run_id, "rejected_at": now}
            for item in state.facts["unusable"]
        ]
        if rows:
            self._store.append("rejects", pa.Table.from_pylist(rows))

    def _log(self) -> None:
        backbones = dict.fromkeys(training.backbone.name for training in self._request.trainings)
        states = {name: [state for _, state in self.of(name)] for name in backbones}
        every = [state for found in states.values() for state in found]
        self._run.counts |= {
            "epochs": {name: sum(len(s.history) for s in found) for name, found in states.items() if found},
            "images": len(self._data.train),
            "images_per_second": {name: rate(found) for name, found in states.items() if _trained(found)},
            "peak_mib": {name: _peak(found) for name, found in states.items() if found},
            "cache_bytes": max((state.facts.get("cache_bytes", 0) for state in every), default=0),
        }
        self._run.seconds["by_backbone"] = {name: seconds(found) for name, found in states.items() if found}
        facts = next((state.facts for state in every if state.facts), {})
        self._run.device = [{k: str(facts[k]) for k in ("device", "precision", "workers", "threads") if k in facts}]

    def raise_failures(self, backbones: Collection[str] | None = None) -> None:
        """Raise what ended trainings, of some backbones or of all: `UsageError`, or `HarmError` where one diverged."""
        names = [training.backbone.name for training in self._request.trainings]
        wanted = dict.fromkeys(name for name in names if backbones is None or name in backbones)
        failed = [state for name in wanted for _, state in self.of(name) if state.failed and not state.weights]
        if failed:
            usage = all(state.facts["error"] == "UsageError" for state in failed)
            raise (UsageError if usage else HarmError)("; ".join(state.failed for state in failed))


def begun(store: Store, request: TrainingRequest, backbone: str) -> list[tuple[Training, RunState]]:
    """Return a backbone's trainings that were begun, now or by an earlier call."""
    found = [
        (training, read_state(store.location, training.name, backbone))
        for training in request.trainings
        if training.backbone.name == backbone
    ]
    return [(training, state) for training, state in found if state is not None]


def check_unchanged(store: Store, request: TrainingRequest, data: TrainingSet, initial: Mapping[str, str]) -> None:
    """Refuse, before anything is trained, a name that stands for something else.

    Parameters
    ----------
    store : Store
    request : TrainingRequest
    data : TrainingSet
    initial : mapping of str to str
        SHA-256 of the initial weights by backbone.

    Raises
    ------
    UsageError
        If its trainings began from other weights, data or recipes, or the registry holds other weights by the name.
    """
    for training in request.trainings:
        backbone = training.backbone.name
        state = read_state(store.location, training.name, backbone)
        if state is None:
            if not begun(store, request, backbone):
                check_free(store, request.name, [backbone])
            continue
        was = {**state.signature, "initial weights": state.initial[:12]}
        now = {**signature(training, data), "initial weights": initial[backbone][:12]}
        differences = changed(was, now)
        if differences and (state.history or state.weights):
            message = (
                f"weights {request.name!r} of {backbone} are those of another training, with {len(state.history)} "
                f"epochs done: {'; '.join(differences)}. Repeat the command that began it, or choose another --name"
            )
            raise UsageError(message)


def initial_weights(store: Store, backbones: str, recipe: Recipe, workers: Workers) -> dict[str, str]:
    """Return the SHA-256 of the weights that trainings begin from, by backbone."""
    specs = resolve_specs(store, backbones, recipe.weights, recipe.preprocess, recipe.size, workers)
    return {spec.backbone.name: spec.spec.weights_sha256 for spec in specs}


def seconds(states: Sequence[RunState]) -> float:
    """Return the cold seconds of some trainings: loading, reading images, epochs, validation, checkpoints."""
    return sum(state.seconds for state in states)


def rate(states: Sequence[RunState]) -> float:
    """Return the images trained on per second, without validation and loading."""
    records = [record for state in states for record in state.history]
    return sum(record.images for record in records) / sum(record.train_seconds for record in records)


def _trained(states: Sequence[RunState]) -> bool:
    return any(state.history for state in states)


def _peak(states: Sequence[RunState]) -> dict[str, float]:
    peaks = [state.facts["peak_mib"] for state in states if "peak_mib" in state.facts]
    return {key: max(peak[key] for peak in peaks) for key in (peaks[0] if peaks else {})}


def known_patients(patients: Sequence[str]) -> list[str]:
    """Return the patients that have an id."""
    return [patient for patient in patients if not patient.startswith("image:")]
