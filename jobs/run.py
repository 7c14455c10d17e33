"""One experiment from its file: ingest -> (pretrain) -> extract -> split -> train ... -> report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from classifiers.approaches import STACKER, STACKING_A, STACKING_B
from classifiers.cnn.targets import constant_labels
from classifiers.cnn.training_set import read_training_set
from classifiers.evaluation import Evaluation
from classifiers.label_map import LabelMap, made_of, read_label_map
from classifiers.labels import LabelPolicy, check_labels, dataset_labels
from classifiers.splits import make_split
from classifiers.training import plan_cells
from featurestore.backbones.catalogue import parse_backbones
from featurestore.backbones.requests import requested
from featurestore.backbones.weights import parse_weights, weights_name
from featurestore.errors import UsageError
from featurestore.store import Store
from jobs.estimate import describe_plan, estimate_hours
from jobs.evaluate import evaluate
from jobs.experiment import Data, Experiment, Finetune, Pretrain
from jobs.explain import ExplainRequest, Explanation, explain
from jobs.extract import ExtractRequest, Summary, extract
from jobs.finetune import finetune
from jobs.finetune_request import FinetuneRequest
from jobs.ingest import IngestRequest, ingest
from jobs.pretrain import label_groups, pretrain
from jobs.pretrain_request import PretrainRequest
from jobs.report.render import ReportInfo, build_report
from jobs.train import TrainRequest, TrainSummary, train
from jobs.workers import Workers

Say = Callable[[str], object]


@dataclass
class RunSummary:
    """What an experiment left behind.

    Parameters
    ----------
    evaluation : Evaluation
    report : ReportInfo
    forward_passes : int
        Pairs of image and network that were run.
    failed : int
        Cells without a model, and pairs that were lost.
    seconds : dict of str to float
        Wall seconds by step.
    """

    evaluation: Evaluation
    report: ReportInfo
    forward_passes: int
    failed: int
    seconds: dict[str, float]


def run_experiment(store: Store, experiment: Experiment, out: Path, workers: Workers, say: Say) -> RunSummary:
    """Run every step of an experiment; what is stored already is used and said to be.

    Parameters
    ----------
    store : Store
    experiment : Experiment
    out : Path
        The report.
    workers : Workers
    say : callable
        Told one sentence a step.

    Raises
    ------
    featurestore.errors.UsageError
        If a step cannot be done as described.
    """
    return _Experiment(store, experiment, workers, say).run(out)


@dataclass
class _Experiment:
    store: Store
    experiment: Experiment
    workers: Workers
    say: Say
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, out: Path) -> RunSummary:
        with self._step("ingest"):
            self._ingest(self.experiment.data)
            self._check_labels()
        if self.experiment.pretrain is not None:
            with self._step("pretrain"):
                self._pretrain(self.experiment.pretrain)
        with self._step("extract"):
            extracted = self._extract()
        with self._step("split"):
            self._split()
        with self._step("train"):
            trained = self._train_all(extracted.specs)
        model_ids = [model for done in trained for model in done.model_ids]
        if self.experiment.finetune is not None:
            with self._step("finetune"):
                model_ids = model_ids + self._finetune(self.experiment.finetune)
        with self._step("evaluate"):
            evaluation = self._evaluate(extracted.specs, model_ids)
        with self._step("explain"):
            explanations = self._explain(extracted.specs)
        report = self._report(evaluation, extracted.specs, explanations, out)
        self.say(f"report: {report.path}, {report.bytes / 1e6:.1f} MB")
        failed = sum(done.failed for done in trained) + extracted.lost
        return RunSummary(evaluation, report, extracted.written, failed, self.seconds)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self.seconds[name] = perf_counter() - start

    @property
    def _dataset(self) -> str:
        return self.experiment.data.dataset

    @property
    def _label_map(self) -> LabelMap | None:
        asked = self.experiment.train.label_map
        return read_label_map(asked) if asked else None

    def _check_labels(self) -> None:
        """Refuse a wrong label before hours of extraction."""
        groups, offered = self._label_map or {}, dataset_labels(self.store, self._dataset)
        wanted = self.experiment.train.labels or list(groups)
        if wanted:
            names = [member for label in wanted for member in made_of(label, groups, offered) or (label,)]
            check_labels(self.store, self._dataset, list(dict.fromkeys(names)))

    def _ingest(self, data: Data) -> None:
        if data.path is None:
            if data.source != "phantom":
                message = f"experiment {self.experiment.name}: data.path is not set; give --data PATH"
                raise UsageError(message)
            # Pictures are local files, also beside a store on S3.
            beside = Path(self.store.uri).parent if self.store.location.is_local else Path.cwd()
            data = data.model_copy(update={"path": beside / "phantoms" / data.dataset})
        done = ingest(self.store, IngestRequest(kind=data.source, **data.model_dump(exclude={"source"})))
        self.say(f"ingest: {done.images} images, {done.labels} labels, {done.rois} regions, {done.rejected} rejected")

    def _pretrain(self, asked: Pretrain) -> None:
        self._ingest(asked.data)
        request = PretrainRequest(
            asked.data.dataset, backbones=self.experiment.extract.backbones, **asked.model_dump(exclude={"data"})
        )
        for row in pretrain(self.store, request, self.workers, self.say):
            auc = "none" if row.val_auc is None else f"{row.val_auc:.3f}"
            self.say(f"pretrain: {row.backbone}, mean validation AUC {auc}, {row.seconds:.0f} s")

    def _extract(self) -> Summary:
        request = ExtractRequest(self._dataset, **self.experiment.extract.model_dump())
        done = extract(
            self.store,
            request,
            self.workers,
            announce=lambda plan: self.say(f"plan: {describe_plan(plan, estimate_hours(self.store, plan))[1]}"),
        )
        rate = f", {done.images_per_second:.1f} images/s" if done.images_per_second else "; no forward pass was needed"
        self.say(f"extract: {done.written} vectors written, {done.skipped} were stored, {done.rejected} rejected{rate}")
        return done

    def _split(self) -> None:
        asked = self.experiment.split
        parts = make_split(
            self.store,
            self._dataset,
            frontal_only=not asked.lateral,
            labels=None if self.experiment.train.label_map else self.experiment.train.labels,
            **asked.model_dump(exclude={"lateral"}),
        )
        counts = (f"{part} {c['images']} images of {c['patients']} patients" for part, c in parts.items())
        self.say(f"split {asked.name}: {', '.join(counts)}")

    def _policy(self) -> LabelPolicy:
        asked = self.experiment.train
        return LabelPolicy(uncertain=asked.uncertain, blank=asked.blank)

    def _specs(self, spec_ids: dict[str, str]) -> dict[str, tuple[str, str]]:
        asked = self.experiment.extract
        requests = parse_weights(asked.weights, parse_backbones(asked.backbones))
        return {name: (spec_id, requests[name].name) for name, spec_id in spec_ids.items()}

    def _train_all(self, spec_ids: dict[str, str]) -> list[TrainSummary]:
        asked = self.experiment.train
        ways: dict[str, dict[str, Any]] = {
            "a": {"approach": STACKING_A, "heads": [STACKER]},
            "b": {"approach": STACKING_B},
            "b-in-sample": {"approach": STACKING_B, "in_sample": True},
        }
        return [self._train(spec_ids, **way) for way in ({}, *(ways[name] for name in asked.stacking))]

    def _train(self, spec_ids: dict[str, str], **way: Any) -> TrainSummary:
        asked = self.experiment.train
        done = train(
            self.store,
            TrainRequest(
                self._dataset,
                self.experiment.split.name,
                specs=self._specs(spec_ids),
                labels=asked.labels,
                seeds=asked.seeds,
                policy=self._policy(),
                label_map=self._label_map,
                **{"heads": asked.heads, **way},
            ),
        )
        for problem in done.problems:
            self.say(f"no model: {problem}")
        self.say(f"train: {done.models} models fitted, {done.cached} were stored, {done.failed} failed")
        return done

    def _finetune(self, asked: Finetune) -> list[str]:
        extraction, training = self.experiment.extract, self.experiment.train
        request = FinetuneRequest(
            self._dataset,
            self.experiment.split.name,
            backbones=extraction.backbones,
            weights=extraction.weights,
            labels=None if training.labels is None else tuple(training.labels),
            label_map=training.label_map,
            uncertainty=f"u-{training.uncertain}",
            size=extraction.size,
            **asked.model_dump(),
        )
        # One store may hold the same preset from other weights, at another size, on fewer patients: each has a name.
        groups = label_groups(self.store, self._dataset, request.label_map, request.labels)
        data = read_training_set(self.store, self._dataset, request.split, dict(groups))
        constant = constant_labels(data.codes[data.train], data.labels, f"u-{training.uncertain}")
        if constant:  # heads mark such a label and fit the others; so does this
            self.say(f"finetune: nothing can be learnt of {', '.join(constant)}, which does not vary in training")
            request = replace(request, labels=tuple(label for label in data.labels if label not in constant))
        described = json.dumps([request.for_the_record(), data.digest], sort_keys=True)
        digest = hashlib.sha256(described.encode()).hexdigest()[:8]
        done = finetune(self.store, replace(request, name=f"{request.run_name[:50]}_{digest}"), self.workers, self.say)
        for row in done:
            auc = "none" if row.val_auc is None else f"{row.val_auc:.3f}"
            self.say(f"finetune: {row.backbone}, {row.chosen}, mean validation AUC {auc}, {row.seconds:.0f} s")
        return [row.model_id for row in done]

    def _evaluate(self, spec_ids: dict[str, str], model_ids: list[str]) -> Evaluation:
        asked = self.experiment.train
        return evaluate(
            self.store,
            self._dataset,
            self.experiment.split.name,
            self.experiment.evaluate.part,
            labels=asked.labels,
            label_map=self._label_map,
            specs=spec_ids,
            policy=self._policy(),
            model_ids=model_ids,
        )

    def _explain(self, spec_ids: dict[str, str]) -> list[Explanation]:
        asked, extraction = self.experiment.explain, self.experiment.extract
        if asked is None:
            return []
        cell = plan_cells(
            self.store,
            self._dataset,
            self.experiment.split.name,
            [asked.head],
            self._specs({asked.backbone: spec_ids[asked.backbone]}),
            labels=self.experiment.train.labels,
            seeds=self.experiment.train.seeds[:1],
            policy=self._policy(),
            label_map=self._label_map,
        )[0]
        chosen = requested(self.store, extraction.backbones, extraction.weights)
        network = next(b for b in chosen if b.backbone.name == asked.backbone)
        request = ExplainRequest(
            cell, network.backbone, network.request, extraction.preprocess, extraction.size, asked.images
        )
        found = explain(self.store, request, self.workers, pictures=self.experiment.report.with_images)
        self.say(f"explain: {len(found)} maps of {asked.head} on {asked.backbone} beside their regions of interest")
        return found

    def _report(
        self, evaluation: Evaluation, spec_ids: dict[str, str], explanations: list[Explanation], out: Path
    ) -> ReportInfo:
        return build_report(
            self.store,
            evaluation,
            title=self.experiment.title,
            dataset=self._dataset,
            split=self.experiment.split.name,
            out=out,
            experiment=_without_paths(self.experiment),
            specs=spec_ids,
            seconds=self.seconds,
            explanations=[asdict(explanation) for explanation in explanations],
            phantom=self.experiment.data.source == "phantom",
        )


_PATHS = {"path", "rois", "labels_csv"}


def _without_paths(experiment: Experiment) -> dict[str, Any]:
    """Return the experiment as shown in a report: a reader of it has no use for this machine's folders."""
    shown = experiment.model_dump(mode="json", exclude={"data": _PATHS, "pretrain": {"data": _PATHS}})
    shown["extract"]["weights"] = weights_name(experiment.extract.weights, experiment.extract.backbones)
    return shown
