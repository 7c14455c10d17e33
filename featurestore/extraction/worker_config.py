"""How to build a worker: small, picklable and without torch, so that a driver can send it."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.backbones.catalogue import BackboneSpec
from featurestore.backbones.weights import WeightsRequest


@dataclass(frozen=True)
class WorkerConfig:
    """How to build an `Extractor`; small and picklable.

    Parameters
    ----------
    store_uri, run_id : str
    backbones : tuple of (BackboneSpec, WeightsRequest, expected sha256, spec_id)
    preprocess : str
    size : int
        Pixels, both sides.
    precision : str
        Of the forward pass: ``float32``, ``float16`` or ``bfloat16``; pooling is always float32.
    runtimes : tuple of (spec_id, kind)
        What computes a spec (`featurestore.backbones.runtimes.KINDS`); eager PyTorch where nothing is said.
    batch_images : int
        Images that go through a network at once; 0 lets the device decide.
    threads : int
        Threads of torch on the CPU.
    decode_threads : int
    """

    store_uri: str
    run_id: str
    backbones: tuple[tuple[BackboneSpec, WeightsRequest, str, str], ...]
    preprocess: str
    size: int
    precision: str = "float32"
    runtimes: tuple[tuple[str, str], ...] = ()
    batch_images: int = 0
    threads: int = 1
    decode_threads: int = 1
