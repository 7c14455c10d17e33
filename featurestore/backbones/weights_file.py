"""Weights as safetensors: timm's names, ``cxr_head.weight`` and ``cxr_head.bias``, and what they are. Imports torch.

The metadata says ``labels`` (JSON list, the head's outputs), ``variant``, and ``ancestors`` where the head was trained
conditionally (JSON, the labels each output takes for given); what a person may want to know stands beside them. A file
that only has timm's names is read as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from featurestore.backbones.catalogue import BackboneSpec
from featurestore.backbones.fits import finite
from featurestore.backbones.weights import WeightsRequest
from featurestore.errors import HarmError, UsageError
from featurestore.store.location import Location

HEAD = "cxr_head"


def pack(
    features: Mapping[str, Tensor],
    head: nn.Linear | None,
    labels: list[str],
    metadata: Mapping[str, str],
    ancestors: Mapping[str, Sequence[str]] | None = None,
) -> bytes:
    """Return a safetensors file.

    Parameters
    ----------
    features : mapping of str to Tensor
        Under timm's names.
    head : torch.nn.Linear or None
    labels : list of str
        One an output of the head.
    metadata : mapping of str to str
        More to be said; ``variant`` at least.
    ancestors : mapping of str to sequence of str, optional
        Of a conditionally trained head.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in features.items()}
    if head is not None:
        state |= {f"{HEAD}.{name}": tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
    given = {"ancestors": json.dumps(ancestors, sort_keys=True)} if ancestors else {}
    return save(state, {**metadata, **given, "labels": json.dumps(labels)})


def read_request(request: WeightsRequest) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of the file that a request for ``file`` or ``registered`` weights leads to.

    Raises
    ------
    UsageError
        For a file that is no safetensors file, or not whole.
    HarmError
        If the file of registered weights is gone.
    """
    if request.kind == "file":
        return unpack(_read(Path(request.path)), Path(request.path).name)
    location = Location.parse(request.path.rpartition("/")[0])
    if location.size(request.path) is None:
        message = (
            f"weights {request.given!r}: their file {request.path.rpartition('/')[2]} is gone from the store; import "
            "the same file again under another --name"
        )
        raise HarmError(message)
    return unpack(location.read_bytes(request.path), f"weights {request.given!r}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:  # a worker on another machine may not see what the driver saw
        raise UsageError(f"{path} cannot be read by the worker ({error.strerror}); put it where all can") from error


def unpack(content: bytes, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of a safetensors file.

    Raises
    ------
    UsageError
        If it is none, or not whole.
    """
    try:
        tensors = load(content)
    except (SafetensorError, ValueError) as error:
        raise UsageError(f"{what} is not a readable safetensors file: {error}") from error
    length = int.from_bytes(content[:8], "little")
    return tensors, json.loads(content[8 : 8 + length]).get("__metadata__") or {}


def without_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the features."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(f"{HEAD}.")}


def read_head(
    spec: BackboneSpec, state: Mapping[str, Tensor], metadata: Mapping[str, str], what: str
) -> tuple[nn.Linear | None, list[str]]:
    """Return the head among ``state``, if there is one, and the names of its outputs.

    Raises
    ------
    UsageError
        Unless it has one output a label, and one input a feature.
    """
    weight, bias = state.get(f"{HEAD}.weight"), state.get(f"{HEAD}.bias")
    if weight is None or bias is None:
        return None, []
    labels: list[str] = json.loads(metadata.get("labels", "[]"))
    if tuple(weight.shape) != (len(labels), spec.n_features) or tuple(bias.shape) != (len(labels),):
        message = (
            f"{what}: head of shape {tuple(weight.shape)} for {len(labels)} named labels; {spec.name} needs "
            f"(n_labels, {spec.n_features}) and metadata 'labels' with as many names"
        )
        raise UsageError(message)
    if not finite(weight) or not finite(bias):
        raise UsageError(f"{what}: its head of {len(labels)} outputs holds NaN or infinite numbers")
    return make_head(weight, bias), labels


def read_ancestors(metadata: Mapping[str, str], labels: list[str], what: str) -> dict[str, list[str]]:
    """Return which labels each of a conditionally trained head's outputs takes for given.

    Raises
    ------
    UsageError
        If one is no output of the head.
    """
    try:
        found: dict[str, list[str]] = json.loads(metadata.get("ancestors", "{}"))
    except json.JSONDecodeError as error:
        raise UsageError(f"{what}: metadata 'ancestors' is not JSON ({error}); export or import it again") from error
    strangers = {name for label, above in found.items() for name in (label, *above)} - set(labels)
    if strangers:
        raise UsageError(f"{what}: metadata 'ancestors' names {', '.join(sorted(strangers))}, which the head lacks")
    return found


def make_head(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return a linear layer of ``weight`` ``(n_labels, n_features)`` and ``bias`` ``(n_labels,)``."""
    head = nn.Linear(weight.shape[1], weight.shape[0])
    head.load_state_dict({"weight": weight, "bias": bias})
    return head
