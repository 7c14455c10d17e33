"""A conditionally trained head's scores are unconditional, wherever the weights go."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from classifiers.cnn.hierarchy import ancestors, unconditional
from featurestore.backbones.importing import import_file
from featurestore.backbones.network import Network, fingerprint, load_network, run_batch
from featurestore.backbones.weights import WeightsRequest
from featurestore.backbones.weights_checksum import fingerprint_of_file
from featurestore.backbones.weights_file import make_head, pack
from featurestore.errors import UsageError
from tests.tiny import SECOND

LABELS = ["Lung Opacity", "Consolidation", "Pneumonia", "Fracture"]


@pytest.fixture
def network() -> Network:
    """Return a network with a head of four labels and the text's hierarchy."""
    found = load_network(SECOND, WeightsRequest("random")).network
    weight = torch.randn(4, SECOND.n_features, generator=torch.Generator().manual_seed(0))
    found.head, found.labels = make_head(weight, torch.zeros(4)), LABELS
    found.ancestors = ancestors(LABELS, "text")
    return found


def _packed(network: Network) -> bytes:
    return pack(network.features.state_dict(), network.head, LABELS, {"variant": "timm"}, network.ancestors)


def test_ancestors_are_those_of_the_hierarchy() -> None:
    above = {"Consolidation": ["Lung Opacity"], "Pneumonia": ["Consolidation", "Lung Opacity"]}
    assert ancestors(LABELS, "text") == above
    assert ancestors(["Fracture"], "code") == {}


def test_scores_are_products_along_the_path(network: Network) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype(np.uint8)
    found = run_batch(network, grey, torch.device("cpu"))[1]
    network.ancestors = {}
    conditional = run_batch(network, grey, torch.device("cpu"))[1]
    np.testing.assert_allclose(found, unconditional(conditional, LABELS, "text"), rtol=1e-6)
    assert not np.allclose(found, conditional)


def test_the_file_carries_them_and_they_are_part_of_its_sum(network: Network, tmp_path) -> None:
    path = tmp_path / "second.safetensors"
    path.write_bytes(_packed(network))
    loaded = load_network(SECOND, WeightsRequest("file", path=str(path), given="second"))
    assert loaded.network.ancestors == network.ancestors
    assert import_file(SECOND, path).network.ancestors == network.ancestors
    assert loaded.sha256 == fingerprint_of_file(path.read_bytes())
    assert loaded.sha256 != fingerprint(network.state_dict(), LABELS)


def test_an_ancestor_that_the_head_lacks_is_refused(network: Network, tmp_path) -> None:
    network.ancestors = {"Pneumonia": ["Edema"]}
    path = tmp_path / "second.safetensors"
    path.write_bytes(_packed(network))
    with pytest.raises(UsageError, match="metadata 'ancestors' names Edema, which the head lacks"):
        load_network(SECOND, WeightsRequest("file", path=str(path), given="second"))
