"""The feature maps behind stored embeddings, computed again for a few images. Imports torch; run it in a worker."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featurestore.backbones.catalogue import BackboneSpec
from featurestore.backbones.weights import WeightsRequest
from featurestore.images.decode import read_image
from featurestore.images.preprocess import get_preprocess


def feature_maps(
    backbone: BackboneSpec, request: WeightsRequest, preprocess: str, size: int, uris: Sequence[str]
) -> NDArray[np.float32]:
    """Return the last feature maps of some images.

    Parameters
    ----------
    backbone : BackboneSpec
    request : WeightsRequest
    preprocess : str
    size : int
        Pixels.
    uris : sequence of str

    Returns
    -------
    ndarray of shape (n_images, n_features, height, width), float32
        Its mean over positions is the stored embedding.
    """
    import torch

    from featurestore.backbones.network import load_network

    torch.set_num_threads(os.cpu_count() or 1)
    network = load_network(backbone, request).network.to(memory_format=torch.channels_last)
    chosen = get_preprocess(preprocess)
    grey = np.stack([chosen.apply(read_image(uri).pixels, size) for uri in uris])
    with torch.inference_mode():
        maps: NDArray[np.float32] = network.feature_maps(torch.from_numpy(grey)).contiguous().numpy()
    return maps
