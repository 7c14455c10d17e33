"""From a request to identified specs: fingerprints registered, remembered where the name fixes them, or computed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from featurestore.backbones.catalogue import BackboneSpec
from featurestore.backbones.requests import Requested, requested
from featurestore.backbones.spec import ExtractionSpec
from featurestore.backbones.weights import WeightsRequest
from featurestore.errors import UsageError
from featurestore.extraction.resolve import made_with, resolve
from featurestore.images.preprocess import get_preprocess
from featurestore.store import Store
from jobs.runlog import utc_now
from jobs.workers import Workers


@dataclass(frozen=True)
class ResolvedSpec:
    """One backbone whose weights are known.

    Parameters
    ----------
    backbone : BackboneSpec
        In the flavour of its weights.
    request : WeightsRequest
    spec : ExtractionSpec
    source : str
        For a person: where the weights came from.
    labels : list of str
        Outputs of the weights' head; empty without one.
    """

    backbone: BackboneSpec
    request: WeightsRequest
    spec: ExtractionSpec
    source: str
    labels: list[str]


def resolve_specs(
    store: Store, backbones: str, weights: str, preprocess: str, size: int, workers: Workers, precision: str = "float32"
) -> list[ResolvedSpec]:
    """Identify what is to be extracted.

    Parameters
    ----------
    store : Store
        Its `weights` table is the cache of fingerprints.
    backbones, weights, preprocess : str
        As on the command line.
    size : int
        Pixels.
    workers : Workers
        Compute fingerprints that are not known yet.
    precision : str
        Of the forward pass.

    Raises
    ------
    UsageError
        For a size below a backbone's smallest, unknown names, weights that cannot be had.
    """
    chosen = requested(store, backbones, weights)
    _check_size([asked.backbone for asked in chosen], size)
    described = get_preprocess(preprocess).describe(size)
    known = _fingerprints(store, chosen, workers)
    return [
        ResolvedSpec(
            b.backbone,
            b.request,
            ExtractionSpec(b.backbone, row["sha256"], described, precision),
            row["source"],
            row["labels"],
        )
        for b in chosen
        for row in [known[b.backbone.name]]
    ]


def register(store: Store, specs: Sequence[ResolvedSpec]) -> None:
    """Write specs and weights into the store's tables, once."""
    now = utc_now()
    store.append("specs", pa.Table.from_pylist([_spec_row(s) | {"created_at": now} for s in specs]))


def _spec_row(resolved: ResolvedSpec) -> dict[str, Any]:
    description = resolved.spec.description()
    return {
        "spec_id": resolved.spec.spec_id,
        "backbone": resolved.backbone.name,
        "weights": resolved.request.name,
        "weights_sha256": resolved.spec.weights_sha256,
        "weights_source": resolved.source,
        "preprocess": description["preprocess"]["name"],
        "size": description["preprocess"]["size"],
        "n_features": resolved.backbone.n_features,
        "description": json.dumps(description, sort_keys=True),
    }


def _check_size(backbones: Sequence[BackboneSpec], size: int) -> None:
    for backbone in backbones:
        if size < backbone.min_size:
            message = f"--size {size}: {backbone.name} needs at least {backbone.min_size} px; 224 is the paper's size"
            raise UsageError(message)


def _fingerprints(store: Store, chosen: Sequence[Requested], workers: Workers) -> dict[str, dict[str, Any]]:
    libraries = json.dumps(made_with(), sort_keys=True)
    requests = {asked.backbone.name: asked.request for asked in chosen}
    found = _registered(chosen) | _cached(store, requests, libraries)
    missing = [(b.backbone, b.request) for b in chosen if b.backbone.name not in found]
    if missing:
        rows = workers.call(resolve, missing)
        found |= {row["backbone"]: row for row in rows}
        _remember(store, rows, chosen, libraries)
    return found


def _registered(chosen: Sequence[Requested]) -> dict[str, dict[str, Any]]:
    return {
        weights.backbone: {"sha256": weights.sha256, "labels": weights.labels, "source": weights.source}
        for weights in (asked.registered for asked in chosen)
        if weights is not None
    }


def _cached(store: Store, requests: dict[str, WeightsRequest], libraries: str) -> dict[str, dict[str, Any]]:
    rows = store.query(
        "SELECT name, backbone, sha256, labels, source FROM weights WHERE made_with = ? AND remembered IS NOT NULL",
        [libraries],
    ).to_pylist()
    return {
        row["backbone"]: row | {"labels": row["labels"] or []}
        for row in rows
        for request in [requests.get(row["backbone"])]
        if request and request.cacheable and request.name == row["name"]
    }


def _remember(store: Store, rows: list[dict[str, Any]], chosen: Sequence[Requested], libraries: str) -> None:
    now, asked = utc_now(), {b.backbone.name: b for b in chosen}
    store.append(
        "weights",
        pa.Table.from_pylist(
            [
                {
                    "name": asked[row["backbone"]].request.name,
                    "backbone": row["backbone"],
                    "remembered": row["sha256"],
                    "variant": asked[row["backbone"]].backbone.variant,
                    "sha256": row["sha256"],
                    "labels": row["labels"],
                    "source": row["source"],
                    "made_with": libraries,
                    "created_at": now,
                }
                for row in rows
            ]
        ),
    )
