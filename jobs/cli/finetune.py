"""`cxr finetune`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from classifiers.cnn.hierarchy import hierarchies
from classifiers.cnn.recipe import AUGMENTATIONS
from classifiers.cnn.targets import POLICIES
from classifiers.cnn.tuning import TUNINGS
from jobs.cli.options import address_option, dataset_option, json_option, store_option
from jobs.cli.output import emit_json, table

_SHOWN = ("name", "backbone", "chosen", "epochs", "seconds", "images_per_second", "val_auc", "scored")


@click.command("finetune")
@store_option
@dataset_option
@click.option("--split", required=True, help="A holdout split with a part val: the one other approaches are fitted on.")
@click.option("--backbones", default="all", show_default=True, help="all, or names with commas between.")
@click.option(
    "--weights", help="Of the source networks: a name, imagenet, random:SEED, a file or a folder [default: imagenet]."
)
@click.option("--label-map", help="hum_cxr, or a YAML file: each new label the maximum over a list of labels.")
@click.option("--uncertainty", type=click.Choice(POLICIES), help="What -1 counts as [default: u-ones].")
@click.option(
    "--conditional", is_flag=False, flag_value="code", type=click.Choice(sorted(hierarchies())),
    help="Train in two phases, first each label where its parents are present [the hierarchy, if not named: code].",
)  # fmt: skip
@click.option("--augment", type=click.Choice(AUGMENTATIONS), help="[default: none]")
@click.option("--size", type=click.IntRange(1), help="Side of the network's input in pixels [default: the preset's].")
@click.option("--epochs", type=click.IntRange(1), help="At most, of each trial [default: the preset's].")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option("--preset", type=click.Choice(list(TUNINGS)), default="paper", show_default=True)
@click.option("--workers", type=click.IntRange(1), help="Processes that train together [default: one a GPU, or one].")
@click.option("--name", help="Of the weights this makes [default: DATASET_finetuned_PRESET].")
@address_option
@click.option("--no-ray", is_flag=True, help="Everything in this process.")
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
