"""What identifies an embedding: everything that changes the vector, hashed into a spec_id. Without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featurestore.backbones.catalogue import BackboneSpec

_PLAIN = BackboneSpec("plain", "plain", 1)


@dataclass(frozen=True)
class ExtractionSpec:
    """One backbone with given weights, fed in one way.

    Parameters
    ----------
    backbone : BackboneSpec
    weights_sha256 : str
    preprocess : mapping
        What `featurestore.images.preprocess.Preprocess.describe` returns, size included.
    precision : str
        Numeric precision of the forward pass; pooling is always float32.
    """

    backbone: BackboneSpec
    weights_sha256: str
    preprocess: Mapping[str, Any]
    precision: str = "float32"

    def description(self) -> dict[str, Any]:
        """Return everything that changes the vector, as JSON-able data."""
        described: dict[str, Any] = {
            "architecture": self.backbone.timm_name,
            "variant": self.backbone.variant,
            "weights_sha256": self.weights_sha256,
            "tap": "forward_features",
            "pooling": "global average",
            "preprocess": dict(self.preprocess),
            "mean": list(self.backbone.mean),
            "std": list(self.backbone.std),
            "precision": self.precision,
        }
        # Said only where it is not the paper's: a key more would give every stored vector another spec.
        if self.backbone.in_chans != _PLAIN.in_chans or self.backbone.pixel_range != _PLAIN.pixel_range:
            described |= {"in_chans": self.backbone.in_chans, "pixel_range": list(self.backbone.pixel_range)}
        return described

    @property
    def spec_id(self) -> str:
        """Return ``s`` and 12 hex digits. The letter keeps DuckDB from reading an id of digits as a number."""
        text = json.dumps(self.description(), sort_keys=True, separators=(",", ":"))
        return "s" + hashlib.sha256(text.encode()).hexdigest()[:12]


def described_backbone(name: str, n_features: int, description: Mapping[str, Any]) -> BackboneSpec:
    """Return the backbone that a stored spec was made with, also one that no catalogue holds any more.

    Parameters
    ----------
    name : str
    n_features : int
    description : mapping
        What `ExtractionSpec.description` returned.
    """
    return BackboneSpec(
        name,
        description["architecture"],
        n_features,
        variant=description["variant"],
        mean=tuple(description["mean"]),
        std=tuple(description["std"]),
        in_chans=description.get("in_chans", _PLAIN.in_chans),
        pixel_range=tuple(description.get("pixel_range", _PLAIN.pixel_range)),
    )
