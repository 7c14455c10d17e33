"""What a source says about one image, before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Roi:
    """A region of interest in the frame ``width`` x ``height`` (pixels, origin top left).

    Parameters
    ----------
    label : str
        The finding it shows, in the data set's own words.
    kind : {"box", "polygon", "rle"}
        ``box``: ``[x, y, w, h]``; ``polygon``: list of ``[x0, y0, x1, y1, ...]``; ``rle``: COCO run lengths
        ``{"size": [height, width], "counts": [...]}`` (column-major, starting with the zeros) or its compressed string.
    geometry : str
        The above as JSON.
    width, height : int
        The frame the geometry is in, which need not be the stored image's size.
    source : str
        Where it came from, such as ``BBox_List_2017.csv``.
    """

    label: str
    kind: str
    geometry: str
    width: int
    height: int
    source: str


@dataclass(frozen=True)
class ImageRecord:
    """One image as its source describes it.

    Parameters
    ----------
    source_key : str
        Names the image inside its data set: a relative path with ``/``, or ``train/12``.
    uri : str
        Absolute path of the file, or ``/abs/file.npz#train/12``.
    patient_id, study_id : str or None
        None where the source does not say; each such image then counts as its own patient.
    view : str or None
        ``PA``, ``AP``, ``LATERAL`` or None.
    sex : str or None
        ``M``, ``F`` or None.
    age : float or None
        Years.
    official_part : str or None
        ``train``, ``val`` or ``test`` where the source publishes a split.
    labels : mapping of str to (1, 0, -1, None)
        1 present, 0 absent, -1 uncertain, None unmentioned; exactly as the source gave it.
    rois : tuple of Roi
    """

    source_key: str
    uri: str
    patient_id: str | None = None
    study_id: str | None = None
    view: str | None = None
    sex: str | None = None
    age: float | None = None
    official_part: str | None = None
    labels: Mapping[str, int | None] = field(default_factory=dict)
    rois: tuple[Roi, ...] = ()


@dataclass(frozen=True)
class Reject:
    """One thing a source could not use; it becomes a row of `rejects`.

    Parameters
    ----------
    uri : str
        The file, or file and row.
    source_key : str
    stage : str
        See `featurestore.errors.ImageRejected`.
    reason : str
        One sentence, without a patient's or study's id: `cxr forget` does not search it.
    retryable : bool
    patient_id : str or None
        Whose it is, where the source says; `cxr forget` finds it by this.
    """

    uri: str
    source_key: str
    stage: str
    reason: str
    retryable: bool = False
    patient_id: str | None = None


class Source(Protocol):
    """A place images come from. It streams; nothing is decoded here."""

    name: str

    def records(self) -> Iterator[ImageRecord | Reject]:
        """Yield every image, and every row that cannot be one.

        Raises
        ------
        featurestore.errors.UsageError
            Before the first yield, where the source as a whole cannot be used (no such folder, a missing column).
        """
        ...

    def count(self) -> int | None:
        """Return how many records to expect, for the progress bar, or None where it is not known cheaply."""
        ...
