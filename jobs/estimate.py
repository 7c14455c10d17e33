"""What a plan will take, from what this store's own runs took."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from featurestore.extraction.plan import Plan, WorkItem
from featurestore.extraction.probe import probe
from featurestore.extraction.worker_config import WorkerConfig
from featurestore.store import Store
from jobs.workers import Workers

_DECODED = 4


def describe_plan(plan: Plan, hours: float | None) -> tuple[dict[str, Any], str]:
    """Return a plan as the fields of `cxr plan --json`, and as a sentence for a person."""
    document = {
        "pending_pairs": plan.pending_pairs,
        "pending_by_backbone": plan.pending_by_backbone,
        "images_to_decode": plan.images_to_decode,
        "bytes": plan.bytes,
        "hours": hours,
    }
    time = "hours unknown until a first run on this store" if hours is None else f"about {_duration(hours)}"
    sentence = (
        f"{plan.dataset}: {plan.pending_pairs} of {plan.images * len(plan.specs)} pairs pending, "
        f"{plan.images_to_decode} images to decode, {plan.bytes / 1e6:.1f} MB of vectors, {time}"
    )
    return document, sentence


def estimate_hours(store: Store, plan: Plan) -> float | None:
    """Return the hours this plan needs if each backbone goes as fast as it went here so far; None where one never ran.

    The seconds of a forward pass are taken from `runs`, with everything around them (decoding, writing, waiting; not
    the starting of workers) in proportion.
    """
    if not plan.pending_pairs:
        return 0.0
    pending = _pending(plan)
    per_image = _seconds_per_image(store, list(pending))
    if pending.keys() - per_image.keys():
        return None
    return sum(per_image[spec_id] * count for spec_id, count in pending.items()) / 3600


def probe_hours(config: WorkerConfig, plan: Plan, workers: Workers) -> float:
    """Return the hours a plan would need, by a few forward passes and decoded images on one of the workers."""
    pending = _pending(plan)
    config = replace(config, threads=workers.threads)
    # No images: only eager PyTorch is timed. A faster runtime makes the estimate too long, not too short.
    found = workers.call(probe, config, dict.fromkeys(pending, 0), _some_items(plan), gpu=workers.has_gpu)
    networks = sum(choice.eager_seconds * pending[choice.spec_id] for choice in found.choices)
    return (networks + found.decode_seconds * plan.images_to_decode / config.threads) / workers.actors / 3600


def _pending(plan: Plan) -> dict[str, int]:
    """Return pending images by spec, where there are any."""
    counts = plan.pending_by_backbone
    return {spec.spec_id: counts[spec.backbone] for spec in plan.specs if counts[spec.backbone]}


def _some_items(plan: Plan) -> tuple[WorkItem, ...]:
    first = next(plan.shards(), None)
    return first.items[:_DECODED] if first else ()


def _seconds_per_image(store: Store, spec_ids: Sequence[str]) -> dict[str, float]:
    """Return seconds an image by spec, over this store's finished runs: what `runs` says, without a look at vectors."""
    rows = store.query("SELECT counts, seconds FROM runs WHERE command = 'extract' AND status = 'done'").to_pylist()
    images: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for row in rows:
        counts, spent = json.loads(row["counts"]), json.loads(row["seconds"])
        around = (spent["run"] - spent["start"]) / spent["infer"] if spent.get("infer") else 0.0
        for spec_id, passed in counts.get("by_spec", {}).items():
            images[spec_id] += passed
            seconds[spec_id] += spent["by_spec"][spec_id] * around
    return {spec_id: seconds[spec_id] / images[spec_id] for spec_id in spec_ids if images[spec_id]}


def _duration(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.0f} min" if hours * 60 >= 1 else f"{hours * 3600:.0f} s"
