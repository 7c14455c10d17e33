"""Weights files against their names, without torch; torch's own sum is the measure."""

from __future__ import annotations

import json

import pytest
import torch

from featurestore.backbones.network import Network, fingerprint, load_network
from featurestore.backbones.register_network import register_network
from featurestore.backbones.weights import WeightsRequest
from featurestore.backbones.weights_checksum import damaged_weights, fingerprint_of_file
from featurestore.backbones.weights_file import make_head, pack
from featurestore.store import Store
from tests.tiny import SECOND, TINY


def _network(spec=TINY, *, with_head: bool) -> Network:
    network = load_network(spec, WeightsRequest("random", seed=1)).network
    if with_head:
        weight = torch.linspace(-1, 1, 2 * spec.n_features).reshape(2, -1)
        network.head, network.labels = make_head(weight, torch.tensor([0.5, -0.5])), ["Edema", "Ödem"]
    return network


def _pack(network: Network) -> bytes:
    return pack(network.features.state_dict(), network.head, network.labels, {"variant": "timm"})


@pytest.mark.parametrize("spec", [TINY, SECOND], ids=lambda spec: spec.name)
@pytest.mark.parametrize("with_head", [True, False])
def test_the_sum_is_torchs(spec, with_head):
    network = _network(spec, with_head=with_head)
    assert fingerprint_of_file(_pack(network)) == fingerprint(network.state_dict(), network.labels)


def test_every_type_of_number_is_known():
    types = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64")
    state = {name: torch.ones(3, 2, dtype=getattr(torch, name)) for name in types}
    named = {f"features.{name}": tensor for name, tensor in state.items()}
    assert fingerprint_of_file(pack(state, None, [], {})) == fingerprint(named)


def test_another_label_is_another_sum():
    content = _pack(_network(with_head=True))
    changed = content.replace(b"Edema", b"Odema")
    assert changed != content
    assert fingerprint_of_file(changed) != fingerprint_of_file(content)


def test_what_is_gone_cut_or_changed_is_damaged_and_the_rest_is_not(tmp_path):
    store = Store(tmp_path / "store")
    kept = register_network(store, _network(with_head=True), "kept", "a test")
    changed = register_network(store, _network(with_head=False), "changed", "a test")
    cut = register_network(store, _network(SECOND, with_head=False), "cut", "a test")
    assert damaged_weights(store.location, [kept.sha256]) == []
    path = tmp_path / "store" / changed.path
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (tmp_path / "store" / cut.path).write_bytes(json.dumps("no tensors").encode())
    found = {d.path: d.problem for d in damaged_weights(store.location, ["0" * 64, kept.sha256])}
    assert found.keys() == {f"_weights/{'0' * 64}.safetensors", changed.path, cut.path}
    assert "it is gone" in found[f"_weights/{'0' * 64}.safetensors"]
    assert found[changed.path].startswith(f"its content changed: SHA-256 {changed.sha256[:12]} became ")
    assert "no readable safetensors file" in found[cut.path]


@pytest.mark.parametrize("content", [b"", b"\x02\0\0\0\0\0\0\0[]", b"\x02\0\0\0\0\0\0\0{", b"\xff" * 20])
def test_any_bytes_are_an_answer(tmp_path, content):
    store = Store(tmp_path / "store")
    store.location.write_bytes(f"_weights/{'1' * 64}.safetensors", content)
    (found,) = damaged_weights(store.location)
    assert found.problem.startswith(("it is no readable safetensors file", "its content changed"))
