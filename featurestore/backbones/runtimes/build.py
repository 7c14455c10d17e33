"""A runtime by its kind, checked against eager PyTorch before it is trusted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from featurestore.backbones.network import Network
from featurestore.backbones.runtimes import compiled, eager, openvino
from featurestore.backbones.runtimes.base import Runtime, Setting, Unavailable

_BUILDERS: dict[str, Callable[[Network, torch.device, Setting], Runtime]] = {
    "eager": eager.build,
    "compiled": compiled.build,
    "openvino": openvino.build,
}
TOLERANCE = 1e-4
"""Largest difference to eager PyTorch, relative to the largest value of the vector; 1e-3 is promised to users."""


def build_runtime(kind: str, network: Network, device: torch.device, setting: Setting) -> Runtime:
    """Build a runtime and compare it with eager PyTorch on a few images.

    PyTorch 2.14 compiles InceptionResNetV2 with frozen weights into a network whose features differ by a tenth, without
    a word. So no compiler is believed.

    Parameters
    ----------
    kind : str
    network : Network
        On ``device``.
    device : torch.device
    setting : Setting

    Raises
    ------
    Unavailable
        If this machine does not have it, or it computes something else.
    """
    if kind != "eager" and setting.precision != "float32":
        message = f"{setting.precision} is run in eager PyTorch only"
        raise Unavailable(message)
    if kind == "eager":
        return eager.build(network, device, setting)
    try:
        runtime = _BUILDERS[kind](network, device, setting)
        _check_agrees(runtime, eager.build(network, device, setting), setting.size)
    except Unavailable:
        raise
    except Exception as error:  # compilers and converters fail in their own ways; eager PyTorch does the work then
        message = f"it cannot be built: {type(error).__name__}: {_first_line(error)}"
        raise Unavailable(message) from error
    return runtime


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")[:200]


def trial_images(count: int, size: int) -> NDArray[np.uint8]:
    """Return grey images to try a runtime on, the same every time: smooth and rough parts, the full range."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, size)[None, :, None] * np.linspace(0.2, 1, size)[None, None, :]
    noise = rng.integers(-40, 40, (count, size, size))
    trial: NDArray[np.uint8] = np.clip(ramp + noise, 0, 255).astype(np.uint8)
    return trial


def _check_agrees(runtime: Runtime, reference: Runtime, size: int) -> None:
    grey = trial_images(2, size)
    expected, found = reference(grey), runtime(grey)
    gap = float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), np.finfo(np.float32).tiny))
    if not gap <= TOLERANCE:  # a NaN is not
        message = f"its features differ from eager PyTorch's by {gap:.1e} of the largest"
        raise Unavailable(message)
