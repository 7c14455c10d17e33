"""What every runtime is: uint8 images in, pooled features out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from featurestore.backbones.network import Network


class Runtime(Protocol):
    """Computes the embeddings of one network on one device.

    Parameters
    ----------
    name : str
        For the provenance column: what runs, and its version.
    """

    name: str

    def __call__(self, grey: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return embeddings ``(n, n_features)`` float32 of uint8 grey images ``(n, size, size)``."""


class Unavailable(Exception):
    """A runtime that this machine does not have, or that cannot run this network; the message says why."""


@dataclass(frozen=True)
class Setting:
    """What a runtime is built for.

    Parameters
    ----------
    size : int
        Pixels, both sides.
    batch : int
        Images in one pass. Compiled runtimes are built for this number and fill a smaller batch up.
    threads : int
    cache : pathlib.Path
        Folder for compiled networks of these very weights.
    precision : str
        ``float32``; in another only eager PyTorch runs.
    """

    size: int
    batch: int
    threads: int
    cache: Path
    precision: str = "float32"


class Pooled(nn.Module):
    """A network from uint8 images to its pooled features, without the head: what is compiled."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, grey: Tensor) -> Tensor:
        """Return ``(n, n_features)`` float32 of uint8 ``(n, h, w)``."""
        return self.network.pooled(grey)


def in_batches(
    run: Callable[[NDArray[np.uint8]], NDArray[np.float32]], grey: NDArray[np.uint8], batch: int
) -> NDArray[np.float32]:
    """Run images in batches of exactly ``batch``; the last is filled up with its last image, whose copies are dropped.

    Parameters
    ----------
    run : callable
    grey : ndarray of shape (n, size, size), uint8
        At least one image.
    batch : int

    Returns
    -------
    ndarray of shape (n, n_features), float32
    """
    parts = [grey[start : start + batch] for start in range(0, len(grey), batch)]
    filled = [np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)]) for part in parts]
    return np.concatenate([run(full)[: len(part)] for full, part in zip(filled, parts, strict=True)])
