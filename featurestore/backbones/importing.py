"""From a file of weights, whoever made it, to a network that can be registered. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from featurestore.backbones.catalogue import BackboneSpec
from featurestore.backbones.fits import finite
from featurestore.backbones.foreign import load_torch, match
from featurestore.backbones.network import Network
from featurestore.backbones.requests import of_variant
from featurestore.backbones.variants import build
from featurestore.backbones.weights_file import make_head, read_ancestors, read_head, unpack, without_head
from featurestore.errors import UsageError
from featurestore.images.sources.labels import CHEXPERT_LABELS

KERAS = (".hdf5", ".h5")
TORCH = (".pt", ".pth")


@dataclass(frozen=True)
class Imported:
    """A network out of a file.

    Parameters
    ----------
    network : Network
        In evaluation mode; its spec says the variant.
    notes : list of str
        For a person: what was assumed or left out.
    metadata : dict of str to str
        What the file says of itself: ``source``, ``licence``, ``preprocess``, where it is one of ours.
    """

    network: Network
    notes: list[str]
    metadata: dict[str, str]


def import_file(spec: BackboneSpec, path: Path, labels: Sequence[str] | None = None) -> Imported:
    """Read weights of one backbone.

    Parameters
    ----------
    spec : BackboneSpec
    path : Path
        ``.hdf5`` or ``.h5`` by Keras, ``.pt`` or ``.pth`` by torch, ``.safetensors``.
    labels : sequence of str, optional
        Of the head's outputs, in order. Where absent: those in the file, or CheXpert's for 14 outputs.

    Raises
    ------
    UsageError
        For a file of another kind or architecture, one that is not whole, NaN, and a head that the labels do not fit.
    """
    if not path.is_file():
        raise UsageError(f"no file {path}; give the path of one .hdf5, .pt or .safetensors file")
    if path.suffix in KERAS:
        found = _from_keras(spec, path, labels)
    elif path.suffix in TORCH:
        found = _from_state(spec, load_torch(path), path.name, labels)
    elif path.suffix == ".safetensors":
        found = _from_safetensors(spec, path, labels)
    else:
        message = f"{path.name}: files of weights end in .hdf5 or .h5 (Keras), .pt or .pth (torch), or .safetensors"
        raise UsageError(message)
    found.network.eval().requires_grad_(False)
    return found


def _from_keras(spec: BackboneSpec, path: Path, labels: Sequence[str] | None) -> Imported:
    from featurestore.backbones.keras_convert import convert
    from featurestore.backbones.keras_h5 import read_keras

    spec = replace(spec, variant="keras")
    model = build(spec)
    found = convert(spec, model, read_keras(path), path.name)
    model.load_state_dict(found.state)
    network = Network(model, spec, None, [])
    notes = [f"left out {found.left_out}"] if found.left_out else []
    return _with_head(Imported(network, notes, {}), found.head, labels, path.name)


def _from_safetensors(spec: BackboneSpec, path: Path, labels: Sequence[str] | None) -> Imported:
    state, metadata = unpack(path.read_bytes(), path.name)
    spec, features = of_variant(spec, metadata.get("variant", "timm")), without_head(state)
    if len(features) == len(state):
        return _from_state(spec, features, path.name, labels, metadata)
    found = _from_state(spec, features, path.name, None, metadata)
    head, names = read_head(spec, state, metadata, path.name)
    if labels is not None and list(labels) != names:
        message = f"{path.name} says its head's labels are {', '.join(names)}; --labels {','.join(labels)} are others"
        raise UsageError(message)
    found.network.head, found.network.labels = head, names
    found.network.ancestors = read_ancestors(metadata, names, path.name)
    return found


def _from_state(
    spec: BackboneSpec,
    state: dict[str, Tensor],
    what: str,
    labels: Sequence[str] | None,
    metadata: dict[str, str] | None = None,
) -> Imported:
    model = build(spec)
    found = match(spec, model, state, what)
    model.load_state_dict(found.state)
    notes = ["its tensors have other names than timm's: taken in order, all shapes fit"] if found.by_order else []
    notes += [f"left out {found.left_out}"] if found.left_out else []
    return _with_head(Imported(Network(model, spec, None, []), notes, metadata or {}), found.classifier, labels, what)


def _with_head(
    imported: Imported, head: tuple[Tensor, Tensor] | None, labels: Sequence[str] | None, what: str
) -> Imported:
    """Give the network its head, where there is one whose outputs have names."""
    if head is None:
        if labels is not None:
            why = f" ({imported.notes[0]})" if imported.notes else ""
            raise UsageError(f"{what} has no head that --labels could name{why}; leave --labels out")
        return imported
    outputs = head[0].shape[0]
    if not all(finite(tensor) for tensor in head):
        raise UsageError(f"{what}: its head of {outputs} outputs holds NaN or infinite numbers")
    names, note = _names(outputs, labels, what)
    if names:
        imported.network.head, imported.network.labels = make_head(*head), names
    return replace(imported, notes=[*imported.notes, *note])


def _names(outputs: int, labels: Sequence[str] | None, what: str) -> tuple[list[str], list[str]]:
    if labels is not None:
        if len(labels) != outputs or len(set(labels)) != outputs:
            message = f"{what} has a head of {outputs} outputs; --labels names {len(set(labels))}: name each once"
            raise UsageError(message)
        return list(labels), []
    if outputs == len(CHEXPERT_LABELS):
        return list(CHEXPERT_LABELS), ["its 14 outputs are taken for CheXpert's labels in order; --labels says others"]
    return [], [
        f"left out its head of {outputs} outputs, whose labels are unknown; --labels a,b,... names and keeps it"
    ]
