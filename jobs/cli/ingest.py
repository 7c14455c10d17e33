"""`cxr ingest`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from featurestore.images.sources.registry import KINDS
from jobs.cli.options import json_option, store_option
from jobs.cli.output import emit


@click.command("ingest")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("path", type=click.Path(path_type=Path))
@store_option
@click.option("--dataset", help="Name of the data set [default: the kind's name].")
@click.option("--rois", type=click.Path(path_type=Path), help="COCO or CheXlocalize JSON, or a folder of mask PNGs.")
@click.option("--image-column", default="path", show_default=True, help="csv: the column of image paths.")
@click.option("--patient-column", help="csv: the column of patient ids; without it each image is its own patient.")
@click.option("--labels", help="csv: label columns, with commas between.")
@click.option("--sep", help="csv: the separator [default: a comma, or a tab in a .tsv].")
@click.option("--labels-csv", type=click.Path(path_type=Path), help="dicom: a table of labels.")
@click.option("--patients", type=click.IntRange(1), default=60, show_default=True, help="phantom: how many to make.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="phantom: seed.")
@click.option("--hospital", type=click.Choice(["a", "b"]), default="a", show_default=True, help="phantom: which.")
@click.option("--format", "image_format", type=click.Choice(["png", "dicom"]), default="png", show_default=True)
@json_option
def command(store_uri: str, as_json: bool, **arguments: object) -> None:
    """Read images and labels of KIND from PATH into the store.

    PATH is: nih, a folder with images/ and Data_Entry_2017.csv; chexpert and csv, the CSV file; medmnist, the .npz;
    dicom, a folder; phantom, the folder to write generated radiographs to.
    """
    from featurestore.store import Store
    from jobs.ingest import IngestRequest, ingest

    summary = ingest(Store(store_uri), IngestRequest(**arguments))  # type: ignore[arg-type]
    sentence = (
        f"{summary.dataset}: {summary.images} images, {summary.labels} labels, {summary.rois} regions of interest, "
        f"{summary.rejected} rejected, {summary.seconds:.1f} s"
    )
    if summary.rejected:
        query = f"SELECT uri, stage, reason FROM rejects WHERE dataset = '{summary.dataset}'"
        click.echo(f'Why some were rejected: cxr sql --store {store_uri} "{query}"', err=True)
    emit(asdict(summary), as_json=as_json, sentence=sentence)
