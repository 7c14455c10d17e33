"""`cxr run`."""

from __future__ import annotations

from pathlib import Path

import click

from jobs.cli.options import address_option, check_out, json_option, store_option
from jobs.cli.run_output import run_and_print


@click.command("run")
@click.argument("experiment")
@store_option
@click.option("--data", type=click.Path(path_type=Path), help="The images: what cxr ingest calls PATH.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), callback=check_out,
    help="The report [default: EXPERIMENT.html].",
)  # fmt: skip
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key, as in extract.size=128.")
@address_option
@click.option("--no-ray", is_flag=True, help="Everything in this process.")
@json_option
def command(
    experiment: str,
    store_uri: str,
    data: Path | None,
    out: Path | None,
    overrides: tuple[str, ...],
    address: str | None,
    no_ray: bool,
    as_json: bool,
) -> int:
    """Run EXPERIMENT, the name of a shipped one or a YAML file: ingest, extract, split, train, evaluate, report."""
    from jobs.experiment import load_experiment

    loaded = load_experiment(experiment, overrides, data)
    out = out or Path(f"{loaded.name}.html")
    return run_and_print(loaded, store_uri, out, use_ray=not no_ray, address=address, as_json=as_json)
