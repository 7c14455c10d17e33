"""`cxr weights`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from classifiers.cnn.hierarchy import hierarchies
from jobs.cli.options import check_out, json_option, store_option
from jobs.cli.output import emit, emit_json, table

if TYPE_CHECKING:
    from featurestore.backbones.registry import RegisteredWeights


@click.group("weights")
def command() -> None:
    """Weights that the store knows by name; `--weights NAME` uses them.

    Nothing is ever unpickled: safetensors are kept, Keras' HDF5 and torch's .pt are read once.
    """


@command.command("list")
@store_option
@json_option
def list_(store_uri: str, as_json: bool) -> None:
    """List the registered weights: one row for each name and backbone."""
    from featurestore.backbones.registry import registered
    from featurestore.store import Store

    _emit(registered(Store(store_uri).require()), as_json=as_json)


@command.command("show")
@click.argument("name")
@store_option
@click.option("--backbone", help="Only this one.")
@json_option
def show(name: str, store_uri: str, backbone: str | None, as_json: bool) -> None:
    """Say everything that is known of the weights NAME."""
    from featurestore.store import Store
    from jobs.weights import show_weights

    found = show_weights(Store(store_uri).require(), name, backbone)
    if as_json:
        emit_json([asdict(weights) for weights in found])
    else:
        click.echo("\n\n".join(_in_full(weights) for weights in found))


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="What to call them: lower-case letters, digits and _.")
@click.option("--backbone", required=True, help="Whose they are: a name, or module:SPEC.")
@click.option("--labels", help="The head's outputs in order, with commas between; CheXpert's for 14 where absent.")
@click.option(
    "--conditional", is_flag=False, flag_value="code", type=click.Choice(sorted(hierarchies())),
    help="The head was trained conditionally: its scores are multiplied along this hierarchy [if not named: code].",
)  # fmt: skip
@click.option("--source", help="Where they came from, for people.")
@click.option("--licence", help="A note on what may be done with them.")
@click.option("--preprocess", help="What images went through in training, such as 'bilinear-v1 at 224 px'.")
@store_option
@json_option
def import_(store_uri: str, as_json: bool, labels: str | None, **request: Any) -> None:
    """Read weights from FILE and keep them under a name, which is never overwritten.

    FILE is a Keras model or its weights (.hdf5, .h5), a torch state dict (.pt, .pth) or .safetensors.
    """
    from featurestore.store import Store
    from jobs.weights import ImportRequest, import_weights

    names = None if labels is None else [label.strip() for label in labels.split(",")]
    done = import_weights(Store(store_uri), ImportRequest(**request, labels=names))
    for note in done.notes:
        click.echo(f"{request['file'].name}: {note}", err=True)
    weights = done.weights
    head = f"head of {len(weights.labels)} labels" if weights.labels else "no head"
    sentence = f"{weights.name}: {weights.backbone} ({weights.variant}), {head}, sha256 {weights.sha256[:12]}"
    emit(asdict(weights) | {"notes": done.notes}, as_json=as_json, sentence=sentence)


@command.command("export")
@click.argument("name")
@click.option("--backbone", help="Which, where the name stands for several.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), callback=check_out,
    help="The .safetensors file to write.",
)  # fmt: skip
@store_option
@json_option
def export(name: str, backbone: str | None, out: Path, store_uri: str, as_json: bool) -> None:
    """Write the weights NAME as one safetensors file, which `cxr weights import` and `--weights PATH` take."""
    from featurestore.store import Store
    from jobs.weights import export_weights

    weights, size = export_weights(Store(store_uri).require(), name, backbone, out)
    document = asdict(weights) | {"path": str(out), "bytes": size}
    emit(document, as_json=as_json, sentence=f"{out}: {weights.name} of {weights.backbone}, {size / 2**20:.1f} MiB")


_COLUMNS = ("name", "backbone", "variant", "sha256", "labels", "source")


def _emit(found: list[RegisteredWeights], *, as_json: bool) -> None:
    if as_json:
        emit_json([asdict(weights) for weights in found])
    elif found:
        click.echo(table([_short(weights) for weights in found], _COLUMNS))
    else:
        click.echo("no weights are registered; cxr weights import FILE --name NAME --backbone BACKBONE does that")


def _short(weights: RegisteredWeights) -> dict[str, Any]:
    return asdict(weights) | {"sha256": weights.sha256[:12], "labels": len(weights.labels)}


def _in_full(weights: RegisteredWeights) -> str:
    known = asdict(weights) | {"labels": ", ".join(weights.labels) or "none: no head"}
    return "\n".join(f"{key:<11}{'unknown' if value is None else value}" for key, value in known.items())
