"""What was run, as tables: the experiment, the networks and their weights, the jobs, the versions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.report import format as fmt
from jobs.report import names
from jobs.report.provenance import Network, Run, flatten
from jobs.report.purged import gone
from jobs.report.tables import Cell, Column, Table
from jobs.report.timing import wall


def network_table(found: Sequence[Network]) -> Table:
    """Return the networks: weights, where they came from, preprocessing and size, spec."""
    columns = [Column("Network", numeric=False), Column("Weights", numeric=False), Column("Source", numeric=False)]
    columns += [Column("SHA-256", numeric=False), Column("Preprocessing", numeric=False), Column("Features")]
    columns += [Column("Spec", numeric=False), Column("Runtime", numeric=False)]
    note = "Whatever changes a vector (weights, preprocessing, size, precision) changes its spec."
    return Table(
        "networks", "Networks and weights", columns, [_network(n) for n in found], [vars(n) for n in found], note=note
    )


def _network(n: Network) -> list[Cell]:
    preprocess = f"{n.preprocess}, {n.size} px" if n.size else n.preprocess
    return [
        Cell(names.backbone(n.backbone)),
        Cell(n.weights),
        Cell(n.source or fmt.missing("not recorded")),
        Cell((n.sha256 or "")[:12], title=n.sha256, css="mono"),
        Cell(preprocess),
        Cell(fmt.count(n.n_features)),
        Cell(n.spec_id, css="mono"),
        Cell(n.runtime or fmt.missing("not recorded")),
    ]


def run_table(found: Sequence[Run], lowest: Mapping[str, int]) -> Table:
    """Return the data set's jobs with their arguments, oldest first; ``lowest`` says what a purge left."""
    columns = [Column("Job", numeric=False), Column("Started (UTC)", numeric=False), Column("Took")]
    columns += [Column("Status", numeric=False), Column("Device", numeric=False), Column("Arguments", numeric=False)]
    records = [_record(run) for run in found]
    return Table("jobs", "Jobs on this data set", columns, [_run(run, lowest) for run in found], records, css="prose")


def _run(run: Run, lowest: Mapping[str, int]) -> list[Cell]:
    started = f"{run.started_at:%Y-%m-%d %H:%M:%S}" if run.started_at else fmt.missing()
    arguments = " ".join(f"{key}={value}" for key, value in flatten(run.arguments).items())
    took = Cell(fmt.seconds(wall(run)))
    return [
        Cell(run.command, title=run.run_id),
        Cell(started),
        took,
        _status(run, lowest),
        Cell(_device(run.device)),
        Cell(arguments, css="mono"),
    ]


def _status(run: Run, lowest: Mapping[str, int]) -> Cell:
    lost = gone(run.tables, lowest)
    return Cell(f"{run.status}; what it read was purged", title=", ".join(lost)) if lost else Cell(run.status)


def _device(text: str) -> str:
    """Return the workers of a job, such as ``2 × cuda, compiled``; text that is no such list stays as it is."""
    try:
        workers = json.loads(text or "[]")
    except json.JSONDecodeError:
        return text
    if not isinstance(workers, list) or not all(isinstance(worker, dict) for worker in workers):
        return text
    kinds = Counter(", ".join(filter(None, (w.get("device"), w.get("runtime")))) for w in workers)
    return "; ".join(f"{n} × {kind}" for kind, n in kinds.items())


def _record(run: Run) -> dict[str, object]:
    base: dict[str, object] = {"run_id": run.run_id, "command": run.command, "status": run.status, "device": run.device}
    base |= {"started_at": run.started_at, "seconds": wall(run), "tables": json.dumps(run.tables)}
    return base | {f"arguments.{key}": value for key, value in flatten(run.arguments).items()}


def pairs(name: str, caption: str, heads: tuple[str, str], values: Mapping[str, Any]) -> Table:
    """Return a table of two columns from a mapping."""
    records = [{heads[0]: key, heads[1]: value} for key, value in values.items()]
    rows = [[Cell(key), Cell(str(value))] for key, value in values.items()]
    return Table(name, caption, [Column(head, numeric=False) for head in heads], rows, records, css="pairs")
