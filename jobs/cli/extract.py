"""`cxr extract`."""

from __future__ import annotations

from dataclasses import asdict

import click

from jobs.cli.options import dataset_option, extraction_options, json_option, store_option
from jobs.cli.output import emit


@click.command("extract")
@store_option
@dataset_option
@extraction_options
@click.option(
    "--decode-workers", default=0, type=click.IntRange(0), hidden=True, help="CPUs that decode for the GPUs' actors."
)
@json_option
def command(store_uri: str, as_json: bool, address: str | None, no_ray: bool, **request: object) -> int:
    """Run images through the backbones and store their vectors; only what is missing, each exactly once."""
    from featurestore.store import Store
    from jobs.estimate import describe_plan, estimate_hours
    from jobs.extract import ExtractRequest, extract
    from jobs.workers import Workers

    store = Store(store_uri).require()

    with Workers(use_ray=not no_ray, address=address) as workers:
        summary = extract(
            store,
            ExtractRequest(**request),  # type: ignore[arg-type]
            workers,
            announce=lambda todo: click.echo(describe_plan(todo, estimate_hours(store, todo))[1], err=True),
            say=lambda sentence: click.echo(sentence, err=True),
        )
    rate = summary.efficiency.sentence() if summary.efficiency else "no forward pass"
    sentence = (
        f"{summary.written} written, {summary.skipped} skipped, {summary.rejected} rejected, {summary.lost} lost; "
        f"{summary.seconds:.1f} s, {rate}"
    )
    emit(asdict(summary), as_json=as_json, sentence=sentence)
    return 1 if summary.lost else 0
