"""Everything the template shows, gathered from the store and the evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from featurestore.store.purge import purged_versions
from jobs.report import answer, cohort, explanations, provenance, rejects, run_box, timing
from jobs.report import format as fmt
from jobs.report import names as words
from jobs.report.arms import Arm, arms, best_ensemble, first_seeds, labels
from jobs.report.auc_tables import auc_table, head_table
from jobs.report.purged import purged_heads
from jobs.report.roc import panels
from jobs.report.tables import Cell, Column, Table

if TYPE_CHECKING:
    from classifiers.evaluation import Evaluation
    from featurestore.store.store import Store


@dataclass(frozen=True)
class Request:
    """What the caller asked for; see `jobs.report.render.build_report`."""

    title: str
    dataset: str
    split: str
    experiment: Mapping[str, Any] = field(default_factory=dict)
    specs: Mapping[str, str] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    explanations: Sequence[Mapping[str, Any]] = ()
    phantom: bool | None = None


@dataclass(frozen=True)
class _Facts:
    arms: list[Arm]
    labels: list[str]
    part: str
    networks: list[provenance.Network]
    runs: list[provenance.Run]
    vectors: list[timing.Vectors]
    cohort: cohort.Cohort


def context(store: Store, evaluation: Evaluation, request: Request) -> dict[str, Any]:
    """Return the template's variables."""
    facts = _facts(store, evaluation, request)
    return {
        **_headline(store, evaluation, request, facts),
        **_results(evaluation, facts),
        **_time(request, facts),
        **_data(store, request, facts),
        **_provenance(store, request, facts),
        "pictures": explanations.pictures(request.explanations),
        "explanation_table": explanations.table(request.explanations) if request.explanations else None,
    }


def _facts(store: Store, evaluation: Evaluation, request: Request) -> _Facts:
    networks = provenance.networks(store, request.dataset, request.split, request.specs)
    return _Facts(
        arms(evaluation.rows),
        labels(evaluation.rows),
        evaluation.part,
        networks,
        provenance.runs(store, request.dataset),
        timing.stored_vectors(store, request.dataset, networks),
        cohort.cohort(store, request.dataset, request.split),
    )


def _headline(store: Store, evaluation: Evaluation, request: Request, facts: _Facts) -> dict[str, Any]:
    phantom = provenance.is_phantom(request.dataset, facts.runs) if request.phantom is None else request.phantom
    reasons = answer.reasons(facts.networks, evaluation.rows, request.dataset, phantom)
    return {
        "title": f"{request.title}: {answer.NOT_A_RESULT}" if reasons else request.title,
        "name": request.title,
        "status": answer.NOT_A_RESULT if reasons else "",
        "reasons": reasons,
        "answer": answer.sentence(facts.arms, request.dataset, facts.part),
        "caveat": answer.caveat(facts.arms),
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "dataset": request.dataset,
        "split": request.split,
        "part": facts.part,
        "tiles": _tiles(store, request, facts),
    }


def _tiles(store: Store, request: Request, facts: _Facts) -> list[tuple[str, str]]:
    card = facts.cohort
    patients = (
        fmt.missing("the source names no patients")
        if card.images == card.unknown_patients
        else fmt.count(card.patients)
    )
    best = best_ensemble(facts.arms)
    return [
        (fmt.auc(best[2]["auc"] if best else None, "no macro AUC"), "best macro AUC"),
        (fmt.count(card.images), "images"),
        (patients, "patients"),
        (fmt.count(len(facts.networks)), "networks"),
        (fmt.count(sum(v.vectors for v in facts.vectors)), "vectors stored"),
        (fmt.count(len(facts.labels)), "labels evaluated"),
        (fmt.count(rejects.total(store, request.dataset)), "rejects"),
    ]


def _results(evaluation: Evaluation, facts: _Facts) -> dict[str, Any]:
    first = facts.arms[0] if facts.arms else None
    return {
        "head_table": head_table(facts.arms) if facts.arms else None,
        "auc_tables": [auc_table(arm) for arm in first_seeds(facts.arms)],
        "roc_title": first.title if first else "",
        "panels": panels(first, evaluation.scored, facts.labels) if first else [],
        "legend": _legend(first) if first else [],
        "notes": evaluation.notes,
        "seeds": len({arm.seed for arm in facts.arms}),
        "folds": any(row.get("fold") is not None for row in evaluation.rows),
    }


def _legend(arm: Arm) -> list[tuple[str, words.Line, str]]:
    others = sorted({model.backbone for model in arm.models})
    lines = [(m.name, words.line(m.backbone, m.ensemble, others)) for m in arm.models]
    return [(name, line, " ".join(f"{part * line.width:g}" for part in line.dash)) for name, line in lines]


def _time(request: Request, facts: _Facts) -> dict[str, Any]:
    return {
        "stage_table": timing.stage_table(timing.stages(facts.runs, facts.vectors, facts.arms, request.seconds)),
        "efficiency_table": timing.efficiency_table(facts.runs, facts.vectors),
    }


def _data(store: Store, request: Request, facts: _Facts) -> dict[str, Any]:
    parts = [part for part, _, _ in facts.cohort.parts]
    return {
        "cohort": facts.cohort,
        "patients_unknowable": facts.cohort.unknown_patients,
        "part_table": _part_table(facts.cohort),
        "label_table": cohort.label_table(store, request.dataset, request.split, parts, facts.labels),
        "reject_total": rejects.total(store, request.dataset),
        "reject_stages": rejects.by_stage(store, request.dataset),
        "reject_table": rejects.reasons(store, request.dataset),
    }


def _part_table(card: cohort.Cohort) -> Table:
    columns = [Column("Part", numeric=False), Column("Images"), Column("Patients")]
    rows = [[Cell(part), Cell(fmt.count(images)), Cell(fmt.count(patients))] for part, images, patients in card.parts]
    records = [{"part": part, "images": images, "patients": patients} for part, images, patients in card.parts]
    return Table("parts", "The split", columns, rows, records)


def _provenance(store: Store, request: Request, facts: _Facts) -> dict[str, Any]:
    seeds = {
        f"seed of the {what}": value for what, value in provenance.seeds(store, request.dataset, request.split).items()
    }
    policies = provenance.label_policies(store, request.dataset, request.split)
    arguments = {**provenance.flatten(request.experiment), **seeds, "label policy": policies}
    libraries = provenance.library_versions(facts.runs)
    lowest = purged_versions(store)
    versions = run_box.pairs("tables", "Store version read", ("Table", "Version"), store.versions())
    return {
        "network_table": run_box.network_table(facts.networks),
        "argument_table": run_box.pairs("experiment", "The experiment", ("Setting", "Value"), arguments),
        "run_table": run_box.run_table(facts.runs, lowest),
        "version_table": replace(versions, note=purged_heads(store, request.dataset, request.split, lowest)),
        "library_table": run_box.pairs("libraries", "Libraries", ("Library", "Version"), libraries),
    }
