"""One spec ready to run: its weights checked, a runtime that computes its features, the head that the weights carry."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from featurestore.backbones.catalogue import BackboneSpec
from featurestore.backbones.network import Network, load_network, probabilities
from featurestore.backbones.runtimes.base import Runtime, Setting, Unavailable
from featurestore.backbones.runtimes.build import build_runtime
from featurestore.backbones.weights import WeightsRequest
from featurestore.cachefolder import cache_folder
from featurestore.errors import HarmError
from featurestore.extraction.worker_config import WorkerConfig

_CPU_BATCH = 16
_GPU_BATCH = 64
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Computer:
    """Computes one spec's vectors.

    Parameters
    ----------
    spec : BackboneSpec
    runtime : Runtime
    head : torch.nn.Linear or None
        On the CPU: it is a thousandth of the work.
    labels : list of str
    ancestors : dict of str to list of str
        Of a conditionally trained head.
    """

    spec: BackboneSpec
    runtime: Runtime
    head: torch.nn.Linear | None
    labels: list[str]
    ancestors: Mapping[str, Sequence[str]]

    def run(self, grey: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return embeddings ``(n, n_features)`` and probabilities ``(n, n_labels)``, if any, of uint8 grey images."""
        embeddings = self.runtime(grey)
        if self.head is None:
            return embeddings, None
        with torch.inference_mode():
            pooled = torch.from_numpy(embeddings)
            return embeddings, probabilities(self.head, self.labels, self.ancestors, pooled).numpy()


def load_computer(
    config: WorkerConfig, spec_id: str, backbone: BackboneSpec, request: WeightsRequest, expected: str
) -> Computer:
    """Load a network and build the runtime that ``config`` names for it, or eager PyTorch where this machine lacks it.

    Raises
    ------
    HarmError
        If its weights changed since the plan was made.
    """
    device = choose_device()
    network = load_checked(backbone, request, expected, device)
    head = None if network.head is None else network.head.cpu()
    setting = setting_for(config, spec_id, device)
    kind = dict(config.runtimes).get(spec_id, "eager")
    try:
        runtime = build_runtime(kind, network, device, setting)
    except Unavailable as reason:
        # The numbers agree to 1e-3 and say what computed them: a machine that lacks a library can still help.
        _LOG.warning("%s: %s is not used on %s: %s", backbone.name, kind, socket.gethostname(), reason)
        runtime = build_runtime("eager", network, device, setting)
    return Computer(backbone, runtime, head, network.labels, network.ancestors)


def load_checked(backbone: BackboneSpec, request: WeightsRequest, expected: str, device: torch.device) -> Network:
    """Return a network on ``device``, channels last, whose weights are those of the plan.

    Raises
    ------
    HarmError
        If they are not.
    """
    loaded = load_network(backbone, request)
    if loaded.sha256 != expected:
        message = (
            f"weights of {backbone.name} changed while the job started ({expected[:12]} became "
            f"{loaded.sha256[:12]}); start it again once they are settled"
        )
        raise HarmError(message)
    return loaded.network.to(device).to(memory_format=torch.channels_last)


def choose_device() -> torch.device:
    """Return the GPU that this process was given, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def batch_images(config: WorkerConfig, device: torch.device) -> int:
    """Return how many images go through a network at once."""
    return config.batch_images or (_GPU_BATCH if device.type == "cuda" else _CPU_BATCH)


def setting_for(config: WorkerConfig, spec_id: str, device: torch.device) -> Setting:
    """Return what a spec's runtime is built for; compiled forms are kept by spec_id, which stands for the weights."""
    cache = cache_folder("networks") / spec_id
    cache.mkdir(exist_ok=True)
    return Setting(config.size, batch_images(config, device), config.threads, cache, config.precision)
