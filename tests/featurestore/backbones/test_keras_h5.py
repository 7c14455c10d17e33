"""Keras' HDF5 files: both namings, what is wrong with one in words, and tensors where they belong.

The files are written here with h5py, so that this runs without Keras; tests/parity compares with Keras itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from featurestore.backbones.catalogue import CATALOGUE, FURTHER
from featurestore.backbones.importing import Imported, import_file
from featurestore.backbones.keras_h5 import read_keras
from featurestore.backbones.keras_layers import keras_names, parts
from featurestore.backbones.variants import build
from featurestore.errors import UsageError
from featurestore.images.sources.labels import CHEXPERT_LABELS

pytestmark = pytest.mark.slow

SPEC = CATALOGUE["densenet121"]
Layers = dict[str, dict[str, np.ndarray]]


def _write(path: Path, layers: Layers, *, suffix: str = "", config: dict[str, object] | None = None) -> Path:
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = [name.encode() for name in layers]
        if config:
            file.attrs["model_config"] = json.dumps(config)
        for name, weights in layers.items():
            group = root.create_group(name)
            group.attrs["weight_names"] = [f"{name}/{variable}{suffix}".encode() for variable in weights]
            for variable, values in weights.items():
                group[f"{name}/{variable}{suffix}"] = values
    return path


@pytest.fixture(scope="module")
def densenet() -> Layers:
    """Return the layers of a DenseNet121 with a head of 14, each weight filled with a number of its own."""
    model, layers = build(SPEC), Layers()
    names = keras_names(SPEC, model, [])
    for k, (part, module) in enumerate(parts(model)):
        if isinstance(module, torch.nn.Conv2d):
            out, inputs, height, width = module.weight.shape
            layers[names[part]] = {"kernel": np.full((height, width, inputs, out), k, np.float32)}
        else:
            n = module.weight.shape[0]
            variables = ("gamma", "beta", "moving_mean", "moving_variance")
            layers[names[part]] = {v: np.full(n, k + i / 4, np.float32) for i, v in enumerate(variables)}
    layers["dense"] = {"kernel": np.zeros((1024, 14), np.float32), "bias": np.arange(14, dtype=np.float32)}
    return layers


@pytest.mark.parametrize(("suffix", "first"), [("", "conv1_conv"), (":0", "conv1/conv")], ids=["keras3", "keras2"])
def test_every_weight_goes_where_it_belongs(densenet: Layers, tmp_path: Path, suffix: str, first: str) -> None:
    layers = {first if name == "conv1_conv" else name: weights for name, weights in densenet.items()}
    network = import_file(SPEC, _write(tmp_path / "d.hdf5", layers, suffix=suffix)).network
    state = network.features.state_dict()
    for k, (part, module) in enumerate(parts(network.features)):
        found = [
            state[f"{part}.{name}"]
            for name in ("weight", "bias", "running_mean", "running_var")
            if f"{part}.{name}" in state
        ]
        assert [float(t.flatten()[0]) for t in found] == [k + i / 4 for i in range(len(found))]
        assert len(found) == (1 if isinstance(module, torch.nn.Conv2d) else 4)
    assert network.spec.variant == "keras"
    assert {m.eps for m in network.features.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1.001e-5}
    assert network.labels == list(CHEXPERT_LABELS)
    assert network.head is not None
    assert network.head.bias.tolist() == list(range(14))


def test_kernels_are_turned_and_not_only_reshaped(densenet: Layers, tmp_path: Path) -> None:
    kernel = np.random.default_rng(0).normal(size=(7, 7, 3, 64)).astype(np.float32)
    dense = np.random.default_rng(1).normal(size=(1024, 14)).astype(np.float32)
    layers = densenet | {"conv1_conv": {"kernel": kernel}, "dense": densenet["dense"] | {"kernel": dense}}
    network = import_file(SPEC, _write(tmp_path / "d.hdf5", layers)).network
    weight = network.features.state_dict()["features.conv0.weight"].numpy()
    assert weight[5, 1, 2, 6] == kernel[2, 6, 1, 5]
    assert network.head is not None
    assert network.head.weight.detach().numpy()[3, 700] == dense[700, 3]


def _nest(layers: Layers, path: Path) -> Path:
    """Write a model whose features are one layer: a network put into another."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"densenet121", b"pool", b"dense"]
        for name in ("densenet121", "pool", "dense"):
            file.create_group(name)
        inner = {f"{layer}/{v}:0": values for layer, w in layers.items() if layer != "dense" for v, values in w.items()}
        names = np.asarray([name.encode() for name in inner])
        for k, part in enumerate(np.array_split(names, 3)):  # too many for one attribute
            file["densenet121"].attrs[f"weight_names{k}"] = part
        for name, values in inner.items():
            file["densenet121"][name] = values
        file["pool"].attrs["weight_names"] = np.asarray([], "S1")
        file["dense"].attrs["weight_names"] = [b"dense/kernel:0", b"dense/bias:0"]
        for variable, values in layers["dense"].items():
            file["dense"][f"dense/{variable}:0"] = values
    return path


def test_a_network_inside_a_network_and_weights_without_a_model(densenet: Layers, tmp_path: Path) -> None:
    flat = import_file(SPEC, _write(tmp_path / "flat.h5", densenet)).network.state_dict()
    nested = import_file(SPEC, _nest(densenet, tmp_path / "nested.h5")).network.state_dict()
    assert flat.keys() == nested.keys()
    assert all(torch.equal(flat[name], nested[name]) for name in flat)


def test_counted_layers_are_taken_by_number_wherever_it_starts() -> None:
    spec = CATALOGUE["xception"]
    model = build(spec)
    layers = ["conv2d_101", "batch_normalization_8", "conv2d_99", "conv2d_100", "conv2d_98", "batch_normalization_11"]
    names = keras_names(spec, model, [*layers, "batch_normalization_10", "batch_normalization_9"])
    assert [names[f"block{k}.skip"] for k in (1, 2, 3, 12)] == ["conv2d_98", "conv2d_99", "conv2d_100", "conv2d_101"]
    norms = [f"batch_normalization_{k}" for k in (8, 9, 10, 11)]
    assert [names[f"block{k}.skipbn"] for k in (1, 2, 3, 12)] == norms


def _without(layers: Layers, name: str) -> Layers:
    return {layer: weights for layer, weights in layers.items() if layer != name}


WRONG: dict[str, tuple[Callable[[Layers], Layers], str]] = {
    "shape": (
        lambda d: d | {"pool3_bn": {v: np.zeros(640, np.float32) for v in d["pool3_bn"]}},
        r"does not fit densenet121: layer 'pool3_bn': 'gamma' has shape \(640,\), expected \(512,\) \(3 more differ\)",
    ),
    "kernel": (
        lambda d: d | {"pool2_conv": {"kernel": np.zeros((1, 1, 256, 64), np.float32)}},
        r"layer 'pool2_conv': 'kernel' has shape \(1, 1, 256, 64\), expected \(1, 1, 256, 128\)$",
    ),
    "missing": (lambda d: _without(d, "conv5_block16_2_conv"), "layer 'conv5_block16_2_conv' is missing$"),
    "bias": (
        lambda d: d | {"conv1_conv": d["conv1_conv"] | {"bias": np.zeros(64)}},
        r"layer 'conv1_conv' has a weight 'bias' of shape \(64,\), expected none",
    ),
    "no-mean": (
        lambda d: d | {"bn": {v: w for v, w in d["bn"].items() if v != "moving_mean"}},
        "layer 'bn' lacks the weight 'moving_mean'",
    ),
    "deeper": (
        lambda d: d | {"conv5_block17_0_bn": d["bn"]},
        "layer 'conv5_block17_0_bn' has no place in it",
    ),
    "nan": (
        lambda d: d | {"bn": d["bn"] | {"beta": np.full(1024, np.nan)}},
        "layer 'bn': 'beta' holds NaN or infinite numbers",
    ),
    "nan-head": (
        lambda d: d | {"dense": d["dense"] | {"bias": np.full(14, np.inf)}},
        "its head of 14 outputs holds NaN",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "words"), WRONG.values(), ids=WRONG)
def test_a_file_that_does_not_fit_names_the_layer(
    densenet: Layers, tmp_path: Path, change: Callable[[Layers], Layers], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        import_file(SPEC, _write(tmp_path / "d.h5", change(densenet)))


def _imported(densenet: Layers, folder: Path, outputs: int, labels: list[str] | None, activation: str) -> Imported:
    dense = {"kernel": np.zeros((1024, outputs), np.float32), "bias": np.zeros(outputs, np.float32)}
    layer = {"class_name": "Dense", "config": {"name": "dense", "activation": activation}}
    config = {"class_name": "Functional", "config": {"layers": [layer]}}
    return import_file(SPEC, _write(folder / "d.h5", densenet | {"dense": dense}, config=config), labels)


def test_a_head_needs_names(densenet: Layers, tmp_path: Path) -> None:
    assert _imported(densenet, tmp_path, 2, ["a", "b"], "sigmoid").network.labels == ["a", "b"]
    left = _imported(densenet, tmp_path, 2, None, "sigmoid")
    assert left.network.head is None
    assert "left out its head of 2 outputs, whose labels are unknown; --labels" in left.notes[0]
    assert "CheXpert's labels in order" in _imported(densenet, tmp_path, 14, None, "sigmoid").notes[0]
    for labels in (["a"], ["a", "a"]):
        with pytest.raises(UsageError, match="head of 2 outputs; --labels names 1: name each once"):
            _imported(densenet, tmp_path, 2, labels, "sigmoid")


def test_a_softmax_is_no_head_here(densenet: Layers, tmp_path: Path) -> None:
    left = _imported(densenet, tmp_path, 14, None, "softmax")
    assert left.network.head is None
    assert left.notes == ["left out dense (1024, 14): its activation is softmax, a head here is a sigmoid"]
    with pytest.raises(UsageError, match=r"no head that --labels could name .*softmax"):
        _imported(densenet, tmp_path, 2, ["a", "b"], "softmax")


def test_batch_norms_without_scale_keep_one(tmp_path: Path) -> None:
    spec = CATALOGUE["inception_resnet_v2"]
    model = build(spec)
    counted = [f"{kind}_{k}" for kind in ("conv2d", "batch_normalization") for k in range(1, 210)]
    names, layers = keras_names(spec, model, counted), Layers()
    for part, module in parts(model):
        if isinstance(module, torch.nn.Conv2d):
            out, inputs, height, width = module.weight.shape
            layers[names[part]] = {"kernel": np.full((height, width, inputs, out), 0.5, np.float32)}
            layers[names[part]] |= {} if module.bias is None else {"bias": np.zeros(out, np.float32)}
        else:
            n = module.weight.shape[0]
            layers[names[part]] = {v: np.full(n, 0.5, np.float32) for v in ("beta", "moving_mean", "moving_variance")}
    network = import_file(spec, _write(tmp_path / "i.h5", layers)).network
    norms = [m for m in network.features.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(bool((norm.weight == 1).all()) and bool((norm.bias == 0.5).all()) for norm in norms)
    assert network.head is None


def test_damaged_and_foreign_files_are_refused_in_a_sentence(densenet: Layers, tmp_path: Path) -> None:
    whole = _write(tmp_path / "d.h5", densenet)
    content = whole.read_bytes()
    for name, part, words in (
        ("half.h5", content[: len(content) // 2], r"half\.h5 is damaged or cut off, HDF5 cannot read it"),
        ("header.h5", content[:40], r"header\.h5 is damaged or cut off"),
        ("text.hdf5", b"<html>not found</html>", r"text\.hdf5 is no HDF5 file \(it starts with b'<htm'\)"),
        ("empty.hdf5", b"", r"empty\.hdf5 is no HDF5 file"),
        ("model.keras", b"PK", r"model\.keras: files of weights end in \.hdf5"),
    ):
        (tmp_path / name).write_bytes(part)
        with pytest.raises(UsageError, match=words):
            import_file(SPEC, tmp_path / name)
    with pytest.raises(UsageError, match=r"no file .*nowhere\.h5"):
        import_file(SPEC, tmp_path / "nowhere.h5")


def test_hdf5_of_another_kind_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "new.weights.h5", "w") as file:
        file.create_group("layers/conv2d/vars")["0"] = np.zeros(1)
    with pytest.raises(UsageError, match=r"Keras 3's \.weights\.h5, which does not name its layers; expected a model"):
        read_keras(tmp_path / "new.weights.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros(1)
    with pytest.raises(UsageError, match="no attribute 'layer_names'"):
        read_keras(tmp_path / "other.h5")


def test_networks_that_keras_does_not_have_are_refused(densenet: Layers, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no Keras variant of efficientnet_lite0; there is of densenet121"):
        import_file(FURTHER["efficientnet_lite0"], _write(tmp_path / "d.h5", densenet))
