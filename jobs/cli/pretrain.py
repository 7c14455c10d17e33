"""`cxr pretrain`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from classifiers.cnn.recipe import PRESETS
from jobs.cli.options import dataset_option, json_option, store_option
from jobs.cli.output import emit_json, table
from jobs.cli.training_options import training_options

_SHOWN = ("name", "backbone", "epochs", "seconds", "images_per_second", "val_auc", "source")


@click.command("pretrain")
@store_option
@dataset_option
@click.option("--split", help="A holdout split [default: one named pretrain, cut by patient, is made and frozen].")
@training_options(
    PRESETS,
    weights="Initial ones: imagenet, random:SEED, a name, a file or a folder [default: the preset's].",
    uncertainty="u-ones-lsr",
    epochs="Of each phase [default: the preset's].",
    name="DATASET_PRESET",
)
@json_option
def command(store_uri: str, as_json: bool, address: str | None, no_ray: bool, **request: Any) -> None:
    """Train CNNs on a source data set's labels; the same command goes on where an earlier one was stopped.

    The networks end in the store's registry (cxr weights list), where --weights NAME finds them.
    """
    from featurestore.store import Store
    from jobs.pretrain import pretrain
    from jobs.pretrain_request import PretrainRequest
    from jobs.workers import Workers

    store = Store(store_uri).require()
    with Workers(use_ray=not no_ray, address=address) as workers:
        done = pretrain(
            store,
            PretrainRequest(**request),
            workers,
            say=lambda text: click.echo(text, err=True),
        )
    rows = [asdict(row) for row in done]
    if as_json:
        emit_json(rows)
    else:
        click.echo(table(rows, _SHOWN))
