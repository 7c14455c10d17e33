"""`cxr demo`."""

from __future__ import annotations

from pathlib import Path

import click

from jobs.cli.options import json_option
from jobs.cli.run_output import run_and_print


@click.command("demo")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), default="demo", show_default=True,
    help="Where phantoms, store and report go.",
)  # fmt: skip
@click.option("--no-ray", is_flag=True, help="Everything in this process.")
@json_option
def command(folder: Path, no_ray: bool, as_json: bool) -> int:
    """Run the main job on generated radiographs, offline, and leave FOLDER/report.html."""
    from jobs.experiment import load_experiment

    experiment = load_experiment("demo")
    store = str(folder / "store")
    return run_and_print(experiment, store, folder / "report.html", use_ray=not no_ray, address=None, as_json=as_json)
