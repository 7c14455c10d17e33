"""`cxr similar`."""

from __future__ import annotations

import click

from jobs.cli.options import json_option, store_option
from jobs.cli.output import emit_json, table


@click.command("similar")
@click.argument("image")
@store_option
@click.option("--backbone", help="Whose vectors to compare.")
@click.option("--spec", help="Which of a backbone's vectors, where it has several.")
@click.option("-k", "count", default=10, show_default=True, type=click.IntRange(min=1), help="How many images.")
@click.option("--dataset", help="Where a source key stands in several data sets.")
@json_option
def command(
    image: str, store_uri: str, backbone: str | None, spec: str | None, count: int, dataset: str | None, as_json: bool
) -> None:
    """Find the images that are most like IMAGE by the cosine of their vectors.

    IMAGE is an image_id, at least 6 hex digits it starts with, or a source key. The first call copies the vectors into
    a cache below the store, and answers faster from then on; `cxr forget` removes it.
    """
    from featurestore.store import Store
    from jobs.similar import find_similar

    store = Store(store_uri).require()
    rows = find_similar(store, image, backbone=backbone, spec=spec, k=count, dataset=dataset)
    if as_json:
        emit_json(rows)
    else:
        click.echo(table(rows, ["image_id", "similarity", "dataset", "source_key"]))
