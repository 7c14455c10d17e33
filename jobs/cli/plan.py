"""`cxr plan`."""

from __future__ import annotations

import click

from jobs.cli.options import dataset_option, extraction_options, json_option, store_option
from jobs.cli.output import emit


@click.command("plan")
@store_option
@dataset_option
@extraction_options
@json_option
def command(store_uri: str, as_json: bool, address: str | None, no_ray: bool, **request: object) -> None:
    """Say what extract would do: pairs of image and backbone, images to decode, bytes, hours; then stop."""
    from featurestore.store import Store
    from jobs.estimate import describe_plan
    from jobs.extract import ExtractRequest, plan
    from jobs.workers import Workers

    store = Store(store_uri).require()
    with Workers(use_ray=not no_ray, address=address) as workers:
        todo, hours = plan(store, ExtractRequest(**request), workers)  # type: ignore[arg-type]
    document, sentence = describe_plan(todo, hours)
    emit(document, as_json=as_json, sentence=sentence)
