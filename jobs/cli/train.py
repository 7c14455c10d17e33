"""`cxr train`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from classifiers.approaches import APPROACHES, EMBEDDINGS, STACKER, STACKING_A
from jobs.cli.options import dataset_option, json_option, store_option
from jobs.cli.output import emit


@click.command("train")
@store_option
@dataset_option
@click.option("--split", required=True, help="A split made by cxr split.")
@click.option(
    "--approach", type=click.Choice(APPROACHES), default=EMBEDDINGS, show_default=True,
    help="Heads on vectors, on the source networks' scores (a), or a forest on local heads (b).",
)  # fmt: skip
@click.option("--in-sample", is_flag=True, help="stacking-b: as the published code, which leaks.")
@click.option("--concatenate", is_flag=True, help="embeddings: one head on all backbones' vectors side by side.")
@click.option("--heads", help="Names with commas between, or module:factory [default: rf; of stacking-a rf_stacking].")
@click.option("--backbones", default="all", show_default=True, help="Backbones or spec_ids with commas between.")
@click.option("--label-map", help="hum_cxr, or a YAML file: each new label the maximum over a list of labels.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@json_option
def command(
    store_uri: str,
    dataset: str,
    split: str,
    heads: str | None,
    backbones: str,
    label_map: str | None,
    seed: int,
    as_json: bool,
    **how: Any,
) -> int:
    """Fit heads on stored vectors: one per head and backbone (and fold). No image is read, no network is run."""
    from classifiers.label_map import read_label_map
    from featurestore.store import Store
    from jobs.choose import stored_specs
    from jobs.train import TrainRequest, train

    store = Store(store_uri).require()
    store.require_dataset(dataset)
    default = STACKER if how["approach"] == STACKING_A else "rf"
    names = [name.strip() for name in (heads or default).split(",")]
    specs = stored_specs(store, dataset, backbones)
    groups = read_label_map(label_map) if label_map else None
    summary = train(store, TrainRequest(dataset, split, names, specs, seeds=(seed,), label_map=groups, **how))
    for problem in summary.problems:
        click.echo(f"No model: {problem}", err=True)
    sentence = (
        f"{summary.models} models fitted, {summary.cached} were stored, {summary.failed} failed, "
        f"{summary.seconds:.1f} s, {summary.images_read} images read"
    )
    emit(asdict(summary), as_json=as_json, sentence=sentence)
    return 1 if summary.failed else 0
