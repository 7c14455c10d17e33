"""The report's answer in one sentence, and why it may be no result at all."""

from __future__ import annotations

from collections.abc import Sequence

from classifiers.statistics import MIN_POSITIVE_PATIENTS
from jobs.report import format as fmt
from jobs.report import names
from jobs.report.arms import Arm, Model, Row, best_ensemble, labels
from jobs.report.provenance import Network

NOT_A_RESULT = "pipeline check, not a result"


def reasons(networks: Sequence[Network], rows: Sequence[Row], dataset: str, phantom: bool) -> list[str]:
    """Return why the numbers are a pipeline check and not a result; empty where they are one.

    Random or phantom-trained weights, or phantom images, make every table a check of the pipeline (method.md,
    "What can be claimed offline").
    """
    found = []
    random = sorted({n.weights for n in networks if is_random(n.weights)} | _random_in(rows))
    if random:
        found.append(f"Weights drawn at random ({', '.join(random)}): the networks have learnt nothing.")
    trained = sorted({n.weights for n in networks if "phantom" in f"{n.weights} {n.source} {n.made_with}".lower()})
    if trained:
        found.append(f"Weights trained on phantoms ({', '.join(trained)}): the networks have seen no radiograph.")
    if phantom:
        found.append(f"The data set {dataset} is made of generated phantoms: no patient was examined.")
    return found


def is_random(weights: str) -> bool:
    """Return whether weights are ``random:SEED``."""
    return weights.startswith("random:")


def _random_in(rows: Sequence[Row]) -> set[str]:
    parts = (part.strip() for row in rows for part in (row["weights"] or "").split(","))
    return {part for part in parts if is_random(part)}


def sentence(found: Sequence[Arm], dataset: str, part: str) -> str:
    """Return the best ensemble's macro AUC with its interval, and on what it was measured."""
    best = best_ensemble(found)
    if best is None:
        return f"No macro AUC can be stated on {dataset}, part {part}: no ensemble has a label with enough positives."
    arm, model, row = best
    networks = sum(m.ensemble == "none" for m in arm.models)
    how = f"{arm.title}, {names.ensemble(model.ensemble)} over {_many(networks, 'network')}"
    return (
        f"The best ensemble ({how}) reaches a macro AUC of {fmt.auc(row['auc'])} {_interval(row)}, the mean over "
        f"{_averaged(arm, model)}, on {_many(row['n'], 'image')} of {dataset}, part {part}."
    )


def caveat(found: Sequence[Arm]) -> str:
    """Return how the best was picked; empty where there was nothing to pick from."""
    ensembles = sum(model.ensemble != "none" for arm in found for model in arm.models)
    if ensembles < 2 or best_ensemble(found) is None:
        return ""
    return f"The highest of {ensembles} ensembles compared on these same images: expect a little less on new ones."


def _interval(row: Row) -> str:
    text = fmt.interval(row["auc_lo"], row["auc_hi"])
    return f"(95 % interval {text})" if text else "(no interval)"


def _averaged(arm: Arm, model: Model) -> str:
    rows = [row for label in labels(arm.rows) if (row := arm.row(model, label)) is not None]
    return _many(sum(fmt.known(row["auc"]) and not is_too_few(row) for row in rows), "label")


def is_too_few(row: Row) -> bool:
    """Return whether a label has too few positive patients to count (under 10; method.md, "Statistics")."""
    patients = row["n_positive_patients"]
    return patients is not None and patients < MIN_POSITIVE_PATIENTS


def _many(n: float | None, noun: str) -> str:
    return f"{fmt.count(n)} {noun}{'' if n == 1 else 's'}"
