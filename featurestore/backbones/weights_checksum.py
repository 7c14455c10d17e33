"""Is a registered weights file still what was registered? Its name says so: the SHA-256 of its tensors and labels.

The sum of `featurestore.backbones.network.fingerprint`, taken over the file's bytes: without torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

from featurestore.backbones.registry import FOLDER
from featurestore.store.checksums import DamagedFile
from featurestore.store.location import Location

_NAME = re.compile(r"(?P<sha256>[0-9a-f]{64})\.safetensors")
_HEAD = "cxr_head."  # as in featurestore.backbones.weights_file, which imports torch
_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}
"""What safetensors calls a type, and torch."""


def damaged_weights(location: Location, registered: Iterable[str] = ()) -> list[DamagedFile]:
    """Read every weights file of a store and compare it with its name.

    Parameters
    ----------
    location : Location
    registered : iterable of str
        SHA-256 of the weights that have to be there.

    Returns
    -------
    list of DamagedFile
        Sorted by path; empty where all are whole.
    """
    there = {match["sha256"] for name in location.list_files(FOLDER) if (match := _NAME.fullmatch(name))}
    # One after the other: each is in memory whole, and may have hundreds of megabytes.
    found = [_damage(location, sha256, gone=sha256 not in there) for sha256 in sorted(there | set(registered))]
    return [damage for damage in found if damage]


def fingerprint_of_file(content: bytes) -> str:
    """Return the SHA-256 that `featurestore.backbones.network.fingerprint` gives the network in a safetensors file.

    Parameters
    ----------
    content : bytes
        As `featurestore.backbones.weights_file.pack` wrote it (the format: eight bytes of length, JSON, tensors).

    Raises
    ------
    ValueError
        If it is no safetensors file, or not whole.
    """
    length = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__", None) or {}
    labels, ancestors = json.loads(metadata.get("labels", "[]")), json.loads(metadata.get("ancestors", "{}"))
    tensors = {_network_name(name): facts for name, facts in header.items()}
    data = memoryview(content)[8 + length :]
    digest = hashlib.sha256()
    for name in sorted(tensors):
        facts = tensors[name]
        digest.update(f"{name}|torch.{_DTYPES[facts['dtype']]}|{tuple(facts['shape'])}|".encode())
        digest.update(_piece(data, *facts["data_offsets"]))
    if labels:
        digest.update(json.dumps(labels).encode())
    if ancestors:
        digest.update(json.dumps(ancestors, sort_keys=True).encode())
    return digest.hexdigest()


def _network_name(name: str) -> str:
    return name.replace(_HEAD, "head.", 1) if name.startswith(_HEAD) else f"features.{name}"


def _piece(data: memoryview, start: int, end: int) -> memoryview:
    if not 0 <= start <= end <= len(data):
        raise ValueError(f"a tensor lies at bytes {start} to {end} of {len(data)}")
    return data[start:end]


def _damage(location: Location, sha256: str, *, gone: bool) -> DamagedFile | None:
    path = f"{FOLDER}/{sha256}.safetensors"
    if gone:
        return DamagedFile(path, "it is gone, and weights are registered that need it")
    try:
        found = fingerprint_of_file(location.read_bytes(path))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return DamagedFile(path, f"it is no readable safetensors file any more: {error}")
    if found != sha256:
        return DamagedFile(path, f"its content changed: SHA-256 {sha256[:12]} became {found[:12]}")
    return None
