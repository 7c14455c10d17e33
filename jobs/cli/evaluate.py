"""`cxr evaluate`."""

from __future__ import annotations

import click

from jobs.cli.options import dataset_option, json_option, store_option
from jobs.cli.output import emit_json


@click.command("evaluate")
@store_option
@dataset_option
@click.option("--split", required=True, help="A split made by cxr split.")
@click.option("--part", type=click.Choice(["test", "val"]), default="test", show_default=True)
@click.option("--unit", type=click.Choice(["image"]), default="image", show_default=True, help="Unit of analysis.")
@click.option("--backbones", default="all", show_default=True, help="Backbones or spec_ids with commas between.")
@click.option(
    "--label-map", help="hum_cxr, or a YAML file: which of the networks' own scores a label is the maximum of."
)
@click.option("--finetuned", help="Names of fine-tuned weights with commas between [default: all].")
@json_option
def command(
    store_uri: str,
    dataset: str,
    split: str,
    part: str,
    unit: str,
    backbones: str,
    label_map: str | None,
    finetuned: str | None,
    as_json: bool,
) -> None:
    """Compute AUC with patient-clustered intervals for every approach, and for both ensembles over backbones."""
    from classifiers.label_map import read_label_map
    from featurestore.store import Store
    from jobs.choose import fitted_specs
    from jobs.evaluate import evaluate, rows_for_json, text_tables

    store = Store(store_uri).require()
    store.require_dataset(dataset)
    evaluation = evaluate(
        store,
        dataset,
        split,
        part,
        unit=unit,
        specs=fitted_specs(store, dataset, split, backbones),
        label_map=read_label_map(label_map) if label_map else None,
        finetuned=[name.strip() for name in finetuned.split(",")] if finetuned else None,
    )
    if as_json:
        emit_json(rows_for_json(evaluation))
    else:
        click.echo(text_tables(evaluation))
