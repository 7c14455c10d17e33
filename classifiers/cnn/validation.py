"""How good a network is on the validation images: loss and AUC by label."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from classifiers.cnn.hierarchy import unconditional
from classifiers.cnn.image_cache import Images
from classifiers.cnn.loss import Logits, masked_bce
from classifiers.cnn.place import Place
from classifiers.cnn.targets import truth
from classifiers.cnn.training_set import TrainingSet
from classifiers.statistics import AucResult, clustered_auc
from featurestore.backbones.network import Network


def predict(
    network: Network, images: Images, rows: NDArray[np.int64], batch: int, place: Place
) -> tuple[Tensor, NDArray[np.bool_]]:
    """Return the head's logits of some images, computed by all workers together.

    Parameters
    ----------
    network : Network
        With a head, on the place's device; left in evaluation mode.
    images : Images
    rows : ndarray of shape (n,), int64
    batch : int
        Images per step over all workers.
    place : Place

    Returns
    -------
    logits : Tensor of shape (n_read, n_labels), float32
        On the CPU.
    read : ndarray of shape (n,), bool
        Which images could be read.
    """
    network.eval()
    model, step = Logits(network, place.mixed_precision), -(-batch // place.world)
    found = torch.zeros(len(rows), len(network.labels) + 1)  # the last column counts who has a row
    mine = np.arange(place.rank, len(rows), place.world)
    with torch.inference_mode():
        for start in range(0, len(mine), step):
            at = mine[start : start + step]
            squares, good = images.take(rows[at])
            if len(squares):
                logits = model(torch.from_numpy(squares).to(place.device)).float().cpu()
                found[torch.from_numpy(at[good])] = torch.cat([logits, torch.ones(len(logits), 1)], 1)
    found = place.sum(found)
    read = found[:, -1] > 0
    return found[read, :-1], read.numpy()


def validate(
    network: Network,
    data: TrainingSet,
    images: Images,
    policy: str,
    hierarchy: str | None,
    batch: int,
    place: Place,
) -> tuple[float, dict[str, AucResult]]:
    """Return the mean loss on the part val, and each label's AUC there.

    Parameters
    ----------
    network : Network
    data : TrainingSet
    images : Images
    policy : str
        What an uncertain label counts as.
    hierarchy : str or None
        Of a conditionally trained network: AUC is taken of the unconditional probabilities.
    batch : int
    place : Place

    Returns
    -------
    loss : float
    auc : dict of str to AucResult
        The AUC is None, and the note says why, where the validation images show one class only.
    """
    logits, read = predict(network, images, data.val, batch, place)
    y = truth(data.codes[data.val[read]], policy)
    loss = masked_bce(logits, torch.from_numpy(y.astype(np.float32)), len(y)).item()
    if not np.isfinite(loss):
        return loss, {}
    p = torch.sigmoid(logits.double()).numpy()
    if hierarchy is not None:
        p = unconditional(p, data.labels, hierarchy)
    patients = [data.patients[row] for row in data.val[read]]
    return loss, {label: clustered_auc(y[:, i], p[:, i], patients) for i, label in enumerate(data.labels)}
