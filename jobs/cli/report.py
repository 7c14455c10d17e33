"""`cxr report`."""

from __future__ import annotations

from pathlib import Path

import click

from jobs.cli.options import check_out, json_option, store_option
from jobs.cli.output import emit


@click.command("report")
@store_option
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, callback=check_out,
    help="The HTML file to write.",
)  # fmt: skip
@click.option("--dataset", help="Data set [default: of the newest evaluation].")
@click.option("--split", help="Split [default: of the newest evaluation].")
@click.option("--part", type=click.Choice(["test", "val"]), default="test", show_default=True)
@click.option("--backbones", default="all", show_default=True, help="Backbones or spec_ids with commas between.")
@json_option
def command(
    store_uri: str, out: Path, dataset: str | None, split: str | None, part: str, backbones: str, as_json: bool
) -> None:
    """Write one self-contained HTML file about what was evaluated; it opens offline and shows no patient's pixels."""
    from featurestore.store import Store
    from jobs.write_report import write_report

    info = write_report(Store(store_uri).require(), out, dataset, split, part, backbones)
    document = {"path": str(info.path), "bytes": info.bytes, "seconds": info.seconds}
    emit(document, as_json=as_json, sentence=f"{info.path}: {info.bytes / 1e6:.1f} MB, {info.seconds:.1f} s")
