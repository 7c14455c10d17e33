"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from featurestore.backbones.runtimes import KINDS

F = TypeVar("F", bound=Callable[..., Any])


def _check_store(_context: click.Context, _parameter: click.Parameter, uri: str) -> str:
    if not uri.strip():
        message = "it is blank; name a folder such as ./store"
        raise click.BadParameter(message)
    if "://" not in uri:
        _check_can_be_made(Path(uri), writable=False)
    return uri


def check_out(_context: click.Context, _parameter: click.Parameter, out: Path | None) -> Path | None:
    """Refuse at once a file that could not be written when the work is done."""
    if out is not None:
        _check_can_be_made(out, writable=True)
    return out


def _check_can_be_made(path: Path, *, writable: bool) -> None:
    if path.exists():
        return
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not nearest.is_dir():
        message = f"{path} cannot be made: {nearest} is a file; name a path below a folder"
        raise click.BadParameter(message)
    if writable and not os.access(nearest, os.W_OK):
        message = f"{path} cannot be made: {nearest} is not writable; name a folder of your own"
        raise click.BadParameter(message)


store_option = click.option(
    "--store", "store_uri", envvar="CXR_STORE", default="./store", show_default=True, callback=_check_store,
    help="The store's folder.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, all else on stderr.")
address_option = click.option(
    "--address",
    help="A Ray cluster: HOST:PORT, auto for the one on this machine, local for a private one "
    "[default: $RAY_ADDRESS, which a submitted job has, else local].",
)
dataset_option = click.option("--dataset", required=True, help="Name of the data set.")


def extraction_options(function: F) -> F:
    """Add what says which vectors are meant, and where they are computed."""
    for option in reversed(
        [
            click.option("--backbones", default="all", show_default=True, help="all, or names with commas between."),
            click.option(
                "--weights",
                default="imagenet",
                show_default=True,
                help="imagenet, random:SEED, a name of cxr weights list, a file or a folder.",
            ),
            click.option("--preprocess", default="bilinear-v1", show_default=True, help="Or chest-crop-v1."),
            click.option("--size", default=224, show_default=True, help="Side of the network's input in pixels."),
            click.option("--retry-rejects", is_flag=True, help="Try again what failed for a reason that may pass."),
            click.option(
                "--precision",
                default="float32",
                show_default=True,
                type=click.Choice(["float32", "float16", "bfloat16"]),
                help="Of the networks; half precision is for GPUs and makes other vectors, under a spec of their own.",
            ),
            click.option(
                "--runtime",
                default="auto",
                show_default=True,
                type=click.Choice(["auto", *KINDS]),
                help="What computes the networks; auto tries them where many images are pending.",
            ),
            # Not shown: the default suits everybody but tests, which need several shards of few images.
            click.option("--shard-images", default=0, type=click.IntRange(0, 256), hidden=True),
            address_option,
            click.option("--no-ray", is_flag=True, help="Everything in this process."),
        ]
    ):
        function = option(function)
    return function
