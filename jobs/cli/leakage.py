"""`cxr leakage`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from jobs.cli.options import dataset_option, json_option, store_option
from jobs.cli.output import emit_json, table

if TYPE_CHECKING:
    from classifiers.leakage import Leakage


@click.command("leakage")
@store_option
@dataset_option
@click.option("--split", help="A split made by cxr split [default: the parts that the source published].")
@click.option(
    "--backbones", default="all", show_default=True, help="Whose vectors find near-duplicates; the first that has some."
)
@json_option
def command(store_uri: str, dataset: str, split: str | None, backbones: str, as_json: bool) -> None:
    """Count what the parts of a data set share: patients, identical pixels, near-duplicates, pretraining images.

    Findings are no error: what to do about them is yours to decide.
    """
    from classifiers.leakage import find_leakage
    from featurestore.store import Store
    from jobs.choose import any_spec

    store = Store(store_uri).require()
    found = find_leakage(store, dataset, split, any_spec(store, dataset, backbones))
    if as_json:
        emit_json(asdict(found))
    else:
        click.echo(_text(found))


def _text(found: Leakage) -> str:
    pairs = [
        {
            "parts": pair,
            "patients": _or_unknown(found.patient_overlap[pair]),
            "identical pictures": found.identical_pixels[pair],
            "near-duplicates": _or_unknown(found.near_duplicates[pair]),
        }
        for pair in found.identical_pixels
    ]
    within = [{"part": part, "images": n, "surplus copies": found.within[part]} for part, n in found.parts.items()]
    seen = [
        {"weights": name, **(overlap if isinstance(overlap, dict) else {"images": overlap, "patients": overlap})}
        for name, overlap in found.pretraining_overlap.items()
    ]
    texts = [
        "Shared between parts:", table(pairs, ("parts", "patients", "identical pictures", "near-duplicates")),
        "Copies within a part:", table(within, ("part", "images", "surplus copies")),
    ]  # fmt: skip
    if found.near_duplicates_by:
        texts.append(f"Near-duplicates by {found.near_duplicates_by}.")
    if seen:
        texts += ["Seen in pretraining:", table(seen, ("weights", "images", "patients"))]
    return "\n\n".join(texts)


def _or_unknown(count: int | None) -> str:
    return "unknowable" if count is None else str(count)
