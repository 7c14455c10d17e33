"""The scores of a head whose network's features are stored already: a matrix product. Imports torch when called."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featurestore.backbones.catalogue import BackboneSpec
from featurestore.backbones.weights import WeightsRequest
from featurestore.store import Store


def score_vectors(
    store_uri: str, spec_id: str, backbone: BackboneSpec, weights: WeightsRequest
) -> tuple[list[str], NDArray[np.float32]]:
    """Return what a network's head says of stored vectors.

    Parameters
    ----------
    store_uri : str
    spec_id : str
        Of vectors that the same features have made.
    backbone : BackboneSpec
    weights : WeightsRequest
        With a head.

    Returns
    -------
    ids : list of str
    probabilities : ndarray of shape (n_images, n_labels), float32
        In [0, 1].
    """
    import torch

    from featurestore.backbones.network import load_network, probabilities

    network = load_network(backbone, weights).network
    if network.head is None:
        message = f"weights {weights.name} of {backbone.name} have no head, so they score nothing"
        raise ValueError(message)
    ids, X = Store(store_uri).matrix(spec_id)
    with torch.inference_mode():
        scores = probabilities(network.head, network.labels, network.ancestors, torch.from_numpy(X))
    return ids, scores.numpy()
