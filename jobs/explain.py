"""The explanation job: the forest's own map for held-out images that have a region of interest, scored against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from classifiers.cells import Cell
from classifiers.training import fit_cell, run_cell
from featurestore.backbones.catalogue import BackboneSpec
from featurestore.backbones.weights import WeightsRequest
from featurestore.errors import HarmError
from featurestore.extraction.maps import feature_maps
from featurestore.images.decode import read_image
from featurestore.images.records import Roi
from featurestore.images.sources.rois import to_mask
from featurestore.store import Store
from jobs.runlog import record_run
from jobs.workers import Workers
from xai.backprojection import attributions, back_project
from xai.localisation import saliency_at, score
from xai.overlay import render

METHOD = "treeshap-backprojection"
_POOLING_TOLERANCE = 1e-4

# What the model predicted is what it was not fitted on (of a fold: the fold itself), and has a vector.
_CANDIDATES = """
SELECT r.image_id, r.label, any_value(i.uri) AS uri,
       list(struct_pack(kind := r.kind, geometry := r.geometry, width := r.width, height := r.height,
                        source := r.source)) AS regions
FROM predictions p JOIN rois r USING (image_id, label) JOIN labels l USING (image_id, label)
     JOIN images i USING (image_id)
WHERE p.model_id = ? AND p.part = 'test' AND l.value = 1
GROUP BY r.image_id, r.label
ORDER BY row_number() OVER (PARTITION BY r.label ORDER BY r.image_id), r.label
LIMIT ?
"""


@dataclass(frozen=True)
class ExplainRequest:
    """What to explain.

    Parameters
    ----------
    cell : Cell
        The fitted head; it must explain by trees.
    backbone : BackboneSpec
        The cell's.
    weights : WeightsRequest
    preprocess : str
    size : int
        Pixels.
    images : int
        How many pairs of image and label, taken in turn over the labels.
    """

    cell: Cell
    backbone: BackboneSpec
    weights: WeightsRequest
    preprocess: str
    size: int
    images: int


@dataclass(frozen=True)
class Explanation:
    """One scored map; ``numbers`` are the metrics against the region of interest."""

    image_id: str
    label: str
    caption: str
    numbers: dict[str, float]
    png_bytes: bytes | None


def explain(store: Store, request: ExplainRequest, workers: Workers, *, pictures: bool) -> list[Explanation]:
    """Explain a fitted forest on held-out positive images with a region of interest.

    Maps are kept in `saliency`; those that are there are drawn and scored again without running a network.

    Parameters
    ----------
    store : Store
    request : ExplainRequest
    workers : Workers
        Compute feature maps.
    pictures : bool
        Whether explanations carry a picture of the patient.

    Returns
    -------
    list of Explanation
        Empty where no held-out positive image has a region of interest.
    """
    cell = request.cell
    model = run_cell(store, cell).model_row
    if not model.num_rows:
        return []
    model_id = model["model_id"][0].as_py()
    wanted = store.query(_CANDIDATES, [model_id, request.images]).to_pylist()
    stored = _stored(store, model_id)
    missing = [pair for pair in wanted if (pair["image_id"], pair["label"]) not in stored]
    if missing:
        arguments = asdict(cell) | {"method": METHOD, "images": len(missing)}
        with record_run(store, "explain", cell.dataset, arguments) as run:
            store.append("saliency", _compute(store, request, missing, model_id, run.run_id, workers))
            run.counts = {"maps": len(missing)}
        stored = _stored(store, model_id)
    return [_explanation(cell, pair, stored[pair["image_id"], pair["label"]], pictures) for pair in wanted]


def _stored(store: Store, model_id: str) -> dict[tuple[str, str], dict[str, Any]]:
    rows = store.query("SELECT * FROM saliency WHERE model_id = ? AND method = ?", [model_id, METHOD]).to_pylist()
    return {(row["image_id"], row["label"]): row for row in rows}


def _compute(
    store: Store, request: ExplainRequest, pairs: Sequence[dict[str, Any]], model_id: str, run_id: str, workers: Workers
) -> pa.Table:
    cell = request.cell
    uris = {pair["image_id"]: pair["uri"] for pair in pairs}
    ids = list(uris)
    _, X = store.matrix(cell.spec_id, ids)
    maps = workers.call(
        feature_maps, request.backbone, request.weights, request.preprocess, request.size, list(uris.values())
    )
    _check_pooling(maps, X)
    head = fit_cell(store, cell)
    found = attributions([block.estimator for block in head.blocks], X)
    projection = back_project(found.phi, maps)
    order = [head.labels[column] for block in head.blocks for column in block.columns]
    rows = []
    for pair in pairs:
        n, k = ids.index(pair["image_id"]), order.index(pair["label"])
        grid = projection.maps[n, k]
        rows.append(
            {
                "image_id": pair["image_id"],
                "spec_id": cell.spec_id,
                "model_id": model_id,
                "label": pair["label"],
                "method": METHOD,
                "grid_height": grid.shape[0],
                "grid_width": grid.shape[1],
                "map": grid.astype(np.float32).ravel().tolist(),
                "unit": found.unit,
                "base": found.base[k],
                "remainder": projection.remainder[n, k],
                "output": found.output[n, k],
                "run_id": run_id,
            }
        )
    return pa.Table.from_pylist(rows)


def _check_pooling(maps: NDArray[np.float32], X: NDArray[np.float32]) -> None:
    """Make sure that these maps are what the stored vectors were pooled from."""
    gap = np.abs(maps.mean((2, 3)) - X).max() / np.abs(X).max()
    if not gap <= _POOLING_TOLERANCE:
        message = (
            f"feature maps computed now differ from the stored vectors by {gap:.1e} of their maximum (tolerance "
            f"{_POOLING_TOLERANCE}); the images or the libraries changed: extract again before explaining"
        )
        raise HarmError(message)


def _explanation(cell: Cell, pair: dict[str, Any], row: dict[str, Any], pictures: bool) -> Explanation:
    image = read_image(pair["uri"])
    grid = np.asarray(row["map"], np.float64).reshape(row["grid_height"], row["grid_width"])
    mask = _mask(pair, image.height, image.width)
    found = score(saliency_at(grid, image.height, image.width), mask)
    caption = (
        f"{cell.head} on {cell.backbone} says {row['output']:.2f} ({row['unit']}) = base "
        f"{row['base']:.2f} + map {grid.sum():+.2f} + non-spatial remainder {row['remainder']:+.2f}"
    )
    picture = render(image.pixels, grid, mask, pair["label"], row["unit"]) if pictures else None
    numbers = {**found.values, "uniform baseline": found.baseline}
    return Explanation(pair["image_id"], pair["label"], caption, numbers, picture)


def _mask(pair: dict[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    """Return all the regions of one image and label as one mask at the image's size."""
    mask = np.zeros((height, width), dtype=bool)
    for region in pair["regions"]:
        part = to_mask(Roi(label=pair["label"], **region))
        rows = np.arange(height) * part.shape[0] // height
        columns = np.arange(width) * part.shape[1] // width
        mask |= part[np.ix_(rows, columns)]
    return mask
