"""`cxr sql`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from jobs.cli.options import store_option


@click.command("sql")
@click.argument("query", required=False)
@store_option
@click.option(
    "--format", "output_format", type=click.Choice(["table", "csv", "json", "parquet"]), default="table",
    show_default=True,
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write here instead of to stdout.")
@click.option("--spec", help="Limit the backbone views to one spec_id.")
def command(query: str | None, store_uri: str, output_format: str, out: Path | None, spec: str | None) -> None:
    """Run one read-only SELECT over the store's views; the query comes from stdin where it is not given.

    Views: images, labels, rois, rejects, specs, weights, embeddings, scores, splits, models, predictions, metrics,
    saliency, runs, tombstones, and one per extracted backbone with its vectors as FLOAT[n].
    """
    from featurestore.errors import UsageError
    from jobs.sql import run_query, write

    if output_format == "parquet" and out is None:
        message = "--format parquet needs --out FILE: a terminal cannot show it"
        raise UsageError(message)
    rows = run_query(store_uri, query if query is not None else sys.stdin.read(), spec)
    write(rows, output_format, out)
