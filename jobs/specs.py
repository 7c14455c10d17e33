"""From a request to identified specs: weights' fingerprints, cached where their name alone fixes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from featurestore.backbones.catalogue import BackboneSpec, parse_backbones
from featurestore.backbones.spec import ExtractionSpec
from featurestore.backbones.weights import WeightsRequest, parse_weights
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
    store: Store, backbones: str, weights: str, preprocess: str, size: int, workers: Workers
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

    Raises
    ------
    UsageError
        For a size below a backbone's smallest, unknown names, weights that cannot be had.
    """
    chosen = parse_backbones(backbones)
    _check_size(chosen, size)
    requests = parse_weights(weights, chosen)
    described = get_preprocess(preprocess).describe(size)
    known = _fingerprints(store, chosen, requests, workers)
    return [
        ResolvedSpec(b, requests[b.name], ExtractionSpec(b, row["sha256"], described), row["source"], row["labels"])
        for b in chosen
        for row in [known[b.name]]
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


def _fingerprints(
    store: Store, chosen: Sequence[BackboneSpec], requests: dict[str, WeightsRequest], workers: Workers
) -> dict[str, dict[str, Any]]:
    libraries = json.dumps(made_with(), sort_keys=True)
    found = _cached(store, requests, libraries)
    missing = requests.keys() - found.keys()
    if missing:
        rows = workers.call(resolve, [(b, requests[b.name]) for b in chosen if b.name in missing])
        found |= {row["backbone"]: row for row in rows}
        _remember(store, rows, requests, libraries)
    return found


def _cached(store: Store, requests: dict[str, WeightsRequest], libraries: str) -> dict[str, dict[str, Any]]:
    rows = store.query(
        "SELECT name, backbone, sha256, labels, source FROM weights WHERE made_with = ?", [libraries]
    ).to_pylist()
    return {
        row["backbone"]: row | {"labels": row["labels"] or []}
        for row in rows
        for request in [requests.get(row["backbone"])]
        if request and request.cacheable and request.name == row["name"]
    }


def _remember(store: Store, rows: list[dict[str, Any]], requests: dict[str, WeightsRequest], libraries: str) -> None:
    now = utc_now()
    store.append(
        "weights",
        pa.Table.from_pylist(
            [
                {
                    "name": requests[row["backbone"]].name,
                    "backbone": row["backbone"],
                    "variant": "timm",
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
