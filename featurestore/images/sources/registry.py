"""A source by the name the command line gives it."""

from __future__ import annotations

from pathlib import Path

from featurestore.errors import UsageError
from featurestore.images.records import Source

KINDS = ("nih", "chexpert", "medmnist", "csv", "dicom", "phantom")


def make_source(
    kind: str,
    path: Path,
    *,
    rois: Path | None = None,
    image_column: str | None = None,
    patient_column: str | None = None,
    labels: tuple[str, ...] = (),
    sep: str | None = None,
    labels_csv: Path | None = None,
) -> Source:
    """Open a source.

    Parameters
    ----------
    kind : {"nih", "chexpert", "medmnist", "csv", "dicom", "phantom"}
    path : Path
        What each kind expects is said in its class and in its error.
    rois : Path, optional
        Regions of interest for any kind; see `featurestore.images.sources.rois.read_rois`. Phantoms bring their own.
    image_column, patient_column, sep : str, optional
        For ``csv``.
    labels : tuple of str
        Label columns for ``csv`` and for ``labels_csv``.
    labels_csv : Path, optional
        For ``dicom``.

    Returns
    -------
    featurestore.images.records.Source

    Raises
    ------
    featurestore.errors.UsageError
        For an unknown kind, or where the source as a whole cannot be used.
    """
    if kind == "csv":
        from featurestore.images.sources.table import TableSource

        source: Source = TableSource(path, image_column, patient_column, labels, sep)
    elif kind == "dicom":
        from featurestore.images.sources.dicom_folder import DicomSource

        source = DicomSource(path, labels_csv, labels)
    else:
        source = _published(kind, path)
    if rois is None and kind == "phantom":
        rois = _own_rois(path)
    if rois is None:
        return source
    from featurestore.images.sources.rois import WithRois, read_rois

    return WithRois(source, read_rois(rois))


def _published(kind: str, path: Path) -> Source:
    """Open one of the layouts that need nothing but a path."""
    if kind == "nih":
        from featurestore.images.sources.nih import NihSource

        return NihSource(path)
    if kind == "chexpert":
        from featurestore.images.sources.chexpert import ChexpertSource

        return ChexpertSource(path)
    if kind == "medmnist":
        from featurestore.images.sources.medmnist import MedmnistSource

        return MedmnistSource(path)
    if kind == "phantom":
        from featurestore.images.sources.phantom import PhantomSource

        return PhantomSource(path)
    raise UsageError(f"no source {kind!r}; there are {', '.join(KINDS)}")


def _own_rois(path: Path) -> Path | None:
    from featurestore.images.sources.phantom import ROIS

    return path / ROIS if (path / ROIS).is_file() else None
