"""The ingest job: make a source, read it into the store, log the run."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal

from featurestore.images.sources.registry import make_source
from featurestore.ingest import ingest as ingest_source
from featurestore.names import check_name
from featurestore.store import Store
from jobs.progress import progress
from jobs.runlog import record_run


@dataclass(frozen=True)
class IngestRequest:
    """What to ingest; see `cxr ingest --help`."""

    kind: str
    path: Path
    dataset: str | None = None
    rois: Path | None = None
    image_column: str = "path"
    patient_column: str | None = None
    labels: str | None = None
    sep: str | None = None
    labels_csv: Path | None = None
    patients: int = 60
    seed: int = 0
    hospital: Literal["a", "b"] = "a"
    image_format: Literal["png", "dicom"] = "png"

    def for_the_record(self) -> dict[str, object]:
        """Return the fields without paths: a folder can be named after a patient, and `runs` goes into reports."""
        return {key: value for key, value in asdict(self).items() if not isinstance(value, Path)}

    @property
    def name(self) -> str:
        """Return the data set's name: as given, else after the source."""
        if self.dataset:
            return self.dataset
        return f"phantom_{self.hospital}" if self.kind == "phantom" else self.kind


@dataclass(frozen=True)
class IngestSummary:
    """What an ingest found; rows stored by an earlier one count too."""

    dataset: str
    images: int
    labels: int
    rois: int
    rejected: int
    seconds: float


def ingest(store: Store, request: IngestRequest) -> IngestSummary:
    """Read one source into the store.

    Raises
    ------
    featurestore.errors.UsageError
        For a path, column or name that cannot be used.
    """
    start = perf_counter()
    check_name(request.name, "data set")
    _write_phantoms(request)
    source = make_source(
        request.kind,
        request.path,
        rois=request.rois,
        image_column=request.image_column,
        patient_column=request.patient_column,
        labels=tuple(label.strip() for label in (request.labels or "").split(",") if label.strip()),
        sep=request.sep,
        labels_csv=request.labels_csv,
    )
    with record_run(store, "ingest", request.name, request.for_the_record()) as run:
        with progress("ingest", source.count(), "images") as bar:
            counts = ingest_source(
                store, request.name, source, run_id=run.run_id, threads=os.cpu_count() or 1, advance=bar.update
            )
        run.counts = asdict(counts)
        run.seconds["ingest"] = perf_counter() - start
    return IngestSummary(request.name, **asdict(counts), seconds=perf_counter() - start)


def _write_phantoms(request: IngestRequest) -> None:
    if request.kind != "phantom":
        return
    from featurestore.images.phantoms import write_phantoms

    with progress("phantoms", request.patients, "patients") as bar:

        def advance(done: int, _total: int) -> None:
            bar.update(done - bar.n)

        write_phantoms(
            request.path,
            patients=request.patients,
            seed=request.seed,
            hospital=request.hospital,
            fmt=request.image_format,
            progress=advance,
        )
