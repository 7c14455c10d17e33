"""The job that forgets a person or an image: found, buried, removed from every table, logged without a name."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.errors import UsageError
from featurestore.store import Store
from featurestore.store.finding import (
    find_image,
    find_images,
    images_of_patient,
    rejected_keys,
    require_mentioned,
    undecided_rejects,
)
from featurestore.store.forgetting import Forgotten, count_rejects
from featurestore.store.forgetting import forget as forget_rows
from featurestore.store.lease import alone
from featurestore.store.tombstones import Tombstones
from jobs.runlog import record_run


@dataclass(frozen=True)
class Removed:
    """What a request to forget did.

    Parameters
    ----------
    dataset : str
    rows : dict of str to int
        Rows removed, by table.
    undecided_rejects : int
        Rejects of the data set that stay, as they say neither of which image nor of which person they are. Where one
        image was asked for there are none: its source key decides.
    """

    dataset: str
    rows: dict[str, int]
    undecided_rejects: int = 0


def forget_patient(store: Store, text: str) -> Removed:
    """Forget a person.

    Parameters
    ----------
    store : Store
    text : str
        ``DATASET:ID``.

    Raises
    ------
    featurestore.errors.UsageError
        For a text of another form, or a person of whom nothing is stored.
    featurestore.errors.StoppedError
        If anybody writes now.
    """
    dataset, colon, patient_id = text.partition(":")
    if not colon or not dataset or not patient_id:
        message = f"--patient {text!r}: expected DATASET:ID, such as nih:17"
        raise UsageError(message)
    require_mentioned(store, dataset)
    # Alone before looking: a job that ends in between would have added to what is found. And before the run is
    # announced, since that is itself a writer.
    with alone(store.location, "cxr forget"):
        images = tuple(images_of_patient(store, dataset, patient_id))
        forgotten = Forgotten(dataset, images, patient_id, tuple(rejected_keys(store, dataset, patient_id)))
        # Buried and gone: a request that was interrupted at its end, and is made again.
        known = count_rejects(store, forgotten) or Tombstones.of(store, dataset).hold("patient", patient_id)
        if not forgotten.images and not known:
            message = (
                f"no patient {patient_id!r} in data set {dataset!r} of the store at {store.uri}; give the id as in the "
                "column patient_id of the views images and rejects"
            )
            raise UsageError(message)
        rows = _forget(store, forgotten, "patient")
        return Removed(dataset, rows, undecided_rejects(store, dataset))


def forget_image(store: Store, text: str, dataset: str | None = None) -> Removed:
    """Forget one image.

    Parameters
    ----------
    store : Store
    text : str
        An image_id, at least 6 hex digits it starts with, or a source key; also of something that was rejected.
    dataset : str, optional
        Needed where a source key stands in several data sets, or among the rejects only.

    Raises
    ------
    featurestore.errors.UsageError
        For an image that is not there, or a text that means several.
    featurestore.errors.StoppedError
        If anybody writes now.
    """
    with alone(store.location, "cxr forget"):
        forgotten = _image(store, text, dataset)
        return Removed(forgotten.dataset, _forget(store, forgotten, "image"))


def _image(store: Store, text: str, dataset: str | None) -> Forgotten:
    if dataset is not None and not find_images(store, text, dataset):
        forgotten = Forgotten(dataset, (), source_keys=(text,))
        if count_rejects(store, forgotten):
            return forgotten
    image = find_image(store, text, dataset)
    return Forgotten(image.dataset, (image,))


def _forget(store: Store, forgotten: Forgotten, kind: str) -> dict[str, int]:
    arguments = {"kind": kind, "images": len(forgotten.images)}
    with record_run(store, "forget", forgotten.dataset, arguments) as run:
        removed = forget_rows(store, forgotten)
        run.counts = removed
    return removed
