"""The report of a stored evaluation."""

from __future__ import annotations

import json
from pathlib import Path

from classifiers.evaluation import evaluate
from featurestore.errors import UsageError
from featurestore.store import Store
from jobs.choose import fitted_specs
from jobs.report.render import ReportInfo, build_report


def write_report(
    store: Store,
    out: Path,
    dataset: str | None = None,
    split: str | None = None,
    part: str = "test",
    backbones: str = "all",
) -> ReportInfo:
    """Write the HTML report of one data set and split; by default those of the newest evaluation.

    Raises
    ------
    UsageError
        If nothing was evaluated yet, or the names are unknown.
    """
    dataset, split = _newest(store, dataset, split)
    specs = fitted_specs(store, dataset, split, backbones)
    evaluation = evaluate(store, dataset, split, part, specs=specs)
    title = f"{dataset}, split {split}"
    return build_report(store, evaluation, title=title, dataset=dataset, split=split, out=out, specs=specs)


def _newest(store: Store, dataset: str | None, split: str | None) -> tuple[str, str]:
    if dataset and split:
        return dataset, split
    rows = store.query(
        "SELECT dataset, arguments FROM runs WHERE command = 'evaluate' AND status = 'done' ORDER BY started_at DESC"
    ).to_pylist()
    for row in rows:
        found = json.loads(row["arguments"])["split"]
        if dataset in (None, row["dataset"]) and split in (None, found):
            return row["dataset"], found
    done = sorted({f"{row['dataset']}, split {json.loads(row['arguments'])['split']}" for row in rows})
    asked = " and ".join(f"{what} {name!r}" for what, name in (("data set", dataset), ("split", split)) if name)
    there = f"there is: {'; '.join(done)}" if done else "run cxr evaluate first"
    message = f"no evaluation{f' of {asked}' if asked else ''} in the store at {store.uri}; {there}"
    raise UsageError(message)
