"""What is pending: images x specs that one snapshot does not hold, frozen into shards. Without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.store import Store
from featurestore.store.catalogue import open_catalogue
from featurestore.store.schema import TABLES


@dataclass(frozen=True)
class PlannedSpec:
    """One backbone of a plan.

    Parameters
    ----------
    backbone, spec_id : str
    n_features : int
    """

    backbone: str
    spec_id: str
    n_features: int


@dataclass(frozen=True)
class WorkItem:
    """One image to read: its id, where it is, and the content it had when it was ingested."""

    image_id: str
    uri: str
    file_hash: str


@dataclass(frozen=True)
class Shard:
    """Images that lack the same specs; the unit of work, of failure and of commit.

    Parameters
    ----------
    items : tuple of WorkItem
        Sorted by image_id.
    spec_ids : tuple of str
    deaths : int
        How often a worker has died on it; counted for single images only, which are innocent until alone.
    """

    items: tuple[WorkItem, ...]
    spec_ids: tuple[str, ...]
    deaths: int = 0

    def halves(self) -> list[Shard]:
        """Split a shard whose worker died, to find the image that kills it; a single image is tried once more."""
        if len(self.items) == 1:
            return [Shard(self.items, self.spec_ids, self.deaths + 1)]
        middle = len(self.items) // 2
        return [Shard(self.items[:middle], self.spec_ids), Shard(self.items[middle:], self.spec_ids)]


@dataclass(frozen=True)
class Plan:
    """Everything one extraction has to do.

    Parameters
    ----------
    dataset : str
    specs : tuple of PlannedSpec
    pending : pyarrow.Table
        ``image_id``, ``uri``, ``file_hash`` and ``mask``: bit k is set where spec k is missing.
    shard_images : int
    images : int
        Images of the data set.
    rejected : int
        Pairs left out because an earlier run rejected them.
    known_files : tuple of str
        Files of `embeddings` that this plan has seen.
    """

    dataset: str
    specs: tuple[PlannedSpec, ...]
    pending: pa.Table
    shard_images: int
    images: int
    rejected: int
    known_files: tuple[str, ...]

    @property
    def images_to_decode(self) -> int:
        """Return how many images have to be read, each once for all its specs."""
        return int(self.pending.num_rows)

    @property
    def pending_by_backbone(self) -> dict[str, int]:
        """Return pending pairs of each backbone."""
        counts = self.pending.group_by("mask").aggregate([("image_id", "count")]).to_pylist()
        return {
            spec.backbone: sum(c["image_id_count"] for c in counts if c["mask"] >> bit & 1)
            for bit, spec in enumerate(self.specs)
        }

    @property
    def pending_pairs(self) -> int:
        """Return all pending pairs."""
        return sum(self.pending_by_backbone.values())

    @property
    def bytes(self) -> int:
        """Return the size of the vectors to be written, float32, before compression."""
        pending = self.pending_by_backbone
        return sum(4 * spec.n_features * pending[spec.backbone] for spec in self.specs)

    def still_pending(self, earlier: Plan) -> int:
        """Return how many pairs of an earlier plan of the same specs are pending in this one too."""
        both = self.pending.select(["image_id", "mask"]).join(
            earlier.pending.select(["image_id", "mask"]), "image_id", join_type="inner", right_suffix="_before"
        )
        masks = pc.bit_wise_and(both["mask"], both["mask_before"]).to_pylist()
        return sum(mask.bit_count() for mask in masks)

    def shards(self) -> Iterator[Shard]:
        """Yield the frozen shards; only those in flight are ever Python objects."""
        start = 0
        for run in self.pending.group_by("mask", use_threads=False).aggregate([("image_id", "count")]).to_pylist():
            stop = start + run["image_id_count"]
            spec_ids = tuple(s.spec_id for bit, s in enumerate(self.specs) if run["mask"] >> bit & 1)
            for first in range(start, stop, self.shard_images):
                rows = self.pending.slice(first, min(self.shard_images, stop - first)).to_pylist()
                yield Shard(tuple(WorkItem(r["image_id"], r["uri"], r["file_hash"]) for r in rows), spec_ids)
            start = stop


# One mask an image instead of one row a pair: a million images x seven specs stay a million rows. `embeddings` shows
# files of these specs only, and is not joined before it is grouped: from a join DuckDB would derive a filter that it
# tries on each file, which doubles the time of 27,000.
_PENDING = """
WITH spec AS (SELECT unnest($spec_ids) AS spec_id, unnest($bits) AS bit),
     done AS (SELECT image_id, bit_or(1 << (list_position($spec_ids, spec_id) - 1)) AS mask
              FROM embeddings GROUP BY image_id),
     skip AS (SELECT image_id, bit_or(coalesce(bit, $everything)) AS mask
              FROM rejects LEFT JOIN spec USING (spec_id)
              WHERE image_id IS NOT NULL AND (spec_id IS NULL OR bit IS NOT NULL) AND NOT (retryable AND $retry)
              GROUP BY image_id)
SELECT i.image_id, $everything & ~coalesce(d.mask, 0) & ~coalesce(s.mask, 0) AS mask,
       bit_count($everything & ~coalesce(d.mask, 0) & coalesce(s.mask, 0)) AS rejected
FROM images i LEFT JOIN done d USING (image_id) LEFT JOIN skip s USING (image_id)
WHERE i.dataset = $dataset
"""
# What a worker needs is looked up for pending images only: a million places and hashes would be half the memory.
_TO_DO = """
SELECT image_id, uri, file_hash, mask FROM plan JOIN images USING (image_id)
WHERE mask <> 0 ORDER BY mask DESC, image_id
"""


def make_plan(
    store: Store, dataset: str, specs: Sequence[PlannedSpec], *, shard_images: int, retry_rejects: bool = False
) -> Plan:
    """Compare a data set's images with one snapshot of the vectors.

    Parameters
    ----------
    store : Store
    dataset : str
    specs : sequence of PlannedSpec
    shard_images : int
        Most images in one shard.
    retry_rejects : bool
        Also plan pairs rejected earlier for a reason that may have passed.

    Raises
    ------
    UsageError
        If the data set has no image here; lists those that have.
    """
    store.require_dataset(dataset)
    snapshots = {name: store.snapshot(name) for name in TABLES}
    spec_ids = [s.spec_id for s in specs]
    parameters = {
        "spec_ids": spec_ids,
        "bits": [1 << k for k in range(len(specs))],
        "everything": (1 << len(specs)) - 1,
        "retry": retry_rejects,
        "dataset": dataset,
    }
    shown = snapshots | {"embeddings": snapshots["embeddings"].limited(spec_id=spec_ids)}
    with open_catalogue(shown, backbones=False) as con:
        con.execute("CREATE TEMP TABLE plan AS " + _PENDING, parameters)
        counts = con.execute("SELECT count(*), coalesce(sum(rejected), 0) FROM plan").fetchall()
        pending = con.sql(_TO_DO).to_arrow_table()
    images, rejected = counts[0]
    known = tuple(f.path for f in snapshots["embeddings"].files)
    return Plan(dataset, tuple(specs), pending, shard_images, int(images), int(rejected), known)
