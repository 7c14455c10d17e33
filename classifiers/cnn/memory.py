"""The most memory a network's training took."""

from __future__ import annotations

import re
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak:
    """Watches this process from here on.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._anon = device, 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        if _RESET.exists():
            _RESET.write_text("5")  # sets VmHWM back to what is resident now (proc(5))
        self.look()

    def look(self) -> None:
        """Take note of what this process holds for itself now; nobody else keeps its maximum."""
        self._anon = max(self._anon, _kib("RssAnon"))

    def mib(self) -> dict[str, float]:
        """Return MiB: all resident (mapped files too), what is this process's own, and the GPU's tensors."""
        self.look()
        found = {"resident": _kib("VmHWM") / 1024, "own": self._anon / 1024}
        if self._device.type == "cuda":
            found["gpu"] = torch.cuda.max_memory_allocated(self._device) / 2**20
        return {name: round(value, 1) for name, value in found.items()}


def _kib(name: str) -> int:
    match = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text()) if _STATUS.exists() else None
    return int(match[1]) if match else 0
