"""What `cxr run` and `cxr demo` print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.cli.output import emit_json

if TYPE_CHECKING:
    from jobs.experiment import Experiment


def run_and_print(
    experiment: Experiment, store_uri: str, out: Path, *, use_ray: bool, address: str | None, as_json: bool
) -> int:
    """Run an experiment, print its table, and return the exit code."""
    from featurestore.store import Store
    from jobs.evaluate import rows_for_json, text_tables
    from jobs.run import run_experiment
    from jobs.workers import Workers

    store = Store(store_uri)
    with Workers(use_ray=use_ray, address=address) as workers:
        done = run_experiment(store, experiment, out, workers, say=lambda text: click.echo(text, err=True))
    if as_json:
        rows = rows_for_json(done.evaluation)
        emit_json(
            {
                "store": store.uri,
                "report": str(done.report.path),
                "rows": rows,
                "forward_passes": done.forward_passes,
                "seconds": done.seconds,
            }
        )
    else:
        click.echo(text_tables(done.evaluation))
        click.echo(f"\nReport: {done.report.path}")
    return 1 if done.failed else 0
