"""From the words of the command line to backbones and weights that a worker can load. Without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open

from featurestore.backbones.catalogue import BackboneSpec, parse_backbones
from featurestore.backbones.registry import RegisteredWeights, find_weights
from featurestore.backbones.weights import WeightsRequest, parse_weights
from featurestore.errors import UsageError
from featurestore.store import Store


@dataclass(frozen=True)
class Requested:
    """One backbone with the weights it shall have.

    Parameters
    ----------
    backbone : BackboneSpec
        In the flavour that the weights belong to.
    request : WeightsRequest
        With the path of the file, where there is one.
    registered : RegisteredWeights or None
        What the registry knows of them.
    """

    backbone: BackboneSpec
    request: WeightsRequest
    registered: RegisteredWeights | None = None


def requested(store: Store, backbones: str, weights: str) -> list[Requested]:
    """Read ``--backbones`` and ``--weights``.

    Raises
    ------
    UsageError
        For unknown names, a name that lacks one of the backbones, and paths that lead nowhere.
    """
    chosen = parse_backbones(backbones)
    requests = parse_weights(weights, chosen)
    known = _known(store, requests)
    return [_complete(store, backbone, requests[backbone.name], known.get(backbone.name)) for backbone in chosen]


def _known(store: Store, requests: Mapping[str, WeightsRequest]) -> dict[str, RegisteredWeights]:
    names: Sequence[str] = list(dict.fromkeys(r.given for r in requests.values() if r.kind == "registered"))
    return find_weights(store, names[0], list(requests)) if names else {}


def _complete(
    store: Store, backbone: BackboneSpec, request: WeightsRequest, known: RegisteredWeights | None
) -> Requested:
    if known is not None:
        request = replace(request, path=store.location.table(known.path))
        return Requested(of_variant(backbone, known.variant), request, known)
    if request.kind == "file":
        return Requested(of_variant(backbone, file_variant(Path(request.path))), request)
    return Requested(backbone, request)


def of_variant(backbone: BackboneSpec, variant: str) -> BackboneSpec:
    """Return the backbone in the flavour that its weights belong to.

    Raises
    ------
    UsageError
        For a flavour that is neither ``timm`` nor ``keras``.
    """
    if variant == "timm":  # a backbone may be declared in Keras' flavour, and plain files do not say theirs
        return backbone
    if variant == "keras":
        return replace(backbone, variant="keras")
    message = f"weights of {backbone.name} are of variant {variant!r}; known are timm and keras"
    raise UsageError(message)


def file_variant(path: Path) -> str:
    """Return the flavour that a safetensors file says it belongs to; ``timm`` where it says nothing.

    Raises
    ------
    UsageError
        For a file that is no safetensors file, or not whole.
    """
    try:
        with safe_open(str(path), framework="np") as file:
            return str((file.metadata() or {}).get("variant", "timm"))
    except (SafetensorError, OSError) as error:
        message = f"{path.name} is not a readable safetensors file: {error}"
        raise UsageError(message) from error
