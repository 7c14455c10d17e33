"""Fingerprints of the weights asked for. Imports torch; run it in a worker."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from featurestore.backbones.catalogue import BackboneSpec
from featurestore.backbones.weights import WeightsRequest


def made_with() -> dict[str, str]:
    """Return the libraries whose version decides what ``random:SEED`` and ``imagenet`` mean. Without importing them."""
    return {name: version(name) for name in ("timm", "torch")}


def resolve(requests: Sequence[tuple[BackboneSpec, WeightsRequest]]) -> list[dict[str, Any]]:
    """Load each backbone's weights once and say what they are.

    Parameters
    ----------
    requests : sequence of (BackboneSpec, WeightsRequest)

    Returns
    -------
    list of dict
        ``backbone``, ``sha256``, ``labels`` and ``source``.
    """
    from featurestore.backbones.network import load_network

    rows: list[dict[str, Any]] = []
    for backbone, request in requests:
        loaded = load_network(backbone, request)
        rows.append(
            {
                "backbone": backbone.name,
                "sha256": loaded.sha256,
                "labels": loaded.network.labels,
                "source": loaded.source,
            }
        )
    return rows
