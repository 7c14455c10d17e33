"""Why an image's vector is fresh, stale, missing or rejected."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from featurestore.errors import ImageRejected, UsageError
from featurestore.images.decode import read_image
from featurestore.store import Store
from featurestore.store.finding import FoundImage, find_image, find_images
from jobs.specs import ResolvedSpec, resolve_specs
from jobs.workers import Workers

State = Literal["fresh", "stale", "missing", "rejected"]


@dataclass(frozen=True)
class WhyRequest:
    """An image, and the vectors meant; see `jobs.extract.ExtractRequest`."""

    image: str
    dataset: str | None = None
    backbones: str = "all"
    weights: str = "imagenet"
    preprocess: str = "bilinear-v1"
    size: int = 224


@dataclass(frozen=True)
class Why:
    """One answer.

    Parameters
    ----------
    backbone, spec_id : str
        What was asked for.
    state : {"fresh", "stale", "missing", "rejected"}
    reason : str
        One sentence.
    """

    backbone: str
    spec_id: str
    state: State
    reason: str


def why(store: Store, request: WhyRequest, workers: Workers) -> list[Why]:
    """Return the state of an image under each backbone asked for.

    Raises
    ------
    featurestore.errors.UsageError
        For an image that is not there, and for backbones and weights that cannot be had.
    """
    rejected = _rejected_source(store, request)
    image = None if rejected else find_image(store, request.image, request.dataset)
    specs = resolve_specs(
        store, request.backbones, request.weights, request.preprocess, request.size, workers
    )  # fmt: skip
    if image is None:
        return [Why(s.backbone.name, s.spec.spec_id, "rejected", rejected or "") for s in specs]
    facts = _Facts(store, image)
    return [Why(s.backbone.name, s.spec.spec_id, *facts.judge(s)) for s in specs]


def _rejected_source(store: Store, request: WhyRequest) -> str | None:
    """Return why a source key never became an image; None where it did, or was never seen."""
    if find_images(store, request.image, request.dataset):
        return None
    rows = store.query(
        "SELECT DISTINCT dataset, stage, reason FROM rejects "
        "WHERE image_id IS NULL AND (source_key = $1 OR uri = $1) AND ($2 IS NULL OR dataset = $2) ORDER BY ALL",
        [request.image, request.dataset],
    ).to_pylist()
    if len({row["dataset"] for row in rows}) > 1:
        message = f"{request.image!r} was rejected in several data sets: {sorted({r['dataset'] for r in rows})}"
        raise UsageError(message + "; give --dataset NAME")
    return "; ".join(f"{row['stage']}: {row['reason']}" for row in rows) or None


class _Facts:
    """What the store and the disk say about one image.

    Parameters
    ----------
    store : Store
    image : FoundImage
    """

    def __init__(self, store: Store, image: FoundImage) -> None:
        self._image = image
        self._file = _look_at_file(image)
        self._vectors = store.query(
            "SELECT s.backbone, s.spec_id, s.description FROM embeddings e JOIN specs s USING (backbone, spec_id) "
            "WHERE e.image_id = ? ORDER BY s.created_at DESC, s.spec_id",
            [image.image_id],
        ).to_pylist()
        self._rejects = store.query(
            "SELECT spec_id, stage, reason, retryable FROM rejects WHERE image_id = ? ORDER BY rejected_at DESC",
            [image.image_id],
        ).to_pylist()

    def judge(self, wanted: ResolvedSpec) -> tuple[State, str]:
        """Return state and reason under one spec."""
        spec_id = wanted.spec.spec_id
        mine = [row for row in self._vectors if row["backbone"] == wanted.backbone.name]
        if any(row["spec_id"] == spec_id for row in mine):
            return self._of_stored()
        if reject := next((r for r in self._rejects if r["spec_id"] in (None, spec_id)), None):
            again = "; cxr extract --retry-rejects tries it again" if reject["retryable"] else ""
            return "rejected", f"{reject['stage']}: {reject['reason']}{again}"
        if mine:
            return "stale", _stale(mine, wanted.spec.description())
        changed = f"; and {self._file}" if self._file else ""
        return "missing", f"{wanted.backbone.name} never ran on it; run cxr extract{changed}"

    def _of_stored(self) -> tuple[State, str]:
        if self._file:
            return "stale", f"the vector is stored, but {self._file}"
        return "fresh", "a vector of exactly these weights and this preprocessing is stored, and the file is unchanged"


def _look_at_file(image: FoundImage) -> str | None:
    """Return what is wrong with the file on disk now; None where it is the one that was ingested."""
    try:
        read_image(image.uri, expected=image.file_hash)
    except ImageRejected as rejected:
        return str(rejected) if rejected.stage == "changed" else f"its file at {image.uri} cannot be read: {rejected}"
    return None


def _stale(stored: Sequence[dict[str, Any]], wanted: dict[str, Any]) -> str:
    differences = [f"{row['spec_id']} ({_difference(json.loads(row['description']), wanted)})" for row in stored]
    return f"there are only vectors of {', '.join(differences)}; run cxr extract"


def _difference(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    then, now = _flat(stored), _flat(wanted)
    changed = [key for key in sorted(then.keys() | now.keys()) if then.get(key) != now.get(key)]
    return "; ".join(f"{key} {_short(then.get(key))} -> {_short(now.get(key))}" for key in changed)


def _flat(description: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in description.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _short(value: object) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 20 else f"{text[:12]}..."
