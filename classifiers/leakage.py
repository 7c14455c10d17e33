"""What two parts of a data set share: patients, pixels, near-duplicates; and what pretraining has seen.

A test image that training has seen makes every number too good. None of this is judged here: it is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from classifiers.splits import PARTS, load_split
from featurestore.backbones.registry import registered
from featurestore.errors import UsageError
from featurestore.store.training_sources import TrainingSources

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurestore.store import Store

THRESHOLD = 0.98
"""Cosine of two images' standardised vectors from which on they are called near-duplicates."""
_BLOCK = 2048
"""Images compared with all others at once."""
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Leakage:
    """What parts share; None stands for what cannot be known.

    Parameters
    ----------
    dataset : str
    split : str or None
        None: the source's official parts.
    parts : dict of str to int
        Images of each.
    patient_overlap : dict of str to (int or None)
        Patients with images in both, by pair such as ``train-test``; None where an image has no patient id.
    identical_pixels : dict of str to int
        Different pictures that both have.
    within : dict of str to int
        Surplus images of a part: copies beyond the first of each picture.
    near_duplicates : dict of str to (int or None)
        Images of the second part with a neighbour in the first that is no copy; None without embeddings.
    near_duplicates_by : str or None
        Backbone, weights and threshold that neighbours were found with.
    pretraining_overlap : dict of str to dict, or str
        By name of weights: images and patients of this data set that they were trained on, or ``unknown``.
    """

    dataset: str
    split: str | None
    parts: dict[str, int]
    patient_overlap: dict[str, int | None]
    identical_pixels: dict[str, int]
    within: dict[str, int]
    near_duplicates: dict[str, int | None]
    near_duplicates_by: str | None
    pretraining_overlap: dict[str, dict[str, int] | str]

    @property
    def findings(self) -> int:
        """Return how many counts are above 0."""
        counts = [*self.patient_overlap.values(), *self.identical_pixels.values(), *self.within.values()]
        return sum(bool(count) for count in [*counts, *self.near_duplicates.values()])


def find_leakage(
    store: Store,
    dataset: str,
    split: str | None = None,
    spec: tuple[str, str] | None = None,
    threshold: float = THRESHOLD,
) -> Leakage:
    """Count what the parts of a division share.

    Parameters
    ----------
    store : Store
    dataset : str
    split : str, optional
        Absent: `images.official_part`. Of a kfold split each fold is a part.
    spec : (str, str), optional
        spec_id of the vectors that neighbours are looked for in, and what to call them.
    threshold : float
        In (0, 1].

    Raises
    ------
    UsageError
        For an unknown data set or split, or one without official parts.
    """
    images = _images(store, dataset, split)
    names = list(dict.fromkeys([*PARTS, *sorted({i["part"] for i in images})]))
    by_part = {name: [i for i in images if i["part"] == name] for name in names}
    by_part = {name: found for name, found in by_part.items() if found}
    pairs = [f"{a}-{b}" for a, b in combinations(by_part, 2)]
    known = all(image["patient_id"] for image in images)
    pixels = {name: [image["pixel_hash"] for image in found] for name, found in by_part.items()}
    near = dict.fromkeys(pairs) if spec is None else _near_duplicates(store, spec[0], by_part, threshold)
    return Leakage(
        dataset,
        split,
        {name: len(found) for name, found in by_part.items()},
        {**_shared({name: {i["patient_id"] for i in found} for name, found in by_part.items()})} if known
        else dict.fromkeys(pairs),
        _shared({name: set(found) for name, found in pixels.items()}),
        {name: len(found) - len(set(found)) for name, found in pixels.items()},
        near,
        None if spec is None else f"{spec[1]}, cosine of standardised vectors >= {threshold:g}",
        _pretraining(store, dataset, images),
    )  # fmt: skip


def _images(store: Store, dataset: str, split: str | None) -> list[dict[str, Any]]:
    store.require_dataset(dataset)
    rows = store.query(
        "SELECT image_id, patient_id, pixel_hash, official_part FROM images WHERE dataset = ? ORDER BY image_id",
        [dataset],
    ).to_pylist()
    if split is None:
        parts = {row["image_id"]: row["official_part"] for row in rows if row["official_part"]}
        if not parts:
            raise UsageError(f"data set {dataset!r} was published without parts; name a split with --split")
    else:
        division = load_split(store, dataset, split)
        folds = [
            part if fold is None else f"fold{fold}" for part, fold in zip(division.parts, division.folds, strict=True)
        ]
        parts = dict(zip(division.ids, folds, strict=True))
    return [row | {"part": parts[row["image_id"]]} for row in rows if row["image_id"] in parts]


def _shared(members: Mapping[str, set[str]]) -> dict[str, int]:
    return {f"{a}-{b}": len(members[a] & members[b]) for a, b in combinations(members, 2)}


def _near_duplicates(
    store: Store, spec_id: str, by_part: Mapping[str, Sequence[Mapping[str, Any]]], threshold: float
) -> dict[str, int | None]:
    stored = set(store.query("SELECT image_id FROM embeddings WHERE spec_id = ?", [spec_id])["image_id"].to_pylist())
    images = [image for found in by_part.values() for image in found if image["image_id"] in stored]
    if not images:
        return dict.fromkeys(f"{a}-{b}" for a, b in combinations(by_part, 2))
    _, X = store.matrix(spec_id, [image["image_id"] for image in images])
    Z = standardised(X)
    part = [image["part"] for image in images]
    pixels = np.unique([image["pixel_hash"] for image in images], return_inverse=True)[1]
    found: dict[str, set[int]] = {f"{a}-{b}": set() for a, b in combinations(by_part, 2)}
    for i, j in _close(Z, threshold):
        if pixels[i] != pixels[j] and part[i] != part[j]:
            first, second = sorted((i, j), key=lambda k: list(by_part).index(part[k]))
            found[f"{part[first]}-{part[second]}"].add(second)
    return {pair: len(images) for pair, images in found.items()}


def standardised(X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors of length 1 whose features had mean 0 and variance 1 over the images.

    All radiographs are alike, and so are their vectors: without it the cosine of any two is near 1.
    """
    spread = X.std(axis=0)
    Z = (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1)
    length = np.linalg.norm(Z, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (Z / np.where(length > 0, length, 1)).astype(np.float32)
    return unit


def _close(Z: NDArray[np.float32], threshold: float) -> Iterator[tuple[int, int]]:
    """Yield pairs (i < j) whose cosine reaches the threshold, block by block."""
    for start in range(0, len(Z), _BLOCK):
        block = Z[start : start + _BLOCK] @ Z[start:].T
        for i, j in np.argwhere(block >= threshold):
            if i < j:
                yield start + int(i), start + int(j)


def _pretraining(store: Store, dataset: str, images: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int] | str]:
    """Return what each set of weights that vectors of these images were made with has seen of them."""
    sql = """
        SELECT DISTINCT p.weights, p.backbone
        FROM (SELECT image_id, spec_id FROM embeddings UNION SELECT image_id, spec_id FROM scores) e
        JOIN images i ON i.image_id = e.image_id JOIN specs p ON p.spec_id = e.spec_id WHERE i.dataset = ? ORDER BY ALL
    """
    known = {(w.name, w.backbone): w for w in registered(store)}
    found: dict[str, dict[str, int] | str] = {}
    for row in store.query(sql, [dataset]).to_pylist():
        weights = known.get((row["weights"], row["backbone"]))
        if str(row["weights"]).startswith("random:"):
            seen: dict[str, int] | str = {"images": 0, "patients": 0}
        elif weights is None or weights.trained_on is None:
            seen = UNKNOWN
        else:
            seen = _seen(TrainingSources.read(store.location, weights.trained_on), dataset, images)
        found[row["weights"]] = _worse(found.get(row["weights"]), seen)
    return found


def _seen(sources: TrainingSources, dataset: str, images: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    patients = {image["patient_id"] for image in images if image["patient_id"]}
    return {
        "images": sum(sources.saw_pixels(image["pixel_hash"]) for image in images),
        "patients": sum(sources.saw_patient(dataset, patient) for patient in patients),
    }


def _worse(one: dict[str, int] | str | None, other: dict[str, int] | str) -> dict[str, int] | str:
    """Return the less favourable of what two networks under one name have seen."""
    if one is None or isinstance(other, str):
        return other
    if isinstance(one, str):
        return one
    return {key: max(one[key], other[key]) for key in one}
