"""What a plan will take, from what this store's own runs took."""

from __future__ import annotations

from typing import Any

from featurestore.extraction.plan import Plan
from featurestore.store import Store


def describe_plan(store: Store, plan: Plan) -> tuple[dict[str, Any], str]:
    """Return a plan as the fields of `cxr plan --json`, and as a sentence for a person."""
    hours = estimate_hours(store, plan)
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

    The seconds of a forward pass are taken from `runs`, with everything around them (decoding, writing, waiting) in
    proportion.
    """
    if not plan.pending_pairs:
        return 0.0
    per_image = _seconds_per_image(store, [s.spec_id for s in plan.specs])
    pending = plan.pending_by_backbone
    needed = [name for name, count in pending.items() if count]
    if not set(needed) <= per_image.keys():
        return None
    return sum(per_image[name] * pending[name] for name in needed) / 3600


_RATES = """
SELECT backbone, sum(seconds) / sum(images) AS seconds FROM (
    SELECT e.backbone, e.run_id, count(*) AS images,
           any_value(CAST(json_extract(r.seconds, '$.by_backbone.' || e.backbone) AS DOUBLE)
                     * CAST(json_extract(r.seconds, '$.run') AS DOUBLE)
                     / CAST(json_extract(r.seconds, '$.infer') AS DOUBLE)) AS seconds
    FROM embeddings e JOIN runs r USING (run_id)
    WHERE e.spec_id IN (SELECT unnest(?::VARCHAR[])) AND r.status = 'done' GROUP BY ALL)
GROUP BY backbone HAVING sum(seconds) > 0
"""


def _seconds_per_image(store: Store, spec_ids: list[str]) -> dict[str, float]:
    rows = store.query(_RATES, [spec_ids]).to_pylist()
    return {row["backbone"]: row["seconds"] for row in rows}


def _duration(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.0f} min" if hours * 60 >= 1 else f"{hours * 3600:.0f} s"
