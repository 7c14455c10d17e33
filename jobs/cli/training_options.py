"""Options of the commands that train networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from classifiers.cnn.hierarchy import hierarchies
from classifiers.cnn.recipe import AUGMENTATIONS
from classifiers.cnn.targets import POLICIES
from jobs.cli.options import address_option

F = TypeVar("F", bound=Callable[..., Any])


def training_options(
    presets: Iterable[str], *, weights: str, uncertainty: str, epochs: str, name: str
) -> Callable[[F], F]:
    """Return a decorator that adds them; the texts say what differs between the commands."""
    options = [
        click.option("--backbones", default="all", show_default=True, help="all, or names with commas between."),
        click.option("--weights", help=weights),
        click.option("--label-map", help="hum_cxr, nih, or a YAML file: each label the maximum over a list of labels."),
        click.option("--uncertainty", type=click.Choice(POLICIES), help=f"What -1 counts as [default: {uncertainty}]."),
        click.option(
            "--conditional", is_flag=False, flag_value="code", type=click.Choice(sorted(hierarchies())),
            help="Two phases, first each label where its parents are present [the hierarchy, if not named: code].",
        ),
        click.option("--augment", type=click.Choice(AUGMENTATIONS), help="[default: none]"),
        click.option("--size", type=click.IntRange(1), help="Side of the input in pixels [default: the preset's]."),
        click.option("--epochs", type=click.IntRange(1), help=epochs),
        click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True),
        click.option("--preset", type=click.Choice(list(presets)), default="paper", show_default=True),
        click.option(
            "--workers", type=click.IntRange(1), help="Processes that train together [default: one a GPU, or one]."
        ),
        click.option("--name", help=f"Of the weights this makes [default: {name}]."),
        address_option,
        click.option("--no-ray", is_flag=True, help="Everything in this process."),
    ]  # fmt: skip

    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add
