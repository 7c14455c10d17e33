"""PyTorch's compiler with frozen weights: batch norms folded into convolutions, layers fused, C++ made of them."""

from __future__ import annotations

import os
import shutil

import numpy as np
import torch
from numpy.typing import NDArray

from featurestore.backbones.network import Network
from featurestore.backbones.runtimes.base import Pooled, Setting, Unavailable, in_batches


class Compiled:
    """Runs a network that was compiled for one batch size."""

    def __init__(self, network: Network, setting: Setting) -> None:
        self._batch = setting.batch
        # Freezing happens only without gradients, and its constants would grow with every batch size seen.
        self._run_compiled = torch.compile(Pooled(network), dynamic=False, options={"freezing": True})
        self.name = f"torch.compile frozen float32, torch {torch.__version__}, cpu"

    def __call__(self, grey: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return embeddings ``(n, n_features)`` float32 of uint8 grey images ``(n, size, size)``."""
        return in_batches(self._run, grey, self._batch)

    def _run(self, grey: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            pooled: NDArray[np.float32] = self._run_compiled(torch.from_numpy(grey)).numpy()
        return pooled


def build(network: Network, device: torch.device, setting: Setting) -> Compiled:
    """Return the compiled network; the work is done at its first batch.

    Raises
    ------
    Unavailable
        On a GPU, or without a C++ compiler.
    """
    if device.type != "cpu":
        message = "the compiler is used on the CPU only"
        raise Unavailable(message)
    if not any(shutil.which(name) for name in ("g++", "clang++")):
        message = "no C++ compiler (g++ or clang++) on the PATH"
        raise Unavailable(message)
    # Its default is a folder under /tmp that anybody may have made before.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(setting.cache.parent / "inductor"))
    return Compiled(network, setting)
