"""`cxr split`."""

from __future__ import annotations

import click

from jobs.cli.options import dataset_option, json_option, store_option
from jobs.cli.output import emit


@click.command("split")
@store_option
@dataset_option
@click.option("--name", required=True, help="Name of the split; it is frozen under it.")
@click.option("--kind", type=click.Choice(["holdout", "kfold", "official"]), default="holdout", show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--test", type=float, default=0.2, show_default=True, help="holdout: share of the patients.")
@click.option("--val", type=float, default=0.1, show_default=True, help="holdout: share of the patients.")
@click.option("--folds", type=int, default=5, show_default=True, help="kfold: how many.")
@click.option("--lateral", is_flag=True, help="Lateral views too; frontal ones only without it.")
@json_option
def command(store_uri: str, dataset: str, name: str, kind: str, lateral: bool, as_json: bool, **request: float) -> None:
    """Divide a data set by patient, stratified over its labels, and freeze the division under a name."""
    from classifiers.splits import make_split
    from featurestore.store import Store

    parts = make_split(
        Store(store_uri).require(), dataset, name, kind, frontal_only=not lateral, **request  # type: ignore[arg-type]
    )  # fmt: skip
    counts = ", ".join(f"{part} {c['images']} images of {c['patients']} patients" for part, c in parts.items())
    emit({"split": name, "parts": parts}, as_json=as_json, sentence=f"{name}: {counts}")
