"""Fingerprints of the weights asked for. Imports torch; run it in a worker."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from featurestore.backbones.catalogue import get_backbone
from featurestore.backbones.weights import WeightsRequest


def made_with() -> dict[str, str]:
    """Return the libraries whose version decides what ``random:SEED`` and ``imagenet`` mean. Without importing them."""
    return {name: version(name) for name in ("timm", "torch")}


def resolve(requests: Mapping[str, WeightsRequest]) -> list[dict[str, Any]]:
    """Load each backbone's weights once and say what they are.

    Parameters
    ----------
    requests : mapping of backbone name to WeightsRequest

    Returns
    -------
    list of dict
        ``backbone``, ``sha256``, ``labels`` and ``source``.
    """
    from featurestore.backbones.network import load_network

    rows: list[dict[str, Any]] = []
    for name, request in requests.items():
        loaded = load_network(get_backbone(name), request)
        rows.append(
            {"backbone": name, "sha256": loaded.sha256, "labels": loaded.network.labels, "source": loaded.source}
        )
    return rows
