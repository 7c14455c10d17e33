"""Stored vectors computed again, through the very loop that made them. Imports torch; run it in a worker."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.backbones.catalogue import BackboneSpec
from featurestore.backbones.registry import FOLDER
from featurestore.backbones.runtimes import kind_of
from featurestore.backbones.spec import described_backbone
from featurestore.backbones.weights import WeightsRequest, is_weights_name, parse_weights
from featurestore.errors import HarmError, UsageError
from featurestore.extraction.plan import Shard, WorkItem
from featurestore.extraction.worker_config import WorkerConfig
from featurestore.store.files import read_parquet
from featurestore.store.location import Location

SAME_RUNTIME = 1e-5
OTHER_RUNTIME = 1e-3
"""Largest difference allowed, relative to the largest value of the stored vector."""
_RANDOM = re.compile(r"random:\d{1,9}")


@dataclass(frozen=True)
class StoredVector:
    """One vector to compute again, with what it was made from."""

    image_id: str
    uri: str
    file_hash: str
    runtime: str | None
    embedding: tuple[float, ...]


@dataclass(frozen=True)
class Recomputed:
    """What came of the vectors of one spec.

    Parameters
    ----------
    compared : int
    mismatches : list of str
        One sentence a vector that differs.
    notes : list of str
        Why others could not be computed again; that is no mismatch.
    largest : float
        Largest relative difference seen.
    damaged : list of str
        One sentence on weights of the store's own that are gone or not what was registered.
    """

    compared: int
    mismatches: list[str]
    notes: list[str]
    largest: float
    damaged: list[str] = field(default_factory=list)


def recompute(
    spec: dict[str, Any], vectors: Sequence[StoredVector], weights_path: str | None = None, root: str = ""
) -> Recomputed:
    """Compute some vectors of one spec again and compare them.

    Parameters
    ----------
    spec : dict
        The row of `specs`.
    vectors : sequence of StoredVector
    weights_path : str, optional
        The file or folder of weights that were not named but given by path; the store remembers their checksum only.
    root : str
        The store's root, where registered weights lie.
    """
    items = tuple(WorkItem(v.image_id, v.uri, v.file_hash) for v in sorted(vectors, key=lambda v: v.image_id))
    why = f"{len(vectors)} vectors of {spec['spec_id']} not computed again"
    try:
        config = _config(spec, weights_path, root, _usual_kind(vectors))
        fresh, notes = _run(config, Shard(items, (spec["spec_id"],)))
    except UsageError as error:
        return Recomputed(0, [], [f"{why}: {error}"], 0.0)
    except HarmError:
        return _without_its_weights(spec, why)
    compared = [_compare(spec, v, *fresh[v.image_id]) for v in vectors if v.image_id in fresh]
    largest = max((gap for gap, _ in compared), default=0.0)
    return Recomputed(len(compared), [words for _, words in compared if words], notes, largest)


def _without_its_weights(spec: dict[str, Any], why: str) -> Recomputed:
    """Say that the weights found are not those the spec names: damage of the store where it keeps them itself."""
    sha256 = spec["weights_sha256"]
    if is_weights_name(spec["weights"]):
        words = f"{FOLDER}/{sha256}.safetensors: it is gone, or its content changed; {why}"
        return Recomputed(0, [], [], 0.0, [words])
    remedy = (
        "another version of timm, torch or the hub's file gives others"
        if _is_fetched(spec["weights"])
        else "give the very file with --weights PATH"
    )
    return Recomputed(0, [], [f"{why}: the weights found have another SHA-256 than {sha256[:12]}; {remedy}"], 0.0)


def _is_fetched(weights: str) -> bool:
    return weights == "imagenet" or bool(_RANDOM.fullmatch(weights))


def _usual_kind(vectors: Sequence[StoredVector]) -> str:
    """Return the kind of runtime that most were computed by: the strict tolerance holds within one."""
    return Counter(kind_of(v.runtime or "") for v in vectors).most_common(1)[0][0]


def _config(spec: dict[str, Any], weights_path: str | None, root: str, kind: str) -> WorkerConfig:
    # Not from the catalogue: a backbone of one's own is in none, and imported weights bring their own variant.
    backbone = described_backbone(spec["backbone"], spec["n_features"], json.loads(spec["description"]))
    request = _request(spec, backbone, weights_path, root)
    identified = (backbone, request, spec["weights_sha256"], spec["spec_id"])
    return WorkerConfig(
        "",
        "verify",
        (identified,),
        spec["preprocess"],
        spec["size"],
        json.loads(spec["description"])["precision"],
        runtimes=((spec["spec_id"], kind),),
        threads=os.cpu_count() or 1,
    )


def _request(spec: dict[str, Any], backbone: BackboneSpec, weights_path: str | None, root: str) -> WeightsRequest:
    name = spec["weights"]
    if _is_fetched(name):
        return parse_weights(name, [backbone])[backbone.name]
    if is_weights_name(name):
        return WeightsRequest(
            "registered", path=f"{root}/{FOLDER}/{spec['weights_sha256']}.safetensors", given=name
        )  # fmt: skip
    if weights_path is None:
        message = f"its weights are {spec['weights_source']!r}, whose place is not stored; give it with --weights PATH"
        raise UsageError(message)
    return parse_weights(weights_path, [backbone])[backbone.name]


def _run(config: WorkerConfig, shard: Shard) -> tuple[dict[str, tuple[NDArray[np.float32], str]], list[str]]:
    """Return vector and runtime by image_id, as the worker writes them into a store of no account, and its rejects."""
    from dataclasses import replace

    from featurestore.extraction.worker import Extractor

    with tempfile.TemporaryDirectory(prefix="cxrstore-verify-") as scratch:
        result = Extractor(replace(config, store_uri=str(Path(scratch)))).run(shard)
        location = Location.parse(scratch)
        rows = [row for f in result.embeddings for row in read_parquet(location, f"embeddings/{f.path}").to_pylist()]
    fresh = {row["image_id"]: (np.asarray(row["embedding"], np.float32), row["runtime"]) for row in rows}
    notes = [f"{reject.image_id[:12]} not computed again: {reject.reason}" for reject in result.rejects]
    return fresh, notes


def _compare(spec: dict[str, Any], stored: StoredVector, now: NDArray[np.float32], runtime: str) -> tuple[float, str]:
    """Return the relative difference, and a sentence where it is too large."""
    then = np.asarray(stored.embedding, np.float32)
    if then.shape != now.shape:
        return float("inf"), f"{stored.image_id[:12]} under {spec['spec_id']}: {then.size} numbers, now {now.size}"
    gap = float(np.abs(then - now).max() / max(float(np.abs(then).max()), np.finfo(np.float32).tiny))
    allowed = SAME_RUNTIME if stored.runtime == runtime else OTHER_RUNTIME
    if gap <= allowed:  # a NaN is not
        return gap, ""
    return gap, (
        f"{stored.image_id[:12]} under {spec['spec_id']}: differs by {gap:.1e} of its largest value, {allowed:.0e} is "
        f"allowed (stored by {stored.runtime}; now {runtime})"
    )
