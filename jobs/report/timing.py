"""Where the time went, and how near extraction came to what the networks alone allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.report import format as fmt
from jobs.report import names
from jobs.report.arms import MACRO, Arm
from jobs.report.provenance import Network, Run
from jobs.report.tables import Cell, Column, Table

if TYPE_CHECKING:
    from featurestore.store.store import Store

_WHOLE = ("total", "wall")
# Parts that hold other parts: an extraction's `run` is its clock without start-up.
_SUMS = (*_WHOLE, "run")
_BEFORE_NETWORKS = ("resolve", "plan", "load", "decode", "wait")
# A job of many jobs (`cxr run`) would count them twice; fit and predict are read from the models' own rows.
_SKIPPED = ("extract", "train", "finetune", "run", "demo")


@dataclass(frozen=True)
class Stage:
    """One line of the time table: a stage, what it worked on, and its seconds."""

    name: str
    what: str
    seconds: float


@dataclass(frozen=True)
class Vectors:
    """Vectors of one network stored by one run, for this data set."""

    backbone: str
    run_id: str
    vectors: int


def stored_vectors(store: Store, dataset: str, networks: Sequence[Network]) -> list[Vectors]:
    """Return how many vectors each run stored of each network."""
    sql = """
        SELECT e.backbone, e.run_id, count(*) AS vectors FROM embeddings e JOIN images i USING (image_id)
        WHERE i.dataset = ? AND list_contains(?, e.spec_id) GROUP BY ALL ORDER BY ALL
    """
    return [Vectors(**row) for row in store.query(sql, [dataset, [n.spec_id for n in networks]]).to_pylist()]


def extract_runs(found: Sequence[Run], vectors: Sequence[Vectors]) -> list[Run]:
    """Return the runs that stored the vectors: a later run that found them stored took no part."""
    wrote = {v.run_id for v in vectors}
    return [run for run in found if run.run_id in wrote]


def stages(
    found: Sequence[Run], vectors: Sequence[Vectors], arms: Sequence[Arm], extra: Mapping[str, float]
) -> list[Stage]:
    """Return every stage's seconds, cold.

    Parameters
    ----------
    found : sequence of Run
        The data set's jobs. Extraction: the sum over those that stored these vectors. Other commands: the longest
        job of each, since a repeated one found its work done and a cached stage carries its original time.
    vectors : sequence of Vectors
    arms : sequence of Arm
        Their rows hold the seconds of fitting and predicting.
    extra : mapping of str to float
        Stages of a job still running, which has no row in `runs` yet.
    """
    others = [stage for run in _longest(found) for stage in _run_stages(run)]
    before = [stage for stage in others if stage.name.startswith("ingest")]
    after = [stage for stage in others if not stage.name.startswith("ingest")]
    measured = [Stage(name, "this job", seconds) for name, seconds in extra.items()]
    return [*before, *_extract_stages(extract_runs(found, vectors)), *_fits(arms), *after, *measured]


def wall(run: Run) -> float | None:
    """Return a job's seconds on the clock."""
    return next((run.seconds[key] for key in _WHOLE if fmt.known(run.seconds.get(key))), run.wall)


def _longest(found: Sequence[Run]) -> list[Run]:
    commands = dict.fromkeys(run.command for run in found if run.command not in _SKIPPED)
    return [max((r for r in found if r.command == command), key=lambda r: wall(r) or 0.0) for command in commands]


def _run_stages(run: Run) -> list[Stage]:
    parts = _numbers(run.seconds)
    if parts:
        return [Stage(_stage_name(run.command, key), "", seconds) for key, seconds in parts.items()]
    whole = wall(run)
    return [Stage(run.command, "", whole)] if whole is not None else []


def _numbers(seconds: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in seconds.items() if fmt.known(value) and key not in _SUMS}


def _stage_name(command: str, key: str) -> str:
    return command if key == command else f"{command}: {_WORDS.get(key, key.replace('_', ' '))}"


_WORDS = {"resolve": "fingerprint the weights", "load": "load the networks", "wait": "wait for decoded images"}


def _extract_stages(found: Sequence[Run]) -> list[Stage]:
    sums: Counter[str] = Counter()
    for run in found:
        sums.update(_numbers(run.seconds))
    networks = network_seconds(found)
    # The networks' own lines stand in place of their sum.
    sums = Counter({key: value for key, value in sums.items() if not (key == "infer" and networks)})
    lines = {key: Stage(_stage_name("extract", key), "", seconds) for key, seconds in sums.items()}
    before = [lines.pop(key) for key in _BEFORE_NETWORKS if key in lines]
    infer = [Stage("extract: infer", names.backbone(name), seconds) for name, seconds in networks.items()]
    return [*before, *infer, *lines.values()]


def network_seconds(found: Sequence[Run]) -> dict[str, float]:
    """Return each network's forward seconds, summed over runs."""
    sums: Counter[str] = Counter()
    for run in found:
        sums.update({k: float(v) for k, v in (run.seconds.get("by_backbone") or {}).items() if fmt.known(v)})
    return dict(sums)


def _fits(arms: Sequence[Arm]) -> list[Stage]:
    return [
        Stage(what, f"{names.arm(arm.approach, arm.head)}, {_fit_scope(arm)}", seconds)
        for what, key in (("fit", "fit_seconds"), ("predict", "predict_seconds"))
        for arm in arms
        if (seconds := arm_seconds(arm, key)) is not None and arm.approach != "baseline"
    ]


def _fit_scope(arm: Arm) -> str:
    models = sum(model.ensemble == "none" for model in arm.models)
    return f"{models} network{'' if models == 1 else 's'}"


def arm_seconds(arm: Arm, key: str) -> float | None:
    """Return an arm's seconds summed over its networks; each network's stands in its macro row."""
    rows = [arm.row(model, MACRO) for model in arm.models if model.ensemble == "none"]
    values = [row[key] for row in rows if row is not None and fmt.known(row.get(key))]
    return float(sum(values)) if values else None


def stage_table(lines: Sequence[Stage]) -> Table:
    """Return the stages with a bar each; the longest fills its cell."""
    longest = max((line.seconds for line in lines), default=0.0) or 1.0
    total = sum(line.seconds for line in lines)
    rows = [
        [
            Cell(line.name),
            Cell(line.what),
            Cell(fmt.seconds(line.seconds), bar=line.seconds / longest),
            Cell(fmt.share(line.seconds, total)),
        ]
        for line in lines
    ]
    columns = [Column("Stage", numeric=False), Column("Of", numeric=False), Column("Seconds"), Column("Share")]
    records = [{"stage": line.name, "of": line.what, "seconds": line.seconds} for line in lines]
    return Table("seconds", "Seconds by stage", columns, rows, records, note=_NOTE, css="bars")


_NOTE = (
    "Cold seconds: work found done in the store carries the time it originally took. Decoding overlaps the networks, "
    "so the lines of extraction can add up to more than its time on the clock."
)


def efficiency_table(found: Sequence[Run], vectors: Sequence[Vectors]) -> Table:
    """Return images per second: each network alone, all of them one after the other, and the job on the clock."""
    runs = extract_runs(found, vectors)
    spent = network_seconds(runs)
    counted = Counter[str]()
    for row in vectors:
        counted[row.backbone] += row.vectors
    lines = [(names.backbone(name), n, spent.get(name)) for name, n in counted.items()]
    images = max(counted.values(), default=0)
    clock = sum(filter(None, (wall(run) for run in runs)))
    lines += [("All networks, forward passes only", images, sum(spent.values()) or None)]
    lines += [("The whole job, on the clock", images, clock or None)]
    records = [
        {"what": what, "images": n, "seconds": s, "images_per_second": n / s if s else None} for what, n, s in lines
    ]
    rows = [
        [Cell(w), Cell(fmt.count(n)), Cell(fmt.seconds(s)), Cell(fmt.rate(n / s if s else None))] for w, n, s in lines
    ]
    columns = [Column("Extraction", numeric=False), Column("Images"), Column("Seconds"), Column("Images/s")]
    return Table("efficiency", "Images per second", columns, rows, records, note=_busy(spent, clock))


def _busy(spent: Mapping[str, float], clock: float) -> str:
    if not spent or not clock:
        return ""
    several = ", on several workers at once" if sum(spent.values()) > clock else ""
    return f"Forward passes took {fmt.share(sum(spent.values()), clock)} of the job’s time on the clock{several}."
