"""What identifies an embedding: everything that changes the vector, hashed into a spec_id. Without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featurestore.backbones.catalogue import BackboneSpec


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
        return {
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

    @property
    def spec_id(self) -> str:
        """Return ``s`` and 12 hex digits. The letter keeps DuckDB from reading an id of digits as a number."""
        text = json.dumps(self.description(), sort_keys=True, separators=(",", ":"))
        return "s" + hashlib.sha256(text.encode()).hexdigest()[:12]
