"""OpenVINO in float32: converted once, kept in the cache; a fifth faster where the CPU has no AVX-512.

Importing OpenVINO reports to its makers over the network. Nothing leaves this machine: the package that reports is
withheld from it, for which it is prepared.
"""

from __future__ import annotations

import sys
import uuid
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from featurestore.backbones.network import Network
from featurestore.backbones.runtimes.base import Pooled, Setting, Unavailable, in_batches
from featurestore.backbones.runtimes.machine import library_versions


class OpenVino:
    """Runs a converted network in one request after the other."""

    def __init__(self, network: Network, setting: Setting) -> None:
        ov = _openvino()
        self._batch = setting.batch
        core = ov.Core()
        model = core.read_model(_converted(network, setting))
        settings = {
            "INFERENCE_NUM_THREADS": setting.threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._request: Any = core.compile_model(model, "CPU", settings).create_infer_request()
        self.name = f"OpenVINO {ov.__version__.split('-')[0]} float32, cpu"

    def __call__(self, grey: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return embeddings ``(n, n_features)`` float32 of uint8 grey images ``(n, size, size)``."""
        return in_batches(self._run, grey, self._batch)

    def _run(self, grey: NDArray[np.uint8]) -> NDArray[np.float32]:
        # The result is the request's own memory, overwritten by the next batch.
        pooled: NDArray[np.float32] = self._request.infer([grey])[0].copy()
        return pooled


def build(network: Network, device: torch.device, setting: Setting) -> OpenVino:
    """Return the converted network.

    Raises
    ------
    Unavailable
        On a GPU, or where OpenVINO is not installed or cannot convert this network.
    """
    if device.type != "cpu":
        message = "OpenVINO is used on the CPU only"
        raise Unavailable(message)
    try:
        return OpenVino(network, setting)
    except ImportError as error:
        message = "OpenVINO is not installed; pip install 'cxrstore[openvino]'"
        raise Unavailable(message) from error
    except RuntimeError as error:  # OpenVINO's own exceptions, all below RuntimeError
        message = f"OpenVINO cannot run it: {str(error).strip().splitlines()[0][:200]}"
        raise Unavailable(message) from error


def _openvino() -> ModuleType:
    # None makes its import fail, as if it were not installed.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    module: ModuleType = openvino
    return module


def _converted(network: Network, setting: Setting) -> Path:
    """Return the converted network's file, made where it is missing; in place at once, whoever else makes it too."""
    ov = _openvino()
    # The file is the network as torch and timm of these versions run it.
    versions = "-".join(library_versions().values())
    path = setting.cache / f"{versions}-{setting.size}-{setting.batch}.xml"
    if path.exists():
        return path
    shape = [setting.batch, setting.size, setting.size]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, about Python code that is constant here
        model = ov.convert_model(Pooled(network), example_input=torch.zeros(shape, dtype=torch.uint8))
    model.reshape(shape)
    draft = path.with_name(f"{uuid.uuid4().hex}.xml")
    ov.save_model(model, draft, compress_to_fp16=False)  # by default it would halve the precision
    draft.with_suffix(".bin").replace(path.with_suffix(".bin"))
    draft.replace(path)
    return path
