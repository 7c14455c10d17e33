"""The pretraining job: a data set, a recipe, some backbones; their trained networks end as registered weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from classifiers.cnn.recipe import changed
from classifiers.cnn.records import EpochRecord, RunState, folder, read_state
from classifiers.cnn.request import TrainingRequest, signature
from classifiers.cnn.training_set import TrainingSet, check_set, read_training_set
from classifiers.label_map import read_label_map
from classifiers.labels import dataset_labels
from classifiers.source_split import make_source_split
from featurestore.backbones.registry import RegisteredWeights, check_free, register, registered
from featurestore.backbones.requests import Requested, requested
from featurestore.errors import HarmError, UsageError
from featurestore.store import Store
from featurestore.store.training_sources import source_table
from jobs.pretrain_request import Pretrained, PretrainRequest
from jobs.runlog import Run, record_run, utc_now
from jobs.workers import Workers

APPROACH = "pretrain"
DEFAULT_SPLIT = "pretrain"
Say = Callable[[str], object]


def pretrain(
    store: Store, request: PretrainRequest, workers: Workers, say: Say = lambda text: None
) -> list[Pretrained]:
    """Train, or go on with what an earlier call of the same name left; what is finished is not trained again.

    Parameters
    ----------
    store : Store
    request : PretrainRequest
    workers : Workers
    say : callable
        Told a sentence an epoch.

    Returns
    -------
    list of Pretrained
        One a backbone.

    Raises
    ------
    UsageError
        For a request that cannot be met, a constant label, a name that is taken by other weights or another training.
    HarmError
        If a training diverged; the other networks are registered.
    StoppedError
        If workers keep dying; the same request goes on from the last epoch.
    """
    store.require_dataset(request.dataset)
    recipe = request.recipe()
    chosen = requested(store, request.backbones, recipe.weights)
    _check_size(chosen, recipe.size)
    check_free(store, request.run_name, [])
    if request.workers not in (None, 1) and not workers.use_ray:
        message = f"--workers {request.workers}: several workers need Ray; leave --no-ray out"
        raise UsageError(message)
    with record_run(store, APPROACH, request.dataset, request.for_the_record()) as run:
        split = request.split or make_source_split(store, request.dataset, DEFAULT_SPLIT, request.seed).name
        groups = _groups(store, request)
        data = read_training_set(store, request.dataset, split, dict(groups))
        check_set(data, recipe.uncertainty)
        backbones = tuple((asked.backbone, asked.request) for asked in chosen)
        job = TrainingRequest(
            store.uri, run.run_id, request.run_name, request.dataset, split, groups, recipe, backbones
        )
        return _Job(store, job, data, run, say).run(workers, request.workers)


def _check_size(chosen: Sequence[Requested], size: int) -> None:
    for asked in chosen:
        if size < asked.backbone.min_size:
            message = f"--size {size}: {asked.backbone.name} needs at least {asked.backbone.min_size} px"
            raise UsageError(message)


def _groups(store: Store, request: PretrainRequest) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if request.label_map is not None:
        return tuple(read_label_map(request.label_map).items())
    return tuple((label, (label,)) for label in dataset_labels(store, request.dataset))


class _Job:
    """Watches a run and settles each network when it is finished: metrics, then the registry."""

    def __init__(self, store: Store, request: TrainingRequest, data: TrainingSet, run: Run, say: Say) -> None:
        self._store, self._request, self._data, self._run, self._say = store, request, data, run, say
        self._told: dict[str, int] = {}
        self._settled: dict[str, RunState] = {}

    def run(self, workers: Workers, count: int | None) -> list[Pretrained]:
        """Train what is not trained yet."""
        self._check_unchanged()
        parts = f"{len(self._data.train)} images to train on, {len(self._data.val)} to validate"
        self._say(f"{self._request.dataset}, split {self._request.split}: {parts}, {len(self._data.labels)} labels")
        try:
            workers.train(self._request, count, self._watch)
        finally:
            self._watch()
            self._log()
        self._raise_failures()
        return [self._row(backbone.name) for backbone, _ in self._request.backbones]

    def _check_unchanged(self) -> None:
        """Refuse, before anything is trained, a name that stands for something else."""
        for backbone, _ in self._request.backbones:
            name, state = self._request.name, self._state(backbone.name)
            if state is None:
                check_free(self._store, name, [backbone.name])
                continue
            differences = changed(state.signature, signature(self._request, backbone, self._data))
            if differences and (state.history or state.weights):
                message = (
                    f"weights {name!r} of {backbone.name} are those of another training, with {len(state.history)} "
                    f"epochs done: {'; '.join(differences)}. Repeat the command that began it, or choose another --name"
                )
                raise UsageError(message)

    def _watch(self) -> None:
        for backbone, _ in self._request.backbones:
            state = self._state(backbone.name)
            if state is None or backbone.name in self._settled:
                continue
            self._tell(backbone.name, state.history)
            if state.weights:
                self._settle(backbone.name, backbone.variant, state)

    def _tell(self, backbone: str, history: Sequence[EpochRecord]) -> None:
        for record in history[self._told.get(backbone, 0) :]:
            auc = "none" if record.mean_auc is None else f"{record.mean_auc:.3f}"
            self._say(
                f"{backbone} epoch {record.number} ({record.phase}): loss {record.train_loss:.4f}, validation "
                f"{record.val_loss:.4f}, mean AUC {auc}, {record.images / record.train_seconds:.1f} images/s"
            )
        self._told[backbone] = len(history)

    def _settle(self, backbone: str, variant: Any, state: RunState) -> None:
        path = f"{folder(self._request.name, backbone)}/{state.weights}"
        if self._store.location.size(path) is not None:
            self._write_metrics(backbone, state)
            self._reject(state)
            sources = source_table(self._request.dataset, self._data.pixel_hashes, _known_patients(self._data.patients))
            weights = self._describe(backbone, variant, state)
            register(self._store, weights, self._store.location.read_bytes(path), sources)
            self._store.location.remove(path)
        self._settled[backbone] = state

    def _describe(self, backbone: str, variant: Any, state: RunState) -> RegisteredWeights:
        recipe = self._request.recipe
        order = f", conditional ({recipe.conditional} hierarchy)" if recipe.conditional else ""
        augmented = "" if recipe.augment == "none" else f", augmentation {recipe.augment}"
        source = (
            f"trained on {self._request.dataset} (split {self._request.split}, {len(self._data.train)} images, "
            f"{len(state.history)} epochs, {recipe.uncertainty}{order}{augmented}) from "
            f"{next(weights.name for spec, weights in self._request.backbones if spec.name == backbone)}"
        )
        preprocess = f"{recipe.preprocess} at {recipe.size} px"
        labels = list(self._data.labels)
        return RegisteredWeights(
            self._request.name, backbone, variant, state.weights_sha256, labels, source, None, preprocess
        )

    def _write_metrics(self, backbone: str, state: RunState) -> None:
        written = self._store.query(
            "SELECT count(*) AS n FROM metrics WHERE approach = ? AND weights = ? AND backbone = ?",
            [APPROACH, self._request.name, backbone],
        )["n"][0].as_py()
        if not written:  # by an attempt that died before it registered the network
            rows = [row for record in state.history for row in self._metrics(record)]
            shared = {
                "run_id": self._run.run_id, "dataset": self._request.dataset, "approach": APPROACH, "head": "cnn",
                "backbone": backbone, "weights": self._request.name, "ensemble": "none",
                "split": self._request.split, "seed": self._request.recipe.seed, "created_at": utc_now(),
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

    def _reject(self, state: RunState) -> None:
        now = utc_now()
        rows = [
            item | {"dataset": self._request.dataset, "run_id": self._run.run_id, "rejected_at": now}
            for item in state.facts["unusable"]
        ]
        if rows:
            self._store.append("rejects", pa.Table.from_pylist(rows))

    def _log(self) -> None:
        states = {b.name: state for b, _ in self._request.backbones if (state := self._state(b.name)) is not None}
        self._run.counts = {
            "epochs": {name: len(state.history) for name, state in states.items()},
            "images": len(self._data.train),
            "images_per_second": {name: _rate(state) for name, state in states.items() if state.history},
            "peak_mib": {name: state.facts.get("peak_mib") for name, state in states.items()},
            "cache_bytes": max((state.facts.get("cache_bytes", 0) for state in states.values()), default=0),
        }
        self._run.seconds["by_backbone"] = {name: _seconds(state) for name, state in states.items()}
        facts = next((state.facts for state in states.values() if state.facts), {})
        self._run.device = [{k: str(facts[k]) for k in ("device", "precision", "workers", "threads") if k in facts}]

    def _raise_failures(self) -> None:
        failed = {b.name: state for b, _ in self._request.backbones if (state := self._state(b.name)) and state.failed}
        if failed:
            usage = all(state.facts["error"] == "UsageError" for state in failed.values())
            raise (UsageError if usage else HarmError)("; ".join(state.failed for state in failed.values()))

    def _row(self, backbone: str) -> Pretrained:
        state = self._settled[backbone]
        (weights,) = registered(self._store, self._request.name, backbone)
        last = state.history[-1]
        return Pretrained(
            weights.name,
            backbone,
            weights.sha256,
            weights.source,
            len(state.history),
            _seconds(state),
            _rate(state),
            last.mean_auc,
            {label: result["auc"] for label, result in last.auc.items()},
            {label: result["note"] for label, result in last.auc.items() if result["note"]},
            state.facts["peak_mib"],
        )

    def _state(self, backbone: str) -> RunState | None:
        return read_state(self._store.location, self._request.name, backbone)


def _seconds(state: RunState) -> float:
    return sum(record.seconds for record in state.history)


def _rate(state: RunState) -> float:
    return sum(r.images for r in state.history) / sum(r.train_seconds for r in state.history)


def _known_patients(patients: Sequence[str]) -> list[str]:
    return [patient for patient in patients if not patient.startswith("image:")]
