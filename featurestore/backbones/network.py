"""Networks in torch: features -> global average pool -> optional Linear, whatever the architecture calls its parts.

Workers import it, and through it torch and timm; drivers never do.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featurestore.backbones.catalogue import BackboneSpec
from featurestore.backbones.fits import check_fits
from featurestore.backbones.variants import build
from featurestore.backbones.weights import WeightsRequest
from featurestore.backbones.weights_file import read_ancestors, read_head, read_request, without_head
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
    ancestors : mapping of str to list of str, optional
        Of a conditionally trained head: the labels that a label's output takes for given.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        features: nn.Module,
        spec: BackboneSpec,
        head: nn.Linear | None,
        labels: list[str],
        ancestors: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.head = head
        self.labels = labels
        self.ancestors: Mapping[str, Sequence[str]] = ancestors or {}
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1), persistent=False)

    def normalise(self, grey: Tensor) -> Tensor:
        """Return uint8 grey ``(n, h, w)`` as normalised float32 ``(n, in_chans, h, w)``, channels last."""
        low, high = self.spec.pixel_range
        pixels = grey.unsqueeze(1).to(torch.float32).div_(255)
        if (low, high) != (0, 1):
            pixels = pixels.mul_(high - low).add_(low)
        normal: Tensor = (pixels.expand(-1, self.spec.in_chans, -1, -1) - self.mean) / self.std
        return normal.contiguous(memory_format=torch.channels_last)

    def feature_maps(self, grey: Tensor) -> Tensor:
        """Return the last feature maps ``(n, n_features, h', w')`` of uint8 grey ``(n, h, w)``."""
        maps: Tensor = self.features.forward_features(self.normalise(grey))  # type: ignore[operator]
        return maps

    def forward(self, grey: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return embeddings ``(n, n_features)`` float32, and the head's probabilities ``(n, n_labels)`` if any."""
        pooled = self.pooled(grey)
        return pooled, None if self.head is None else probabilities(self.head, self.labels, self.ancestors, pooled)

    def pooled(self, grey: Tensor) -> Tensor:
        """Return embeddings ``(n, n_features)`` float32 of uint8 grey ``(n, h, w)``."""
        return self.feature_maps(grey).to(torch.float32).mean((2, 3))


def probabilities(
    head: nn.Linear, labels: Sequence[str], ancestors: Mapping[str, Sequence[str]], pooled: Tensor
) -> Tensor:
    """Return a head's unconditional probabilities.

    A conditionally trained output is the probability given that its parents are present; the unconditional one is the
    product along the path (Pham et al., Neurocomputing 2021, section 3).

    Parameters
    ----------
    head : torch.nn.Linear
    labels : sequence of str, of length n_labels
    ancestors : mapping of str to sequence of str
        Each among the labels; a label that is absent has none.
    pooled : Tensor of shape (n, n_features), float32

    Returns
    -------
    Tensor of shape (n, n_labels), float32
        In [0, 1].
    """
    given: Tensor = torch.sigmoid(head(pooled))
    if not ancestors:
        return given
    paths = [[labels.index(name) for name in (label, *ancestors.get(label, ()))] for label in labels]
    return torch.stack([given[:, path].prod(1) for path in paths], dim=1)


@dataclass(frozen=True)
class LoadedWeights:
    """A network ready to run and what identifies its weights.

    Parameters
    ----------
    network : Network
    sha256 : str
        See `fingerprint`.
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
    loaders = {"random": _random, "imagenet": _imagenet, "file": _from_file, "registered": _from_file}
    network, source = loaders[request.kind](spec, request)
    network.eval().requires_grad_(False)
    return LoadedWeights(network, fingerprint(network.state_dict(), network.labels, network.ancestors), source)


def fingerprint(
    state: dict[str, Tensor], labels: Sequence[str] = (), ancestors: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Return the SHA-256 over name, dtype, shape and bytes of every tensor, in order of names, labels and ancestors.

    These belong to it: the same head under other names, or on other conditions, gives other scores.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    if labels:
        digest.update(json.dumps(list(labels)).encode())
    if ancestors:
        digest.update(json.dumps(ancestors, sort_keys=True).encode())
    return digest.hexdigest()


def _random(spec: BackboneSpec, request: WeightsRequest) -> tuple[Network, str]:
    # fork_rng leaves the process's own random state as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        model = build(spec)
    return Network(model, spec, None, []), f"random initialisation, seed {request.seed}, untrained"


def _imagenet(spec: BackboneSpec, request: WeightsRequest) -> tuple[Network, str]:
    if ":" in spec.timm_name:
        message = f"timm's hub has no ImageNet weights for {spec.timm_name!r} of backbone {spec.name!r}; name others"
        raise UsageError(message)
    # Without a network the hub's client retries for half a minute, with a warning for each try.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        model: Any = build(spec, pretrained=True)
    except UsageError:
        raise
    except Exception as error:  # the hub's client raises its own, httpx's and requests' errors
        message = (
            f"ImageNet weights of {spec.name} could not be fetched from timm's hub ({type(error).__name__}: "
            f"{_first_line(error)}); connect once, or give a file with --weights PATH, or say --weights random:SEED "
            "for a pipeline check"
        )
        raise UsageError(message) from error
    config: dict[str, Any] = model.pretrained_cfg
    return Network(model, spec, None, []), f"timm {config.get('hf_hub_id') or config.get('url')}"


def _from_file(spec: BackboneSpec, request: WeightsRequest) -> tuple[Network, str]:
    """Read ``.safetensors`` with timm's names; ``cxr_head.*`` and metadata ``labels`` (JSON) optional."""
    what = f"weights {request.given!r}" if request.kind == "registered" else request.path.rpartition("/")[2]
    state, metadata = read_request(request)
    if metadata.get("variant") == "keras" != spec.variant:
        raise UsageError(f"{what} belongs to Keras' {spec.name}, and timm's would compute other features from it")
    model = build(spec)
    features = without_head(state)
    check_fits(spec, model.state_dict(), features, what)
    model.load_state_dict(features)
    head, labels = read_head(spec, state, metadata, what)
    ancestors = read_ancestors(metadata, labels, what)
    return Network(model, spec, head, labels, ancestors), f"file {what}" if request.kind == "file" else what


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
