"""`cxr forget`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from jobs.cli.options import json_option, store_option
from jobs.cli.output import emit

if TYPE_CHECKING:
    from jobs.forget import Removed


@click.command("forget")
@store_option
@click.option("--patient", metavar="DATASET:ID", help="A person: all images, and everything derived from them.")
@click.option("--image", metavar="ID", help="One image: its image_id, 6 hex digits or more of it, or its source key.")
@click.option("--dataset", help="With --image: the data set a source key belongs to.")
@json_option
def command(store_uri: str, patient: str | None, image: str | None, dataset: str | None, as_json: bool) -> None:
    """Remove a person or an image from every table, and keep them from being ingested again.

    Old versions and their files still hold them until `cxr compact --purge`.
    """
    from featurestore.errors import UsageError
    from featurestore.store import Store
    from jobs.forget import forget_image, forget_patient

    if (patient is None) == (image is None):
        message = "give either --patient DATASET:ID or --image ID"
        raise UsageError(message)
    if patient is not None and dataset is not None:
        message = f"--dataset {dataset!r} goes with --image; a patient is named as DATASET:ID"
        raise UsageError(message)
    store = Store(store_uri).require()
    removed = forget_patient(store, patient) if patient else forget_image(store, image or "", dataset)
    if removed.undecided_rejects:
        click.echo(_undecided(removed), err=True)
    rows = ", ".join(f"{count} of {table}" for table, count in removed.rows.items()) or "none"
    sentence = f"rows removed: {rows}; old versions still hold them: run cxr compact --purge"
    document = {"rows_removed": removed.rows, "undecided_rejects": removed.undecided_rejects}
    emit(document, as_json=as_json, sentence=sentence)


def _undecided(removed: Removed) -> str:
    where = f"dataset = '{removed.dataset}' AND image_id IS NULL AND patient_id IS NULL"
    return (
        f"{removed.undecided_rejects} rejects of {removed.dataset} stay: they say neither of which image nor of which "
        f'patient they are. Look at them: cxr sql "SELECT source_key, uri, stage, reason FROM rejects WHERE {where}"; '
        f"what is this person's, remove: cxr forget --image SOURCE_KEY --dataset {removed.dataset}"
    )
