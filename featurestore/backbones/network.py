"""Networks in torch: features -> global average pool -> optional Linear, whatever the architecture calls its parts.

The one module below `featurestore` that imports torch and timm; workers import it, drivers never do.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from featurestore.backbones.catalogue import BackboneSpec
from featurestore.backbones.weights import WeightsRequest
from featurestore.errors import UsageError


class Network(nn.Module):
    """A backbone with the paper's tap, and its 1 x 1 classification layer where the weights carry one.

    Parameters
    ----------
    features : torch.nn.Module
        A timm model; only its ``forward_features`` is used.
    spec : BackboneSpec
    head : torch.nn.Linear or None
    labels : list of str
        Names of the head's outputs, empty without a head.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: nn.Module, spec: BackboneSpec, head: nn.Linear | None, labels: list[str]) -> None:
        super().__init__()
        self.features = features
        self.head = head
        self.labels = labels
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    def normalise(self, grey: Tensor) -> Tensor:
        """Return uint8 grey ``(n, h, w)`` as normalised float32 ``(n, 3, h, w)``, channels last."""
        rgb = grey.unsqueeze(1).to(torch.float32).div_(255).expand(-1, 3, -1, -1)
        normal: Tensor = (rgb - self.mean) / self.std
        return normal.contiguous(memory_format=torch.channels_last)

    def feature_maps(self, grey: Tensor) -> Tensor:
        """Return the last feature maps ``(n, n_features, h', w')`` of uint8 grey ``(n, h, w)``."""
        maps: Tensor = self.features.forward_features(self.normalise(grey))  # type: ignore[operator]
        return maps

    def forward(self, grey: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return embeddings ``(n, n_features)`` float32, and the head's probabilities ``(n, n_labels)`` if any."""
        pooled = self.feature_maps(grey).to(torch.float32).mean((2, 3))
        return pooled, None if self.head is None else torch.sigmoid(self.head(pooled))


@dataclass(frozen=True)
class LoadedWeights:
    """A network ready to run and what identifies its weights.

    Parameters
    ----------
    network : Network
    sha256 : str
        Over names, shapes, dtypes and bytes of every tensor.
    source : str
        For a person: where the weights came from.
    """

    network: Network
    sha256: str
    source: str


def load_network(spec: BackboneSpec, request: WeightsRequest) -> LoadedWeights:
    """Build a backbone with exactly the weights asked for.

    Raises
    ------
    UsageError
        If the hub cannot be reached, or a file does not fit the architecture; nothing else is tried instead.
    """
    loaders = {"random": _random, "imagenet": _imagenet, "file": _from_file}
    network, source = loaders[request.kind](spec, request)
    network.eval().requires_grad_(False)
    return LoadedWeights(network, fingerprint(network.state_dict()), source)


def fingerprint(state: dict[str, Tensor]) -> str:
    """Return the SHA-256 over name, dtype, shape and bytes of every tensor, in order of names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def _random(spec: BackboneSpec, request: WeightsRequest) -> tuple[Network, str]:
    # fork_rng leaves the process's own random state as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        model = timm.create_model(spec.timm_name, pretrained=False, num_classes=0)
    return Network(_features_only(model), spec, None, []), f"random initialisation, seed {request.seed}, untrained"


def _imagenet(spec: BackboneSpec, request: WeightsRequest) -> tuple[Network, str]:
    # Without a network the hub's client retries for half a minute, with a warning for each try.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        model = timm.create_model(spec.timm_name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub's client raises its own, httpx's and requests' errors
        message = (
            f"ImageNet weights of {spec.name} could not be fetched from timm's hub ({type(error).__name__}: "
            f"{_first_line(error)}); connect once, or give a file with --weights PATH, or say --weights random:SEED "
            "for a pipeline check"
        )
        raise UsageError(message) from error
    config: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    return Network(_features_only(model), spec, None, []), f"timm {config.get('hf_hub_id') or config.get('url')}"


def _from_file(spec: BackboneSpec, request: WeightsRequest) -> tuple[Network, str]:
    """Read ``.safetensors`` with timm's names; ``cxr_head.*`` and metadata ``labels`` (JSON) optional."""
    state, metadata = _read_safetensors(Path(request.path))
    head, labels = _head(spec, state, metadata, request.path)
    model = _features_only(timm.create_model(spec.timm_name, pretrained=False, num_classes=0))
    _check_fits(spec, model.state_dict(), state, request.path)
    model.load_state_dict(state)
    return Network(model, spec, head, labels), f"file {Path(request.path).name}"


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        message = f"{path.name} is not a readable safetensors file: {error}"
        raise UsageError(message) from error


def _head(
    spec: BackboneSpec, state: dict[str, Tensor], metadata: dict[str, str], path: str
) -> tuple[nn.Linear | None, list[str]]:
    """Take the head out of ``state``, if there is one."""
    weight, bias = state.pop("cxr_head.weight", None), state.pop("cxr_head.bias", None)
    if weight is None or bias is None:
        return None, []
    labels: list[str] = json.loads(metadata.get("labels", "[]"))
    if tuple(weight.shape) != (len(labels), spec.n_features) or tuple(bias.shape) != (len(labels),):
        message = (
            f"{Path(path).name}: head of shape {tuple(weight.shape)} for {len(labels)} named labels; {spec.name} needs "
            f"(n_labels, {spec.n_features}) and metadata 'labels' with as many names"
        )
        raise UsageError(message)
    head = nn.Linear(spec.n_features, len(labels))
    head.load_state_dict({"weight": weight, "bias": bias})
    return head, labels


def _check_fits(spec: BackboneSpec, own: dict[str, Tensor], given: dict[str, Tensor], path: str) -> None:
    missing, extra = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    shapes = [n for n in own.keys() & given.keys() if own[n].shape != given[n].shape]
    broken = [n for n, t in given.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    for names, what in (
        (missing, "lacks"),
        (extra, "has unknown"),
        (shapes, "has another shape of"),
        (broken, "has NaN or infinite"),
    ):
        if names:
            message = (
                f"{Path(path).name} does not fit {spec.name}: it {what} {len(names)} tensors, first {min(names)!r}"
            )
            raise UsageError(message)


def _features_only(model: nn.Module) -> nn.Module:
    """Drop what comes after the tap: timm's VGG keeps 120 million parameters there even without classes."""
    for name in ("pre_logits", "head"):
        if hasattr(model, name):
            setattr(model, name, nn.Identity())
    return model


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def run_batch(network: Network, grey: NDArray[np.uint8], device: torch.device) -> tuple[Any, Any]:
    """Run one batch.

    Parameters
    ----------
    network : Network
        On ``device``.
    grey : ndarray of shape (n, size, size), uint8
    device : torch.device

    Returns
    -------
    embeddings : ndarray of shape (n, n_features), float32
    probabilities : ndarray of shape (n, n_labels), float32, or None without a head
    """
    with torch.inference_mode():
        pooled, scores = network(torch.from_numpy(grey).to(device, non_blocking=True))
    return pooled.cpu().numpy(), None if scores is None else scores.cpu().numpy()
