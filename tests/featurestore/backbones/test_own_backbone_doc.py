"""docs/own-backbone.md does what it says."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from featurestore.backbones.catalogue import BackboneSpec, parse_backbones
from featurestore.backbones.importing import import_file

pytestmark = pytest.mark.slow

DOC = Path(__file__).resolve().parents[3] / "docs" / "own-backbone.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the page's two modules into a working folder."""
    spec, script = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "doc_backbones.py").write_text(spec)
    (tmp_path / "convert_chex.py").write_text(script)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def spec(folder: Path) -> BackboneSpec:
    return parse_backbones("doc_backbones:CHEX")[0]


def _one_channel_densenet() -> nn.Module:
    """Return what torchxrayvision's DenseNet is built like: torchvision's with one channel and 18 outputs."""
    torch.manual_seed(0)
    model = torchvision.models.densenet121(weights=None, num_classes=18)
    model.features.conv0 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def test_the_worked_example_computes_what_the_original_does(folder: Path, spec: BackboneSpec) -> None:
    model = _one_channel_densenet()
    pathologies = [f"finding {k}" if k % 3 else "" for k in range(18)]
    runpy.run_path(str(folder / "convert_chex.py"))["convert"](model, pathologies, folder / "chex.safetensors")
    network = import_file(spec, folder / "chex.safetensors").network
    grey = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 64, 64), dtype=np.uint8))
    with torch.inference_mode():
        embeddings, scores = network(grey)
        # torchxrayvision's own formula of its range.
        pixels = (2 * (grey[:, None].float() / 255) - 1) * 1024
        maps = torch.relu(model.features(pixels))
        logits = model.classifier(maps.mean((2, 3)))
    torch.testing.assert_close(embeddings, maps.mean((2, 3)), rtol=1e-4, atol=1e-4)
    named = [k for k in range(18) if k % 3]
    torch.testing.assert_close(scores, torch.sigmoid(logits[:, named]), rtol=1e-4, atol=1e-5)
    assert network.labels == [f"finding {k}" for k in named]


def test_the_real_package_fits(folder: Path, spec: BackboneSpec) -> None:
    package = pytest.importorskip("torchxrayvision", reason="torchxrayvision is not installed")
    model = package.models.DenseNet(num_classes=18, in_channels=1)
    path = folder / "chex.safetensors"
    runpy.run_path(str(folder / "convert_chex.py"))["convert"](model, [f"f{k}" for k in range(18)], path)
    assert len(import_file(spec, path).network.labels) == 18
