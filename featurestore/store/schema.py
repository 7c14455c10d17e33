"""The tables: one literal description each. Adding a column or a table is adding a line here."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

_TIME = pa.timestamp("us")  # UTC without zone


@dataclass(frozen=True)
class TableSpec:
    """One table of the store.

    Parameters
    ----------
    name : str
        Also the folder under the store's root.
    schema : pyarrow.Schema
        Column names and types; ``comments`` gives what each means.
    key : tuple of str
        Columns that identify a row. Appending a row whose key is present changes nothing.
    partition_by : tuple of str
        Hive partition columns.
    """

    name: str
    key: tuple[str, ...]
    schema: pa.Schema
    partition_by: tuple[str, ...] = ()


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in columns.items()])


_S, _F32, _F64, _I16, _I32, _I64 = pa.string(), pa.float32(), pa.float64(), pa.int16(), pa.int32(), pa.int64()

_ALL = (
    TableSpec(
        "images",
        ("image_id",),
        _schema(
            image_id=_S,
            dataset=_S,
            source_key=_S,
            uri=_S,
            file_hash=_S,
            pixel_hash=_S,
            patient_id=_S,
            study_id=_S,
            view=_S,
            sex=_S,
            age=_F32,
            width=_I32,
            height=_I32,
            bits=_I16,
            official_part=_S,
            ingested_at=_TIME,
        ),
    ),
    TableSpec("labels", ("image_id", "label"), _schema(image_id=_S, dataset=_S, label=_S, value=pa.int8())),
    TableSpec(
        "rois",
        ("roi_id",),
        _schema(roi_id=_S, image_id=_S, label=_S, kind=_S, geometry=_S, width=_I32, height=_I32, source=_S),
    ),
    TableSpec(
        "rejects",
        ("dataset", "uri", "source_key", "image_id", "patient_id", "stage", "reason", "spec_id"),
        _schema(
            dataset=_S,
            uri=_S,
            source_key=_S,
            image_id=_S,
            patient_id=_S,
            stage=_S,
            reason=_S,
            retryable=pa.bool_(),
            spec_id=_S,
            run_id=_S,
            rejected_at=_TIME,
        ),
    ),
    TableSpec(
        "specs",
        ("spec_id",),
        _schema(
            spec_id=_S,
            backbone=_S,
            weights=_S,
            weights_sha256=_S,
            weights_source=_S,
            preprocess=_S,
            size=_I32,
            n_features=_I32,
            description=_S,
            runtime=_S,
            created_at=_TIME,
        ),
    ),
    TableSpec(
        "weights",
        # A registered name is taken once for all; a fingerprint that is only remembered carries its hash twice.
        ("name", "backbone", "remembered"),
        _schema(
            name=_S,
            backbone=_S,
            remembered=_S,
            variant=_S,
            sha256=_S,
            labels=pa.list_(_S),
            source=_S,
            licence=_S,
            preprocess=_S,
            trained_on=_S,
            made_with=_S,
            created_at=_TIME,
        ),
    ),
    TableSpec(
        "embeddings",
        ("backbone", "spec_id", "image_id"),
        _schema(backbone=_S, spec_id=_S, image_id=_S, run_id=_S, runtime=_S, embedding=pa.list_(_F32)),
        partition_by=("backbone", "spec_id"),
    ),
    TableSpec(
        "scores",
        ("backbone", "spec_id", "image_id", "label"),
        _schema(backbone=_S, spec_id=_S, image_id=_S, label=_S, probability=_F32, run_id=_S),
        partition_by=("backbone", "spec_id"),
    ),
    TableSpec(
        "splits",
        ("dataset", "split", "image_id"),
        _schema(dataset=_S, split=_S, image_id=_S, part=_S, fold=_I16, kind=_S, seed=_I64),
    ),
    TableSpec(
        "models",
        ("model_id",),
        _schema(
            model_id=_S,
            dataset=_S,
            approach=_S,
            head=_S,
            backbone=_S,
            spec_id=_S,
            weights=_S,
            split=_S,
            fold=_I16,
            seed=_I64,
            labels=pa.list_(_S),
            params=_S,
            digest=_S,
            n_train=_I64,
            fit_seconds=_F64,
            predict_seconds=_F64,
            versions=_S,
            tables=_S,
            run_id=_S,
            created_at=_TIME,
        ),
    ),
    TableSpec(
        "predictions",
        ("model_id", "image_id", "label"),
        _schema(model_id=_S, image_id=_S, label=_S, part=_S, fold=_I16, probability=_F64),
    ),
    TableSpec(
        "metrics",
        (
            "run_id",
            "dataset",
            "approach",
            "head",
            "backbone",
            "weights",
            "ensemble",
            "split",
            "part",
            "fold",
            "seed",
            "epoch",
            "label",
            "metric",
        ),
        _schema(
            run_id=_S,
            dataset=_S,
            approach=_S,
            head=_S,
            backbone=_S,
            weights=_S,
            ensemble=_S,
            split=_S,
            part=_S,
            fold=_I16,
            seed=_I64,
            epoch=_I32,
            label=_S,
            metric=_S,
            value=_F64,
            lo=_F64,
            hi=_F64,
            n=_I64,
            n_positive=_I64,
            n_positive_patients=_I64,
            note=_S,
            created_at=_TIME,
        ),
    ),
    TableSpec(
        "saliency",
        ("image_id", "spec_id", "model_id", "label", "method"),
        _schema(
            image_id=_S,
            spec_id=_S,
            model_id=_S,
            label=_S,
            method=_S,
            grid_height=_I16,
            grid_width=_I16,
            map=pa.list_(_F32),
            unit=_S,
            base=_F64,
            remainder=_F64,
            output=_F64,
            run_id=_S,
        ),
    ),
    TableSpec(
        "runs",
        ("run_id",),
        _schema(
            run_id=_S,
            command=_S,
            dataset=_S,
            arguments=_S,
            versions=_S,
            device=_S,
            counts=_S,
            seconds=_S,
            tables=_S,
            status=_S,
            started_at=_TIME,
            finished_at=_TIME,
        ),
    ),
    TableSpec(
        "tombstones",
        ("dataset", "kind", "salt", "hash"),
        _schema(dataset=_S, kind=_S, salt=_S, hash=_S, created_at=_TIME),
    ),
)

TABLES: dict[str, TableSpec] = {spec.name: spec for spec in _ALL}
"""Every table by name."""
