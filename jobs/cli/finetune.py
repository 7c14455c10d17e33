"""`cxr finetune`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from classifiers.cnn.tuning import TUNINGS
from jobs.cli.options import dataset_option, json_option, store_option
from jobs.cli.output import emit_json, table
from jobs.cli.training_options import training_options

_SHOWN = ("name", "backbone", "chosen", "epochs", "seconds", "images_per_second", "val_auc", "scored")


@click.command("finetune")
@store_option
@dataset_option
@click.option("--split", required=True, help="A holdout split with a part val: the one other approaches are fitted on.")
@training_options(
    TUNINGS,
    weights="Of the source networks: a name, imagenet, random:SEED, a file or a folder [default: imagenet].",
    uncertainty="u-ones",
    epochs="At most, of each trial [default: the preset's].",
    name="DATASET_finetuned_PRESET",
)
@json_option
def command(store_uri: str, as_json: bool, address: str | None, no_ray: bool, **request: Any) -> None:
    """Carry source networks to a data set's own labels, and score all its images; goes on where it was stopped.

    paper trains as the published code does; fair tries several depths and rates and keeps the best on validation.
    """
    from featurestore.store import Store
    from jobs.finetune import finetune
    from jobs.finetune_request import FinetuneRequest
    from jobs.workers import Workers

    store = Store(store_uri).require()
    with Workers(use_ray=not no_ray, address=address) as workers:
        done = finetune(
            store,
            FinetuneRequest(**request),
            workers,
            say=lambda text: click.echo(text, err=True),
        )
    rows = [asdict(row) for row in done]
    if as_json:
        emit_json(rows)
    else:
        click.echo(table(rows, _SHOWN))
