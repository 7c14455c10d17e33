"""`cxr why`."""

from __future__ import annotations

from dataclasses import asdict

import click

from jobs.cli.options import address_option, json_option, store_option
from jobs.cli.output import emit_json, table


@click.command("why")
@click.argument("image")
@store_option
@click.option("--dataset", help="Where a source key stands in several data sets.")
@click.option("--backbone", "--backbones", "backbones", default="all", show_default=True, help="all, or names.")
@click.option(
    "--weights", default="imagenet", show_default=True,
    help="imagenet, random:SEED, a name of cxr weights list, a file or a folder.",
)  # fmt: skip
@click.option("--preprocess", default="bilinear-v1", show_default=True, help="Or chest-crop-v1.")
@click.option("--size", default=224, show_default=True, help="Side of the network's input in pixels.")
@address_option
@click.option("--no-ray", is_flag=True, help="Everything in this process.")
@json_option
def command(store_uri: str, as_json: bool, address: str | None, no_ray: bool, **request: object) -> None:
    """Say why the vectors of an image are fresh, stale, missing or rejected.

    IMAGE is an image_id, at least 6 hex digits it starts with, or a source key.
    """
    from featurestore.store import Store
    from jobs.why import WhyRequest, why
    from jobs.workers import Workers

    store = Store(store_uri).require()
    with Workers(use_ray=not no_ray, address=address) as workers:
        rows = [asdict(row) for row in why(store, WhyRequest(**request), workers)]  # type: ignore[arg-type]
    if as_json:
        emit_json(rows)
    else:
        click.echo(table(rows, ["backbone", "spec_id", "state", "reason"]))
