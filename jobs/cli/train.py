"""`cxr train`."""

from __future__ import annotations

from dataclasses import asdict

import click

from jobs.cli.options import dataset_option, json_option, store_option
from jobs.cli.output import emit


@click.command("train")
@store_option
@dataset_option
@click.option("--split", required=True, help="A split made by cxr split.")
@click.option("--approach", type=click.Choice(["embeddings"]), default="embeddings", show_default=True)
@click.option("--heads", default="rf", show_default=True, help="Names with commas between: rf, rf100, extra_trees, ...")
@click.option("--backbones", default="all", show_default=True, help="Backbones or spec_ids with commas between.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@json_option
def command(
    store_uri: str, dataset: str, split: str, approach: str, heads: str, backbones: str, seed: int, as_json: bool
) -> int:
    """Fit heads on stored vectors: one per head and backbone (and fold). No image is read, no network is run."""
    from featurestore.store import Store
    from jobs.choose import stored_specs
    from jobs.train import TrainRequest, train

    store = Store(store_uri).require()
    store.require_dataset(dataset)
    names = [name.strip() for name in heads.split(",")]
    specs = stored_specs(store, dataset, backbones)
    summary = train(store, TrainRequest(dataset, split, names, specs, seeds=(seed,)))
    for problem in summary.problems:
        click.echo(f"No model: {problem}", err=True)
    sentence = (
        f"{summary.models} models fitted, {summary.cached} were stored, {summary.failed} failed, "
        f"{summary.seconds:.1f} s, {summary.images_read} images read"
    )
    emit(asdict(summary), as_json=as_json, sentence=sentence)
    return 1 if summary.failed else 0
