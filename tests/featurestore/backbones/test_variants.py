"""Networks that are not plain timm: one channel, other ranges, a module of one's own, what cannot be built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from featurestore.backbones.catalogue import BackboneSpec, parse_backbones
from featurestore.backbones.network import load_network, run_batch
from featurestore.backbones.variants import build
from featurestore.backbones.weights import WeightsRequest
from featurestore.errors import UsageError

RANDOM = WeightsRequest("random")
ONE = BackboneSpec("one", "test_byobnet", 256, in_chans=1, pixel_range=(-1024.0, 1024.0), mean=(0.0,), std=(1.0,))
OWN = """
import torch
from featurestore.backbones.catalogue import BackboneSpec


class Edges(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 7, 3)

    def forward_features(self, x):
        return self.conv(x)


OWN = BackboneSpec("own", "own_network:Edges", 7)
WRONG = BackboneSpec("wrong", "own_network:torch", 7)
"""


def test_black_and_white_become_the_ends_of_the_range() -> None:
    network = load_network(ONE, RANDOM).network
    grey = torch.tensor([[[0, 255], [51, 102]]], dtype=torch.uint8)
    expected = torch.tensor([[[[-1024.0, 1024.0], [-614.4, -204.8]]]])
    torch.testing.assert_close(network.normalise(grey), expected, rtol=0, atol=1e-3)


def test_a_network_of_one_channel_runs() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (2, 32, 32), dtype=np.uint8)
    embeddings, _ = run_batch(load_network(ONE, RANDOM).network, grey, torch.device("cpu"))
    assert embeddings.shape == (2, 256)
    assert np.abs(embeddings[0] - embeddings[1]).max() > 0


def test_a_module_of_ones_own_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_network.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    own, wrong = parse_backbones("own_network:OWN,own_network:WRONG")
    network = load_network(own, RANDOM).network
    grey = torch.randint(0, 256, (2, 9, 9), dtype=torch.uint8)
    assert isinstance(network.features.conv, nn.Conv2d)
    torch.testing.assert_close(network(grey)[0], network.features.conv(network.normalise(grey)).mean((2, 3)))
    assert load_network(own, RANDOM).sha256 == load_network(own, RANDOM).sha256
    with pytest.raises(UsageError, match=r"gives a module; expected a torch\.nn\.Module with forward_features"):
        build(wrong)
    with pytest.raises(UsageError, match="no ImageNet weights for 'own_network:Edges' of backbone 'own'"):
        load_network(own, WeightsRequest("imagenet"))


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(UsageError, match=r"'mine': timm .* has no model 'densenet999'; see timm.list_models"):
        build(BackboneSpec("mine", "densenet999", 1))
