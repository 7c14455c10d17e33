"""Where only the head trains: stored vectors instead of images, through the very same loop.

A frozen network in evaluation mode gives the same pooled features in every epoch, and they are in the store. So a head
of 1024 inputs is trained in seconds, in the same batches and from the same numbers as through the network.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from classifiers.cnn.image_cache import Unusable
from classifiers.cnn.training_set import TrainingSet
from featurestore.backbones.network import Network
from featurestore.store import Store


class StoredVectors:
    """The vectors of a training set's images by row number; see `classifiers.cnn.image_cache.Images`.

    Parameters
    ----------
    store : Store
    spec_id : str
    data : TrainingSet
        Its images without a vector were rejected by the extraction, which said why; they are passed over.
    """

    def __init__(self, store: Store, spec_id: str, data: TrainingSet) -> None:
        ids = [file.image_id for file in data.files]
        found = store.query("SELECT image_id FROM embeddings WHERE spec_id = ?", [spec_id])
        stored = set(found["image_id"].to_pylist())
        self._good = np.array([image in stored for image in ids], np.bool_)
        self._place = np.cumsum(self._good) - 1
        self._vectors = store.matrix(spec_id, [image for image in ids if image in stored])[1]
        self.bytes = self._vectors.nbytes
        self.unusable: dict[int, Unusable] = {}

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return vectors of shape (n, n_features) float32, and which rows have one: n of them, in order."""
        good = self._good[rows]
        return self._vectors[self._place[rows[good]]], good


class HeadOnVectors(Network):
    """A network whose features were computed before.

    Parameters
    ----------
    network : Network
        Whose head is trained, in place.
    """

    def __init__(self, network: Network) -> None:
        super().__init__(nn.Identity(), network.spec, network.head, network.labels)

    def feature_maps(self, grey: Tensor) -> Tensor:
        """Return vectors ``(n, n_features)`` as maps of one position, ``(n, n_features, 1, 1)``."""
        return grey[:, :, None, None]
