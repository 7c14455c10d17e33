"""What `cxr weights` does: bring weights into the store's registry, look at them, give them out again."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from classifiers.cnn.hierarchy import ancestors
from featurestore.backbones.catalogue import BackboneSpec, parse_backbones
from featurestore.backbones.registry import RegisteredWeights, find_weights, registered
from featurestore.backbones.weights import is_weights_name
from featurestore.errors import UsageError
from featurestore.store import Store
from jobs.runlog import record_run


@dataclass(frozen=True)
class ImportRequest:
    """Which file is to be known under which name.

    Parameters
    ----------
    file : Path
        Keras' ``.hdf5`` or ``.h5``, torch's ``.pt`` or ``.pth``, or ``.safetensors``.
    name : str
        ``[a-z0-9_]+``.
    backbone : str
        One, of the catalogue or as ``module:SPEC``.
    labels : sequence of str, optional
        Of the head's outputs.
    source, licence, preprocess : str, optional
        For a person; the file's own words, or its name, where absent.
    conditional : str, optional
        The hierarchy that the head was trained on conditionally (`classifiers.cnn.hierarchy`).
    """

    file: Path
    name: str
    backbone: str
    labels: Sequence[str] | None = None
    source: str | None = None
    licence: str | None = None
    preprocess: str | None = None
    conditional: str | None = None


@dataclass(frozen=True)
class ImportSummary:
    """What is registered now, and what a person should know of the file."""

    weights: RegisteredWeights
    notes: list[str] = field(default_factory=list)


def import_weights(store: Store, request: ImportRequest) -> ImportSummary:
    """Read a file whole, check it, and register it; torch runs in this process, since the file is on this machine.

    Raises
    ------
    featurestore.errors.UsageError
        For a file that does not fit, a name that cannot be or stands for other weights. Nothing is written then.
    """
    from featurestore.backbones.importing import import_file
    from featurestore.backbones.register_network import register_network

    backbone = _one(request.backbone)
    if not is_weights_name(request.name):
        message = f"--name {request.name!r}: 1 to 64 lower-case letters, digits and '_', and not imagenet or random"
        raise UsageError(message)
    found = import_file(backbone, request.file, request.labels)
    if request.conditional is not None:
        found.network.ancestors = _ancestors(found.network.labels, request)
    there = bool(registered(store, request.name, backbone.name))
    arguments = {"action": "import", "name": request.name, "backbone": backbone.name}
    with record_run(store, "weights", None, arguments):
        weights = register_network(
            store,
            found.network,
            request.name,
            request.source or found.metadata.get("source") or f"file {request.file.name}",
            licence=request.licence or found.metadata.get("licence"),
            preprocess=request.preprocess or found.metadata.get("preprocess"),
        )
    notes = ["exactly these weights were registered under this name already; nothing was changed"] if there else []
    return ImportSummary(weights, [*found.notes, *notes])


def _ancestors(labels: Sequence[str], request: ImportRequest) -> dict[str, list[str]]:
    found = ancestors(labels, request.conditional or "")
    if not found:
        message = (
            f"--conditional {request.conditional}: none of the head's labels ({', '.join(labels) or 'it has no head'}) "
            "has a parent among them; leave it out"
        )
        raise UsageError(message)
    return found


def _one(backbone: str) -> BackboneSpec:
    specs = parse_backbones(backbone)
    if len(specs) != 1:
        message = f"--backbone {backbone!r} means {len(specs)} networks; a file holds the weights of one: name it"
        raise UsageError(message)
    return specs[0]


def show_weights(store: Store, name: str, backbone: str | None = None) -> list[RegisteredWeights]:
    """Return the weights of a name, one for each backbone.

    Raises
    ------
    featurestore.errors.UsageError
        For an unknown name, or a backbone that it lacks.
    """
    found = find_weights(store, name, [backbone] if backbone else [])
    return [weights for weights in found.values() if backbone in (None, weights.backbone)]


def export_weights(store: Store, name: str, backbone: str | None, out: Path) -> tuple[RegisteredWeights, int]:
    """Write registered weights as a safetensors file that names itself; importing it gives the same SHA-256.

    Returns
    -------
    RegisteredWeights
    int
        Bytes written.

    Raises
    ------
    featurestore.errors.UsageError
        For an unknown name, one of several backbones without saying which, or a file that is there.
    """
    found = show_weights(store, name, backbone)
    if len(found) != 1:
        message = f"weights {name!r} exist for {', '.join(w.backbone for w in found)}; name one with --backbone"
        raise UsageError(message)
    if out.exists():
        raise UsageError(f"--out {out} is there already; remove it or name another file")
    (weights,) = found
    content = _with_metadata(store.location.read_bytes(weights.path), _metadata(weights))
    _write(out, content)
    return weights, len(content)


def _metadata(weights: RegisteredWeights) -> dict[str, str]:
    described = {"source": weights.source, "licence": weights.licence, "preprocess": weights.preprocess}
    return {key: value for key, value in described.items() if value} | {"name": weights.name}


def _with_metadata(content: bytes, more: dict[str, str]) -> bytes:
    """Put more words into a safetensors file's header: eight bytes of length, JSON, then the tensors as they were."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = (header.get("__metadata__") or {}) | more
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _write(out: Path, content: bytes) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        scratch.write_bytes(content)
        scratch.replace(out)
    finally:
        scratch.unlink(missing_ok=True)
