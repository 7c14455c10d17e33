"""`cxr pretrain`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from classifiers.cnn.hierarchy import hierarchies
from classifiers.cnn.recipe import AUGMENTATIONS, PRESETS
from classifiers.cnn.targets import POLICIES
from jobs.cli.options import address_option, dataset_option, json_option, store_option
from jobs.cli.output import emit_json, table

_SHOWN = ("name", "backbone", "epochs", "seconds", "images_per_second", "val_auc", "source")


@click.command("pretrain")
@store_option
@dataset_option
@click.option("--split", help="A holdout split [default: one named pretrain, cut by patient, is made and frozen].")
@click.option("--backbones", default="all", show_default=True, help="all, or names with commas between.")
@click.option(
    "--weights", help="Initial ones: imagenet, random:SEED, a name, a file or a folder [default: the preset's]."
)
@click.option("--label-map", help="hum_cxr, or a YAML file: each new label the maximum over a list of labels.")
@click.option("--uncertainty", type=click.Choice(POLICIES), help="What -1 counts as [default: u-ones-lsr].")
@click.option(
    "--conditional", is_flag=False, flag_value="code", type=click.Choice(sorted(hierarchies())),
    help="Train in two phases, first each label where its parents are present [the hierarchy, if not named: code].",
)  # fmt: skip
@click.option("--augment", type=click.Choice(AUGMENTATIONS), help="[default: none]")
@click.option("--size", type=click.IntRange(1), help="Side of the network's input in pixels [default: the preset's].")
@click.option("--epochs", type=click.IntRange(1), help="Of each phase [default: the preset's].")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option("--preset", type=click.Choice(list(PRESETS)), default="paper", show_default=True)
@click.option("--workers", type=click.IntRange(1), help="Processes that train together [default: one a GPU, or one].")
@click.option("--name", help="Of the weights this makes [default: DATASET_PRESET].")
@address_option
@click.option("--no-ray", is_flag=True, help="Everything in this process.")
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
