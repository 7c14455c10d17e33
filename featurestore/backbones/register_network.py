"""A network in torch put into the registry. Imports torch; the registry itself does not."""

from __future__ import annotations

import pyarrow as pa

from featurestore.backbones.network import Network, fingerprint
from featurestore.backbones.registry import RegisteredWeights, register
from featurestore.backbones.weights_file import pack
from featurestore.store import Store


def register_network(
    store: Store,
    network: Network,
    name: str,
    source: str,
    *,
    licence: str | None = None,
    preprocess: str | None = None,
    sources: pa.Table | None = None,
) -> RegisteredWeights:
    """Put a network's weights, with its head where it has one, into the store under a name.

    Parameters
    ----------
    store : Store
    network : Network
        Its spec says backbone and variant.
    name : str
        ``[a-z0-9_]+``.
    source : str
        For a person: where the weights came from.
    licence : str, optional
    preprocess : str, optional
        What images went through in training, for a person: ``bilinear-v1 at 224 px``.
    sources : pyarrow.Table, optional
        Hashes of training images and patients.

    Raises
    ------
    UsageError
        If the name cannot be, or stands for other weights of this backbone.
    """
    spec = network.spec
    sha256 = fingerprint(network.state_dict(), network.labels, network.ancestors)
    weights = RegisteredWeights(
        name, spec.name, spec.variant, sha256, network.labels, source, licence=licence, preprocess=preprocess
    )
    metadata = {"backbone": spec.name, "variant": spec.variant, "sha256": sha256}
    content = pack(network.features.state_dict(), network.head, network.labels, metadata, network.ancestors)
    return register(store, weights, content, sources)
