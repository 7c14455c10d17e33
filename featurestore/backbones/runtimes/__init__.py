"""What computes a network: PyTorch as it is, compiled by PyTorch, or OpenVINO. Same numbers, other speed (ADR 0012).

This file is light: drivers read kinds and choices, only workers import torch.
"""

from __future__ import annotations

from dataclasses import dataclass

_PREFIXES = {"eager": "eager ", "openvino": "OpenVINO ", "compiled": "torch.compile "}
KINDS = tuple(_PREFIXES)
"""The runtimes there are, by what trying them costs; the first is always available."""


def kind_of(runtime: str) -> str:
    """Return the kind of a runtime by what the provenance column says of it; an unknown one counts as eager."""
    return next((kind for kind, prefix in _PREFIXES.items() if runtime.startswith(prefix)), "eager")


@dataclass(frozen=True)
class Choice:
    """Which runtime computes one spec, and why.

    Parameters
    ----------
    backbone, spec_id : str
    kind : str
        One of `KINDS`.
    eager_seconds, seconds : float
        Per image, without any decoding; in eager PyTorch and in the chosen runtime.
    cold_seconds : float
        What building the chosen runtime took when it was not in the cache.
    pays_from : int or None
        Images from which on building it anew would be won back; None for eager PyTorch.
    notes : tuple of str
        Why others were not taken.
    """

    backbone: str
    spec_id: str
    kind: str
    eager_seconds: float
    seconds: float
    cold_seconds: float = 0.0
    pays_from: int | None = None
    notes: tuple[str, ...] = ()

    def sentence(self) -> str:
        """Say it to a person."""
        gain = self.eager_seconds / self.seconds
        pays = f"; {self.cold_seconds:.0f} s to build, pays from {self.pays_from} images" if self.pays_from else ""
        notes = f" ({'; '.join(self.notes)})" if self.notes else ""
        return f"{self.backbone}: {self.kind}, {1 / self.seconds:.1f} images/s, {gain:.2f} x eager{pays}{notes}"
