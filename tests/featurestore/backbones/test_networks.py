"""Every row of the catalogue against plain timm and NumPy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from featurestore.backbones.catalogue import CATALOGUE, BackboneSpec
from featurestore.backbones.network import fingerprint, load_network, run_batch
from featurestore.backbones.weights import WeightsRequest
from featurestore.errors import UsageError

pytestmark = pytest.mark.slow  # the whole of it; `make test` runs it, `make test-fast` does not

SIZE = 96
_PAPER = {
    "densenet121": 1024,
    "densenet169": 1664,
    "densenet201": 1920,
    "inception_resnet_v2": 1536,
    "xception": 2048,
    "vgg16": 512,
    "vgg19": 512,
}


def _grey(n: int = 3, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size), dtype=np.uint8)


def _plain_timm(spec: BackboneSpec, seed: int, grey: np.ndarray) -> np.ndarray:
    """Recompute embeddings with nothing of ours: plain timm, NumPy's own normalisation and pooling."""
    torch.manual_seed(seed)
    model = timm.create_model(spec.timm_name, pretrained=False, num_classes=0).eval()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    rgb = np.repeat(grey[:, None].astype(np.float64) / 255, 3, axis=1)
    normal = (rgb - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        maps = model.forward_features(torch.from_numpy(normal.astype(np.float32))).numpy()
    return maps.astype(np.float64).mean(axis=(2, 3))


def test_the_catalogue_is_the_papers() -> None:
    assert {name: spec.n_features for name, spec in CATALOGUE.items()} == _PAPER


@pytest.mark.parametrize("spec", CATALOGUE.values(), ids=lambda spec: spec.name)
def test_embeddings_equal_plain_timm(spec: BackboneSpec) -> None:
    grey = _grey()
    network = load_network(spec, WeightsRequest("random", seed=5)).network
    found, scores = run_batch(network, grey, torch.device("cpu"))
    expected = _plain_timm(spec, 5, grey)
    assert found.shape == (3, spec.n_features)
    assert found.dtype == np.float32
    assert scores is None
    assert np.abs(found - expected).max() / np.abs(expected).max() <= 1e-4
    # A tap that ignores the image would pass the comparison above only if both ignored it.
    assert np.abs(found[0] - found[1]).max() > 0


def test_random_weights_are_reproducible_and_leave_the_generator_alone() -> None:
    spec = CATALOGUE["densenet121"]
    torch.manual_seed(1)
    before = torch.rand(1)
    torch.manual_seed(1)
    first = load_network(spec, WeightsRequest("random", seed=3))
    assert torch.equal(torch.rand(1), before)
    again, other = (load_network(spec, WeightsRequest("random", seed=s)) for s in (3, 4))
    assert first.sha256 == again.sha256 != other.sha256
    assert "seed 3, untrained" in first.source


def test_fingerprint_sees_every_value_and_name() -> None:
    state = {"a": torch.zeros(2, 3), "b": torch.ones(2, dtype=torch.float64)}
    base = fingerprint(state)
    one_value = torch.zeros(2, 3)
    one_value[1, 2] = 1e-7
    changed = {"a": one_value, "b": state["b"]}
    assert fingerprint(dict(reversed(state.items()))) == base
    for other in (changed, {"a": state["a"].view(3, 2), "b": state["b"]}, {"c": state["a"], "b": state["b"]}):
        assert fingerprint(other) != base


def _saved(path: Path, *, drop: str | None = None, head: bool = True, nan: bool = False) -> Path:
    model = timm.create_model("densenet121", pretrained=False, num_classes=0)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items() if name != drop}
    if nan:
        state["features.conv0.weight"][0, 0, 0, 0] = float("nan")
    if head:
        state |= {"cxr_head.weight": torch.randn(2, 1024), "cxr_head.bias": torch.randn(2)}
    save_file(state, path, {"labels": json.dumps(["Edema", "Fracture"])})
    return path


def test_a_file_with_a_head_gives_probabilities(tmp_path: Path) -> None:
    path = _saved(tmp_path / "d.safetensors")
    network = load_network(CATALOGUE["densenet121"], WeightsRequest("file", path=str(path))).network
    embeddings, scores = run_batch(network, _grey(), torch.device("cpu"))
    assert network.labels == ["Edema", "Fracture"]
    assert network.head is not None
    logits = embeddings @ network.head.weight.numpy().T + network.head.bias.numpy()
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-6)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"drop": "features.conv0.weight"}, "lacks 1 tensors, first 'features.conv0.weight'"),
        ({"nan": True}, "NaN or infinite 1 tensors, first 'features.conv0.weight'"),
    ],
)
def test_a_file_that_does_not_fit_says_where(tmp_path: Path, kwargs: dict[str, object], words: str) -> None:
    path = _saved(tmp_path / "d.safetensors", **kwargs)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=words):
        load_network(CATALOGUE["densenet121"], WeightsRequest("file", path=str(path)))


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    path = _saved(tmp_path / "d.safetensors", head=False)
    with pytest.raises(UsageError, match="does not fit densenet169"):
        load_network(CATALOGUE["densenet169"], WeightsRequest("file", path=str(path)))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = _saved(tmp_path / "d.safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"d\.safetensors is not a readable safetensors file"):
        load_network(CATALOGUE["densenet121"], WeightsRequest("file", path=str(path)))


def test_imagenet_without_a_hub_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    words = r"densenet121 could not be fetched from timm's hub .*--weights PATH.*random:SEED"
    with pytest.raises(UsageError, match=words):
        load_network(CATALOGUE["densenet121"], WeightsRequest("imagenet"))
