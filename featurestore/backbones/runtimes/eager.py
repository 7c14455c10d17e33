"""PyTorch as it is, channels last: always there, on the CPU and the GPU."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from featurestore.backbones.network import Network
from featurestore.backbones.runtimes.base import Setting


class Eager:
    """Runs a network without compiling it; halves a batch that the GPU's memory does not hold."""

    def __init__(self, network: Network, device: torch.device, precision: str = "float32") -> None:
        self._network = network
        self._device = device
        self._dtype: torch.dtype = getattr(torch, precision)
        self.name = f"eager channels_last {precision}, torch {torch.__version__}, {_device_name(device)}"

    def __call__(self, grey: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return embeddings ``(n, n_features)`` float32 of uint8 grey images ``(n, size, size)``."""
        try:
            return self._run(grey)
        except torch.OutOfMemoryError:
            if len(grey) == 1:
                raise
            torch.cuda.empty_cache()
        middle = len(grey) // 2
        return np.concatenate([self(grey[:middle]), self(grey[middle:])])

    def _run(self, grey: NDArray[np.uint8]) -> NDArray[np.float32]:
        images = torch.from_numpy(grey)
        if self._device.type == "cuda":
            images = images.pin_memory().to(self._device, non_blocking=True)
        mixed = torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32)
        with torch.inference_mode(), mixed:
            pooled: NDArray[np.float32] = self._network.pooled(images).cpu().numpy()
        return pooled


def build(network: Network, device: torch.device, setting: Setting) -> Eager:
    """Return the network as PyTorch runs it."""
    return Eager(network, device, setting.precision)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
